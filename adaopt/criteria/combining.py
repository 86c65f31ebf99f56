"""Criteria made of other criteria."""

import functools
from typing import overload

import jax.numpy as jnp

from adaopt._common import base
from adaopt.criteria import evidence


@overload
def all_of(*criteria: base.Criterion) -> base.Criterion: ...


@overload
def all_of(
  *criteria: base.Criterion | base.StatefulCriterion,
) -> base.Criterion | base.StatefulCriterion: ...


def all_of(
  *criteria: base.Criterion | base.StatefulCriterion,
) -> base.Criterion | base.StatefulCriterion:
  """All of the tests: the largest requirement.

  Args:
    *criteria: The tests, at least one. One without evidence is left out.

  Returns:
    A criterion that reads what its parts read, with a state if a part has one.

  Raises:
    ValueError: If there is none, or one is not a criterion.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> statistics = adaopt.GradientStatistics(
    ...   batch_size=jnp.array(8), mean=jnp.array([3.0, 4.0]),
    ...   variance=jnp.array(1.0), variance_along_mean=jnp.array(0.25))
    >>> both = adaopt.all_of(
    ...   adaopt.norm_test(eta=0.2), adaopt.inner_product_test(theta=0.1))
    >>> print(both(statistics))
    1.0
  """
  if not criteria:
    raise ValueError('all_of needs at least one criterion, got none.')
  parts = [
    evidence.stateful(**{f'criterion {i}': criterion})
    for i, criterion in enumerate(criteria)
  ]
  largest = functools.partial(functools.reduce, jnp.fmax)

  def init(params):
    return tuple(part.init(params) for part in parts)

  def update(statistics, state, **extra_args):
    results = [
      part.update(statistics, s, **extra_args)
      for part, s in zip(parts, state, strict=True)
    ]
    required, state = zip(*results, strict=True)
    return largest(required), state

  if any(isinstance(part, base.StatefulCriterion) for part in criteria):
    return base.StatefulCriterion(init, update)
  return lambda statistics: update(statistics, init(()))[0]
