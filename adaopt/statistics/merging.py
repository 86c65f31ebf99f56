"""Moments of samples: means and squared deviations from them, which merge.

A sample is one example, or a group of `group_size` examples whose gradients
are averaged. The moments of two micro-batches merge into those of their union,
so that exact statistics never need more than one micro-batch in memory, and
nothing cancels between micro-batches, however small the noise beside the
gradient.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from adaopt._common import arithmetic, base


class Moments(NamedTuple):
  """Moments of J samples with mean gradients g_j over b_j examples.

  A spread that is not measured is None, all of it or the entry of a tensor.
  """

  examples: jax.Array  # n = Σ b_j, [] int32
  samples: jax.Array  # J, [] int32
  value: jax.Array  # the mean loss, [] float32 or wider; NaN: not known
  aux: Any  # its mean, float32 or wider
  mean: optax.Updates  # ḡ = Σ b_j g_j / n, like params, float32 or wider
  spread: optax.Updates | None  # M = Σ b_j ‖g_j − ḡ‖² of every tensor, [] each
  coordinate_spread: optax.Updates | None  # M_k = Σ b_j |g_jk − ḡ_k|²


def from_sums(
  count: jax.Array,
  group_size: int,
  *,
  value: jax.Array,
  aux: Any,
  gradient: optax.Updates,
  norms: optax.Updates,
  squares: optax.Updates,
) -> Moments:
  r"""The moments of J samples of one micro-batch, from their sums.

  With q examples in a sample, M_k = q (Σ_j |g_jk|² − J |ḡ_k|²), clamped at 0,
  and exactly 0 for J = 1. The rounding error is about 1e-7 · q J |ḡ_k|², so it
  matters only where the noise is far below the signal and no test asks for
  more examples.

  Args:
    count: J, at least 1. [] int32.
    group_size: q.
    value: Σ loss. [].
    aux: Σ aux.
    gradient: Σ_j g_j, like params.
    norms: Σ_j ‖g_j‖² of every tensor, [] each.
    squares: Σ_j |g_jk|², like params.

  Returns:
    The moments.
  """
  mean = jax.tree.map(lambda g: g / count, gradient)

  def spread(square, tensor, reduce):
    deviation = square - count * reduce(arithmetic.abs_sq(tensor))
    return jnp.where(count > 1, group_size * jnp.maximum(deviation, 0), 0)

  return Moments(
    examples=group_size * count,
    samples=count,
    value=value / count,
    aux=jax.tree.map(lambda x: x / count, aux),
    mean=mean,
    spread=jax.tree.map(lambda n, g: spread(n, g, jnp.sum), norms, mean),
    coordinate_spread=jax.tree.map(
      lambda s, g: spread(s, g, lambda x: x), squares, mean
    ),
  )


def zeros_like(sums: Any) -> Any:
  """The neutral element of `merge`, or of addition, from values or shapes."""
  return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), sums)


def merge(a: Moments, b: Moments) -> Moments:
  r"""The moments of the union of two disjoint sets of samples.

  With n = n_a + n_b and δ = ḡ_b − ḡ_a,

    ḡ = ḡ_a + (n_b / n) δ,  M_k = M_a,k + M_b,k + (n_a n_b / n) |δ_k|².

  Args:
    a: Moments, such as `zeros_like`.
    b: Moments of the same structure, of at least one example.

  Returns:
    The moments, in the dtypes of a.

  References:
    Chan et al., `Algorithms for Computing the Sample Variance: Analysis and
    Recommendations <https://doi.org/10.1080/00031305.1983.10483115>`_, 1983
  """
  n = arithmetic.saturating_add(a.examples, b.examples)
  weight = b.examples.astype(float) / n

  def mean(x, y):
    return (x + weight * (y - x)).astype(x.dtype)

  def spread(reduce):
    def merged(p, q, x, y):
      between = reduce(arithmetic.abs_sq(y - x))
      return (p + q + a.examples * weight * between).astype(p.dtype)

    return merged

  return Moments(
    examples=n,
    samples=arithmetic.saturating_add(a.samples, b.samples),
    value=mean(a.value, b.value),
    aux=jax.tree.map(mean, a.aux, b.aux),
    mean=jax.tree.map(mean, a.mean, b.mean),
    spread=arithmetic.map_present(
      spread(jnp.sum), a.spread, b.spread, a.mean, b.mean
    ),
    coordinate_spread=arithmetic.map_present(
      spread(lambda x: x),
      a.coordinate_spread,
      b.coordinate_spread,
      a.mean,
      b.mean,
    ),
  )


def finish(
  moments: Moments, along_spread: jax.Array | None = None
) -> base.GradientStatistics:
  r"""Turns moments into statistics per example.

    V = M / (J − 1),  v∥ = Σ_j b_j (⟨g_j, u⟩ − ‖ḡ‖)² / (J − 1),  u = ḡ / ‖ḡ‖.

  A sample over b_j examples deviates from the mean by 1 / b_j of one example's
  variance, which its weight b_j in M makes up for: V is unbiased for any b_j.

  Args:
    moments: The merged moments.
    along_spread: The numerator of v∥, [], if it was measured.

  Returns:
    The statistics. With a single sample the variances are NaN. The mean is as
    wide as in the moments.
  """

  def variance(spread):
    several = moments.samples > 1
    degrees = jnp.maximum(moments.samples - 1, 1).astype(spread.dtype)
    return jnp.where(several, spread / degrees, jnp.nan)

  return base.GradientStatistics(
    batch_size=moments.examples,
    mean=moments.mean,
    variance=jax.tree.map(variance, moments.spread),
    coordinate_variance=jax.tree.map(variance, moments.coordinate_spread),
    variance_along_mean=jax.tree.map(variance, along_spread),
  )
