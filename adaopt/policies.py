"""Policies: from the current batch size and the required one to the next.

`adapt_batch_size` rounds what they return up, clips it to its bounds, and does
not ask them without evidence. `jnp.maximum`, its default, grows to what is
required.
"""

import jax
import jax.numpy as jnp

from adaopt import base, checks


def _check_factor(factor):
  checks.check_positive(factor=factor)
  if checks.is_concrete(factor) and not factor > 1:
    raise ValueError(f'factor must be above 1 and finite, got {factor}.')


def follow(current: jax.Array, required: jax.Array) -> jax.Array:
  """Goes where the criterion says, up and down.

  The bounds of `adapt_batch_size` clip it to [init_value, max_value]. As it can
  shrink, a test is due at the largest size too.

  Args:
    current: The current batch size. [].
    required: The required one. [].

  Returns:
    required.

  Example:
    >>> import adaopt
    >>> print(adaopt.follow(64, 12.0))
    12.0
  """
  del current
  return required


def capped_growth(factor: jax.typing.ArrayLike) -> base.Policy:
  """Grows to what is required, by at most `factor` at once.

  Args:
    factor: The largest ratio of two successive batch sizes, > 1.

  Returns:
    A policy, min(max(current, required), factor · current).

  Raises:
    ValueError: If factor is not above 1 and finite.

  Example:
    >>> import adaopt
    >>> print(adaopt.capped_growth(4.0)(8, 1000.0))
    32.0
  """
  _check_factor(factor)

  def policy(current, required):
    return jnp.minimum(jnp.maximum(current, required), factor * current)

  return policy


def geometric_growth(factor: jax.typing.ArrayLike) -> base.Policy:
  """Grows by a factor while a test fails, however much it asks for.

  Args:
    factor: The ratio of two successive batch sizes, > 1.

  Returns:
    A policy, factor · current where required > current, and else current.

  Raises:
    ValueError: If factor is not above 1 and finite.

  Example:
    >>> import adaopt
    >>> grow = adaopt.geometric_growth(1.5)
    >>> print(grow(8, 1000.0), grow(8, 7.0))
    12.0 8.0

  References:
    De et al., `Big Batch SGD: Automated Inference using Adaptive Batch Sizes
    <https://arxiv.org/abs/1610.05792>`_, 2016
  """
  _check_factor(factor)

  def policy(current, required):
    return jnp.where(required > current, factor * current, current)

  return policy
