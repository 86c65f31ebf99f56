"""Arithmetic on arrays and trees of them, in float32 or wider.

NaN stands for what was not measured, and an infinite size for the largest one.
JAX's `jax_debug_nans` and `jax_debug_infs` raise where a program returns them:
while one of the two is on, −1 and the largest number stand for them. The flags
are read when a program is traced.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

LARGEST = 2**31 - 1
"""The largest size, and the largest count."""


def accumulator_dtype(x: Any) -> jnp.dtype:
  """The dtype in which to sum values like `x`: at least float32."""
  return common_dtype(x)


def common_dtype(*xs: Any) -> jnp.dtype:
  """The dtype of all values together, at least float32.

  Whatever `jax_numpy_dtype_promotion` forbids: what is cast to it is cast by
  intent.
  """
  with jax.numpy_dtype_promotion('standard'):
    return jnp.result_type(*xs, jnp.float32)


def real_dtype(x: Any) -> jnp.dtype:
  """The dtype in which to sum |x|²: real, and at least float32."""
  return jnp.finfo(accumulator_dtype(x)).dtype


def abs_sq(x: jax.Array) -> jax.Array:
  """|x|² in `real_dtype`."""
  x = jnp.asarray(x, accumulator_dtype(x))
  return jnp.real(x * jnp.conj(x))


def saturating_add(
  count: jax.Array, increment: jax.typing.ArrayLike
) -> jax.Array:
  """count + increment in int32, which stays at the largest integer."""
  return count + jnp.minimum(saturating_int(increment), LARGEST - count)


def saturating_int(x: jax.typing.ArrayLike) -> jax.Array:
  """A whole number in int32, exact; the nearest one where it is beyond."""
  if isinstance(x, int | np.integer):
    return jnp.asarray(max(min(int(x), LARGEST), -LARGEST), jnp.int32)
  x = jnp.asarray(x)
  if jnp.issubdtype(x.dtype, jnp.integer):
    largest = min(jnp.iinfo(x.dtype).max, LARGEST)
    smallest = max(jnp.iinfo(x.dtype).min, -LARGEST)
    return jnp.clip(x, smallest, largest).astype(jnp.int32)
  x = x.astype(accumulator_dtype(x))
  within = jnp.abs(x) < 2.0**31
  beyond = jnp.where(x > 0, LARGEST, -LARGEST).astype(jnp.int32)
  return jnp.where(within, jnp.where(within, x, 0).astype(jnp.int32), beyond)


def divide(x: jax.Array, count: jax.typing.ArrayLike) -> jax.Array:
  """x / count in the dtype of x, for a count of any type."""
  return x / jnp.asarray(count, x.dtype)


def is_debugging() -> bool:
  """Whether a program that returns NaN or infinity raises."""
  return bool(jax.config.jax_debug_nans or jax.config.jax_debug_infs)


def missing() -> float:
  """Stands for a number ≥ 0 that there is none of: NaN, or −1 to debug."""
  return -1.0 if is_debugging() else float('nan')


def beyond(dtype: Any) -> jax.typing.ArrayLike:
  """Stands for infinity in a dtype: ∞, or the largest number to debug."""
  return jnp.finfo(dtype).max if is_debugging() else jnp.inf


def is_missing(x: jax.typing.ArrayLike) -> jax.Array:
  """Whether there is no number ≥ 0, however that was said."""
  return ~(jnp.asarray(x) >= 0)


def returnable(x: jax.Array) -> jax.Array:
  """x ≥ 0 or missing, as a program may return it: to debug without NaN or ∞."""
  if not is_debugging():
    return x
  x = jnp.where(is_missing(x), missing(), x)
  return jnp.minimum(x, jnp.finfo(x.dtype).max)


def total(tree: Any) -> jax.Array:
  """The sum over all elements of all tensors. []."""
  return optax.tree.sum(jax.tree.map(jnp.sum, tree))


def squared_norm(tree: optax.Updates) -> jax.Array:
  """‖x‖² over all tensors, in float32 or wider. []."""
  return total(jax.tree.map(abs_sq, tree))


def scale(factor: jax.Array, updates: optax.Updates) -> optax.Updates:
  """factor · updates in the dtypes of updates."""

  def scaled(u):
    dtype = common_dtype(u, factor)
    return (jnp.asarray(factor, dtype) * u.astype(dtype)).astype(u.dtype)

  return jax.tree.map(scaled, updates)


def all_finite(tree: Any) -> jax.Array:
  """Whether every number in the tree is finite. [] bool."""
  return jax.tree.reduce(
    lambda finite, x: finite & jnp.all(jnp.isfinite(x)),
    [
      leaf
      for leaf in jax.tree.leaves(tree)
      if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
    ],
    jnp.bool_(True),
  )


def map_present(function: Callable[..., Any], tree: Any, *rest: Any) -> Any:
  """Like `jax.tree.map`, but None in `tree` stays None."""
  return jax.tree.map(
    lambda x, *others: None if x is None else function(x, *others),
    tree,
    *rest,
    is_leaf=lambda x: x is None,
  )
