"""Micro-batches that a loop feeds: from what an update is passed to moments."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from adaopt._common import arithmetic, base, checks, matrices, passing
from adaopt.statistics import merging, spreads


def statistics_in(
  extra_args: dict[str, Any], gradient: optax.Updates, group_size: Any
) -> base.GradientStatistics:
  """The statistics of a micro-batch: those passed, or those of one sample."""
  if extra_args.get('statistics') is None:
    if checks.is_concrete(group_size) and group_size == 1:
      raise ValueError(
        'accumulate needs the statistics of the micro-batch: pass statistics= '
        'to update, or for plain gradients group_size= to accumulate, the '
        'number of examples behind each.'
      )
    return _of_one_sample(base.GradientStatistics(group_size, gradient))
  statistics = passing.statistics_in(extra_args, 'accumulate')
  size = statistics.batch_size
  checks.check_integer(1, **{'statistics.batch_size': size})
  if checks.is_concrete(size, group_size) and size <= group_size:
    return _of_one_sample(statistics)
  if checks.is_concrete(size, group_size) and size % group_size:
    raise ValueError(
      f'statistics of {size} examples are not a multiple of '
      f'group_size={group_size}; pass accumulate that of '
      'value_and_statistics.'
    )
  if statistics.weight is None:
    return _of_equal_weights(statistics)
  return statistics


def _of_one_sample(
  statistics: base.GradientStatistics,
) -> base.GradientStatistics:
  """The statistics, with variances that do not count: of J − 1 = 0 degrees."""
  equal = _of_equal_weights(statistics)
  return equal._replace(
    variance=jax.tree.map(lambda g: jnp.zeros([]), statistics.mean),
    coordinate_variance=optax.tree.zeros_like(statistics.mean),
    matrix_variance=optax.tree.zeros_like(
      jax.tree.map(matrices.shape_of_square, statistics.mean)
    ),
  )


def _of_equal_weights(
  statistics: base.GradientStatistics,
) -> base.GradientStatistics:
  return statistics._replace(
    weight_variance=jnp.zeros([]),
    weight_covariance=optax.tree.zeros_like(statistics.mean),
  )


def moments_of(
  gradient: optax.Updates,
  statistics: base.GradientStatistics,
  value: jax.typing.ArrayLike | None,
  group_size: Any,
  *,
  like: merging.Moments,
) -> merging.Moments:
  """The moments of a micro-batch of J samples: M = (J − 1) (W / b)² V.

  J is the number of examples over group_size; the last sample may have fewer.
  """
  examples = jnp.asarray(statistics.batch_size, jnp.int32)
  samples = -(-examples // group_size)
  weight = _weight(statistics, examples, like)
  factor = 1.0
  if weight is not None:
    factor = jnp.square(weight / examples.astype(weight.dtype))

  def present(x):
    # Weights that add up to 0 leave NaN, and change nothing beside others.
    return x if weight is None else jnp.where(weight == 0, jnp.zeros_like(x), x)

  def spread(name, like):
    noise = getattr(statistics, name)
    if like is None:
      return None
    if noise is None:
      raise ValueError(
        f'accumulate needs statistics.{name} of every micro-batch, since the '
        'optimizer reads it; value_and_statistics computes it unless only= '
        'leaves it out.'
      )
    if jax.tree.structure(noise) != jax.tree.structure(like):
      raise ValueError(
        f'statistics.{name} must hold an entry for every '
        f'{"matrix" if name == "matrix_variance" else "tensor"} of the '
        f'gradient, {jax.tree.structure(like)}, got '
        f'{jax.tree.structure(noise)}; a mask belongs inside, around the '
        'optimizer.'
      )
    checks.check_like(like, **{f'statistics.{name}': noise})
    return jax.tree.map(
      lambda v, held: times_degrees(jnp.asarray(v, held.dtype)), noise, like
    )

  def times_degrees(v):
    degrees = jnp.asarray(factor, v.dtype) * (samples - 1).astype(v.dtype)
    return present(jnp.where(samples > 1, degrees * v, jnp.zeros_like(v)))

  def squared_weight():
    if statistics.weight_variance is None:
      raise ValueError(
        'accumulate needs statistics.weight_variance beside the weight of '
        'several samples; value_and_statistics computes it.'
      )
    variance = jnp.asarray(statistics.weight_variance, weight.dtype)
    equal = jnp.square(weight) / examples.astype(weight.dtype)
    return equal + times_degrees(variance)

  return merging.Moments(
    examples=examples,
    samples=samples,
    weight=weight,
    squared_weight=None if like.squared_weight is None else squared_weight(),
    value=present(
      jnp.asarray(
        arithmetic.missing() if value is None else value, like.value.dtype
      )
    ),
    aux=(),
    mean=jax.tree.map(present, optax.tree.cast_like(gradient, like.mean)),
    **{
      kind.field: spread(kind.statistic, getattr(like, kind.field))
      for kind in spreads.SPREADS
    },
    weighted_spread=spread('weight_covariance', like.weighted_spread),
  )


def _weight(statistics, examples, like):
  """The weight of a micro-batch, that of its examples where it has none."""
  if like.weight is None:
    if statistics.weight is not None:
      raise ValueError(
        'the statistics are of a WeightedLoss, whose micro-batches merge by '
        'their weights: pass weighted=True to accumulate.'
      )
    return None
  weight = examples if statistics.weight is None else statistics.weight
  return jnp.asarray(weight, like.weight.dtype)
