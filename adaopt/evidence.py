"""What criteria are made of: the statistics they need, and their ratio."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from adaopt import base, checks, statistics


def ratio(noise: jax.Array, signal: jax.Array) -> jax.Array:
  """noise / signal, NaN where one is not finite."""
  finite = jnp.isfinite(noise) & jnp.isfinite(signal)
  return jnp.where(finite, noise / signal, jnp.nan)


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


def _need(stats: base.GradientStatistics, field: str, test: str, remedy: str):
  """The field of the statistics, which the test cannot do without."""
  value = getattr(stats, field)
  if value is None:
    raise ValueError(
      f'{test} needs statistics.{field}; build the estimator with {remedy}.'
    )
  return value


def needed_batch_size(
  stats: base.GradientStatistics | None, transform: str
) -> jax.Array:
  """The batch size behind an update, which the transform cannot do without."""
  if stats is None:
    raise ValueError(
      f'{transform} needs the batch size: pass statistics= to update.'
    )
  return stats.batch_size


def variance_along_mean(stats: base.GradientStatistics, test: str) -> jax.Array:
  """v∥, or a sentence in the name of the test."""
  return _need(stats, 'variance_along_mean', test, 'along_mean=True')


def total_variance(stats: base.GradientStatistics, test: str) -> jax.Array:
  """v, or a sentence in the name of the test."""
  variance = _need(stats, 'variance', test, "variance='total'")
  return statistics.total(variance)


def coordinate_variance(
  stats: base.GradientStatistics, test: str
) -> optax.Updates:
  """V_k like the mean, or a sentence in the name of the test."""
  remedy = "variance='coordinate'"
  variance = _need(stats, 'variance', test, remedy)
  shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(variance)]
  if shapes != [jnp.shape(leaf) for leaf in jax.tree.leaves(stats.mean)]:
    raise ValueError(
      f'{test} needs the variance of every coordinate; build the estimator '
      f'with {remedy}.'
    )
  return variance


def stateful(
  **named: base.Criterion | base.StatefulCriterion,
) -> base.StatefulCriterion:
  """One named criterion; a function becomes one without memory."""
  ((name, criterion),) = named.items()
  if isinstance(criterion, base.StatefulCriterion):
    checks.check_callable('of params', **{f'{name}.init': criterion.init})
    checks.check_callable(
      '(statistics, state, **extra_args) -> (required, state)',
      **{f'{name}.update': criterion.update},
    )
    return criterion
  checks.check_callable('of the statistics', **{name: criterion})
  return base.StatefulCriterion(
    init=lambda params: (),
    update=lambda stats, state, **extra_args: (criterion(stats), state),
  )
