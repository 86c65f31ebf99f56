"""Moments of samples, which merge without sums of raw squares.

The accumulating form of `statistics`: a micro-batch's mean and variance go in
as an estimator gave them. Means and squared deviations from them are merged,
so that nothing cancels, however small the noise beside the gradient.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from adaopt import base, statistics


class Moments(NamedTuple):
  """Moments of J samples with mean gradients g_j over b_j examples."""

  accumulated: jax.Array  # n = Σ b_j, [] int32
  samples: jax.Array  # J, [] int32
  value: jax.Array  # the mean loss, [] float32 or wider; NaN: not known
  mean: optax.Updates  # ḡ = Σ b_j g_j / n, like params, float32 or wider
  spread: optax.Updates | None  # M = Σ b_j |g_j − ḡ|², [] per tensor or like it


def zeros(params: optax.Params, variance: str | None) -> Moments:
  """The neutral element of `merge`; variance as in `value_and_statistics`."""
  mean = jax.tree.map(
    lambda p: jnp.zeros_like(p, dtype=statistics.accumulator_dtype(p)), params
  )

  def spread(tensor):
    shape_of = tensor if variance == 'coordinate' else jnp.zeros([])
    return jnp.zeros_like(shape_of, dtype=jnp.finfo(tensor.dtype).dtype)

  return Moments(
    accumulated=jnp.zeros([], jnp.int32),
    samples=jnp.zeros([], jnp.int32),
    value=jnp.zeros([], float),
    mean=mean,
    spread=None if variance is None else jax.tree.map(spread, mean),
  )


def pack(moments: Moments, variance: str | None) -> Moments:
  """Moments to hold in a state: spreads of tensors in one array, [T].

  A tree of scalars in the structure of the parameters would pass for
  parameters, whose sharding `optax.tree.map_params` then gave them.
  """
  if variance != 'total':
    return moments
  return moments._replace(spread=jnp.array(jax.tree.leaves(moments.spread)))


def unpack(moments: Moments, variance: str | None) -> Moments:
  """The inverse of `pack`."""
  if variance != 'total':
    return moments
  treedef = jax.tree.structure(moments.mean)
  return moments._replace(spread=treedef.unflatten(jnp.unstack(moments.spread)))


def micro_batch(
  gradient: optax.Updates,
  stats: base.GradientStatistics,
  value: jax.typing.ArrayLike | None,
  *,
  group_size: int,
  like: Moments,
) -> Moments:
  """The moments of a micro-batch of J samples: M = (J − 1) V.

  Args:
    gradient: ḡ.
    stats: b and V. None for V means NaN, unless a single sample makes it 0.
    value: The mean loss. None means NaN.
    group_size: The number of examples in a sample; the last may have fewer.
    like: Moments of the structure and dtypes to give.

  Returns:
    The moments.

  Raises:
    ValueError: If V lacks a tensor, or is coarser than `like`.
  """
  examples = jnp.asarray(stats.batch_size, jnp.int32)
  samples = -(-examples // group_size)
  noise = stats.variance
  if noise is None or like.spread is None:
    noise = optax.tree.full_like(like.spread, jnp.nan)
  elif jax.tree.structure(noise) != jax.tree.structure(gradient):
    raise ValueError(
      'statistics.variance must hold an entry for every tensor of the '
      f'gradient, {jax.tree.structure(gradient)}, got '
      f'{jax.tree.structure(noise)}; a mask belongs inside, around inner.'
    )

  def spread(noise, like):
    if jnp.shape(noise) != like.shape:
      if like.ndim:
        raise ValueError(
          "variance='coordinate' needs statistics.variance of every "
          "coordinate; build the estimator with variance='coordinate' too."
        )
      noise = jnp.sum(noise)
    within = jnp.where(samples > 1, (samples - 1) * noise, 0)
    return within.astype(like.dtype)

  return Moments(
    accumulated=examples,
    samples=samples,
    value=jnp.asarray(jnp.nan if value is None else value, like.value.dtype),
    mean=optax.tree.cast_like(gradient, like.mean),
    spread=jax.tree.map(spread, noise, like.spread),
  )


def merge(a: Moments, b: Moments) -> Moments:
  r"""The moments of the union of two disjoint sets of samples.

  With n = n_a + n_b and δ = ḡ_b − ḡ_a,

    ḡ = ḡ_a + (n_b / n) δ,  M_k = M_a,k + M_b,k + (n_a n_b / n) |δ_k|².

  Args:
    a: Moments, such as `zeros`.
    b: Moments of the same structure, of at least one example.

  Returns:
    The moments, in the dtypes of a.

  References:
    Chan et al., `Algorithms for Computing the Sample Variance: Analysis and
    Recommendations <https://doi.org/10.1080/00031305.1983.10483115>`_, 1983
  """
  n = statistics.saturating_add(a.accumulated, b.accumulated)
  weight = b.accumulated.astype(float) / n

  def mean(x, y):
    return (x + weight * (y - x)).astype(x.dtype)

  def spread(p, q, x, y):
    between = a.accumulated * weight * statistics.abs_sq(y - x)
    if p.shape != between.shape:
      between = jnp.sum(between)
    return (p + q + between).astype(p.dtype)

  return Moments(
    accumulated=n,
    samples=statistics.saturating_add(a.samples, b.samples),
    value=mean(a.value, b.value),
    mean=jax.tree.map(mean, a.mean, b.mean),
    spread=None
    if a.spread is None
    else jax.tree.map(spread, a.spread, b.spread, a.mean, b.mean),
  )


def finish(moments: Moments) -> base.GradientStatistics:
  """Turns moments into statistics per example: V = M / (J − 1).

  A sample over b_j examples deviates from the mean by 1 / b_j of one example's
  variance, which its weight b_j in M makes up for: V is unbiased whatever the
  b_j are, and NaN with a single sample.
  """

  def variance(spread):
    per_example = spread / (moments.samples - 1)
    return jnp.where(moments.samples > 1, per_example, jnp.nan)

  return base.GradientStatistics(
    batch_size=moments.accumulated,
    mean=moments.mean,
    variance=jax.tree.map(variance, moments.spread),
  )
