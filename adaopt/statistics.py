"""Sums over samples that merge by addition and finish into statistics.

A sample is one example, or a group of `group_size` examples whose gradients
are averaged. The sums of two micro-batches add up to the sums of their union,
so that exact statistics never need more than one micro-batch in memory.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from adaopt import base


class GradientSums(NamedTuple):
  """Sums over J samples with mean gradients g_j."""

  count: jax.Array  # J, [] int32
  value: jax.Array  # Σ loss, [] float32 or wider
  aux: Any  # Σ aux, float32 or wider
  gradient: optax.Updates  # Σ g_j, like params, float32 or wider
  squares: optax.Updates | None  # Σ |g_j|² like params, or Σ ‖g_j‖² per tensor


def accumulator_dtype(x: Any) -> jnp.dtype:
  """The dtype to sum values like `x` in: its own, but at least float32."""
  return jnp.promote_types(jnp.result_type(x), jnp.float32)


def abs_sq(x: jax.Array) -> jax.Array:
  """|x|² in the real accumulator dtype of `x`."""
  x = jnp.asarray(x, accumulator_dtype(x))
  return jnp.real(x * jnp.conj(x))


def saturating_add(count: jax.Array, increment: jax.Array) -> jax.Array:
  """count + increment in int32, which stays at its maximum when there."""
  room = jnp.iinfo(jnp.int32).max - count
  return count + jnp.minimum(increment, room).astype(jnp.int32)


def merge(a: Any, b: Any) -> Any:
  """The sums of the union of two disjoint sets of samples."""
  return jax.tree.map(jnp.add, a, b)


def zeros(sums: Any) -> Any:
  """The neutral element of `merge`, from sums or from their shapes."""
  return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), sums)


def means(sums: GradientSums) -> GradientSums:
  """The sums divided by the number of samples, which stays."""
  divided = jax.tree.map(lambda x: x / sums.count, sums._replace(count=None))
  return divided._replace(count=sums.count)


def total(tree: Any) -> jax.Array:
  """The sum over all elements of all tensors. []."""
  return optax.tree.sum(jax.tree.map(jnp.sum, tree))


def squared_norm(tree: optax.Updates) -> jax.Array:
  """‖x‖² over all tensors, in float32 or wider. []."""
  return total(jax.tree.map(abs_sq, tree))


def finish(
  means: GradientSums,
  deviation: jax.Array | None = None,
  *,
  group_size: int = 1,
) -> base.GradientStatistics:
  r"""Turns means over samples into statistics per example.

  With J samples of q examples each, M_k = Σ_j |g_jk|² / J and ḡ = Σ_j g_j / J,

    V_k = q · J / (J − 1) · (M_k − |ḡ_k|²),
    v∥ = q / (J − 1) · Σ_j (⟨g_j, u⟩ − ‖ḡ‖)²,  u = ḡ / ‖ḡ‖.

  Both are unbiased for one example's variance, whatever q is. V_k is clamped
  at 0: its rounding error is about 1e-7 · |ḡ_k|², so it matters only where
  the noise is far below the signal and no test asks for more examples.

  Args:
    means: The means of the merged sums.
    deviation: Σ_j (⟨g_j, u⟩ − ‖ḡ‖)² / J, if v∥ is wanted. [].
    group_size: q, the number of examples in a sample.

  Returns:
    The statistics. With a single sample the variances are NaN; v∥ is 0 where
    ḡ is. The mean is as wide as its sums.
  """

  def per_example(x):
    count = means.count.astype(x.dtype)
    return jnp.where(count > 1, x * group_size * count / (count - 1), jnp.nan)

  def variance(squares, tensor):
    power = abs_sq(tensor)
    if squares.shape != power.shape:
      power = jnp.sum(power)
    return per_example(jnp.maximum(squares - power, 0))

  return base.GradientStatistics(
    batch_size=group_size * means.count,
    mean=means.gradient,
    variance=None
    if means.squares is None
    else jax.tree.map(variance, means.squares, means.gradient),
    variance_along_mean=None if deviation is None else per_example(deviation),
  )
