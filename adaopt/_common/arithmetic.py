"""Arithmetic on arrays and trees of them, in float32 or wider."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax


def accumulator_dtype(x: Any) -> jnp.dtype:
  """The dtype in which to sum values like `x`: at least float32."""
  return jnp.promote_types(jnp.result_type(x), jnp.float32)


def real_dtype(x: Any) -> jnp.dtype:
  """The dtype in which to sum |x|²: real, and at least float32."""
  return jnp.finfo(accumulator_dtype(x)).dtype


def abs_sq(x: jax.Array) -> jax.Array:
  """|x|² in `real_dtype`."""
  x = jnp.asarray(x, accumulator_dtype(x))
  return jnp.real(x * jnp.conj(x))


def saturating_add(count: jax.Array, increment: jax.Array) -> jax.Array:
  """count + increment in int32, which stays at the largest integer."""
  room = jnp.iinfo(jnp.int32).max - count
  return count + jnp.minimum(increment, room).astype(jnp.int32)


def total(tree: Any) -> jax.Array:
  """The sum over all elements of all tensors. []."""
  return optax.tree.sum(jax.tree.map(jnp.sum, tree))


def squared_norm(tree: optax.Updates) -> jax.Array:
  """‖x‖² over all tensors, in float32 or wider. []."""
  return total(jax.tree.map(abs_sq, tree))


def scale(factor: jax.Array, updates: optax.Updates) -> optax.Updates:
  """factor · updates in the dtypes of updates."""
  return jax.tree.map(lambda u: (factor * u).astype(u.dtype), updates)


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
