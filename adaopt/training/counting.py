"""Weights of examples, such as numbers of tokens, counted over a run."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def nothing() -> jax.Array:
  """The total of no weights, [2]: a number and what rounding took from it."""
  return jnp.zeros([2], float)


def added(total: jax.Array, weight: jax.Array) -> jax.Array:
  """A total and a weight more; one that is not finite is left out.

  The number is the rounded sum, and its error goes to the rest: together they
  are as exact as a float of twice the length, for whole numbers in float32 up
  to 2⁴⁷ and more.

  Args:
    total: As from `nothing`, [2].
    weight: w, [].

  Returns:
    The total, [2].

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt.training import counting
    >>> total = counting.nothing()
    >>> for weight in (2.0**30, 1.0, 2.0):
    ...   total = counting.added(total, jnp.float32(weight))
    >>> print(counting.value(total) - 2**30)
    3.0

  References:
    Knuth, The Art of Computer Programming, volume 2, section 4.2.2
  """
  number, rest = total
  weight = weight.astype(total.dtype)
  weight = jnp.where(jnp.isfinite(weight), weight, 0)
  high, error = _sum(number, weight)
  return jnp.stack(_sum(high, rest + error))


def _sum(a, b):
  """a + b as it is rounded, and the error of that."""
  total = a + b
  part = total - a
  return total, (a - (total - part)) + (b - part)


def value(total: Any) -> float:
  """The total as a number of the host."""
  return float(np.sum(np.asarray(jax.device_get(total), np.float64)))
