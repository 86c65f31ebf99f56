"""A transform that holds a batch size and moves it by a criterion.

It leaves the updates as they are. Its state has the field `batch_size`, which
`optax.tree.get(opt_state, 'batch_size')` finds in any chain.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from adaopt._common import arithmetic, base, checks, functions, passing
from adaopt.batch_size import policies
from adaopt.criteria import evidence


class AdaptBatchSizeState(NamedTuple):
  """State of `adapt_batch_size`."""

  batch_size: jax.Array  # [] int32
  required: jax.Array  # [] float32, by the last test; NaN or < 0: no evidence
  count: jax.Array  # [] int32, updates so far
  test_due: jax.Array  # [] bool, whether the next update tests
  criterion_state: Any = ()  # of a `StatefulCriterion`


def check_bounds(
  init_batch_size: Any, max_batch_size: Any, multiple_of: Any
) -> None:
  """Raises ValueError unless these bound a batch size."""
  checks.check_integer(
    1,
    init_batch_size=init_batch_size,
    max_batch_size=max_batch_size,
    multiple_of=multiple_of,
  )
  sizes = {
    'init_batch_size': init_batch_size,
    'max_batch_size': max_batch_size,
  }
  if checks.is_concrete(*sizes.values()) and int(init_batch_size) > int(
    max_batch_size
  ):
    raise ValueError(
      f'init_batch_size={init_batch_size} exceeds '
      f'max_batch_size={max_batch_size}; start lower or allow more.'
    )
  for name, size in sizes.items():
    if checks.is_concrete(size, multiple_of) and int(size) % int(multiple_of):
      raise ValueError(
        f'{name}={size} is not a multiple of multiple_of={multiple_of}; '
        'choose one that is.'
      )


def adapt_batch_size(
  criterion: base.Criterion | base.StatefulCriterion,
  *,
  init_batch_size: int,
  max_batch_size: int,
  multiple_of: int = 1,
  test_interval: int = 1,
  policy: policies.AnyPolicy = policies.grow,
) -> optax.GradientTransformationExtraArgs:
  """Holds a batch size that a criterion moves.

  The next size is policy(current, required), rounded up to a multiple of
  `multiple_of` and clipped to [init_batch_size, max_batch_size]. A test
  without evidence (NaN, or a number below 0) changes nothing; one that requires
  infinitely many examples gives max_batch_size. The sizes are exact integers up
  to 2³¹ − 1; what is required is a float32, 24 bits of a number.

  The state of a `StatefulCriterion` moves with the tests: it stays where none
  is due, where `statistics=None`, and where the gradient or the state that it
  would move to is not finite.

  A state that was saved with a larger max_batch_size comes down to this one at
  the next update; `fit` logs a warning.

  Args:
    criterion: From `GradientStatistics` to the batch size required, or a
      `StatefulCriterion`, which is passed the extra arguments of update too.
    init_batch_size: b_0.
    max_batch_size: b_max.
    multiple_of: Every size is a multiple of it, b_0 and b_max included.
    test_interval: How many updates lie between two tests.
    policy: (current, required) → next, if it only grows, as the default does to
      what is required: at b_max it is not asked any more. One that can shrink,
      or only measures, is a `Policy`, such as `follow` or `measure`.

  Returns:
    A transform whose update requires `statistics=`; statistics=None puts a test
    off. With `optax.inject_hyperparams`, pass static_args=('criterion',
    'policy').

  Raises:
    ValueError: If a size is not a positive integer or not a multiple,
      b_0 > b_max, or criterion or policy is not a function; from update without
      `statistics=`.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> import optax
    >>> optimizer = optax.chain(
    ...   adaopt.adapt_batch_size(
    ...     adaopt.norm_test(eta=0.1), init_batch_size=8, max_batch_size=1024),
    ...   optax.adamw(1e-3))
    >>> params = jnp.zeros(2)
    >>> state = optimizer.init(params)
    >>> statistics = adaopt.GradientStatistics(
    ...   jnp.array(8), mean=jnp.array([3.0, 4.0]), variance=jnp.array(50.0))
    >>> _, state = optimizer.update(
    ...   statistics.mean, state, params, statistics=statistics)
    >>> print(optax.tree.get(state, 'batch_size'))
    200

  References:
    Lau et al., `AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient
    Methods <https://arxiv.org/abs/2402.11215>`_, 2024
  """
  criterion = evidence.stateful(criterion=criterion)
  policy = policies.declared(policy)
  check_bounds(init_batch_size, max_batch_size, multiple_of)
  checks.check_integer(1, test_interval=test_interval)

  def test_due(batch_size, count, *, put_off=False):
    matters = (batch_size < max_batch_size) | policy.tests_at_max
    return (put_off | (count % test_interval == 0)) & matters

  def init_fn(params):
    batch_size = jnp.asarray(init_batch_size, jnp.int32)
    count = jnp.zeros([], jnp.int32)
    return AdaptBatchSizeState(
      batch_size=batch_size,
      required=jnp.full([], arithmetic.missing(), jnp.float32),
      count=count,
      test_due=test_due(batch_size, count),
      criterion_state=criterion.init(params),
    )

  def next_size(current, required):
    proposed = functions.number('policy', policy.next_size(current, required))
    moves = proposed != current.astype(proposed.dtype)
    if jnp.issubdtype(proposed.dtype, jnp.floating):
      moves &= ~jnp.isnan(proposed)
      proposed = arithmetic.saturating_int(jnp.ceil(proposed))
    smallest, largest, divisor = (
      jnp.asarray(size, jnp.int32)
      for size in (init_batch_size, max_batch_size, multiple_of)
    )
    size = jnp.clip(proposed, smallest, largest)
    # Never beyond the largest, so that nothing wraps around.
    size += jnp.minimum(-size % divisor, largest - size)
    moves &= ~arithmetic.is_missing(required)
    return jnp.where(moves, size, current)

  def update_fn(updates, state, params=None, **extra_args):
    del params
    statistics = passing.statistics_in(extra_args, 'adapt_batch_size')
    batch_size, required = state.batch_size, state.required
    memory = state.criterion_state
    if statistics is not None:
      tested, moved = evidence.answer(
        criterion.update(
          statistics, memory, **passing.without_statistics(extra_args)
        ),
        memory,
      )
      tested = functions.number('criterion', tested).astype(jnp.float32)
      proposed = next_size(batch_size, tested)
      required = jnp.where(state.test_due, tested, required)
      batch_size = jnp.where(state.test_due, proposed, batch_size)
      moves = state.test_due & arithmetic.all_finite((statistics.mean, moved))
      memory = optax.tree.where(moves, moved, memory)
    batch_size = jnp.minimum(batch_size, max_batch_size).astype(jnp.int32)
    count = optax.safe_increment(state.count)
    put_off = state.test_due & (statistics is None)
    due = test_due(batch_size, count, put_off=put_off)
    return updates, AdaptBatchSizeState(
      batch_size, arithmetic.returnable(required), count, due, memory
    )

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)
