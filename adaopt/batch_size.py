"""Transforms that hold the batch size.

They leave the updates as they are. Their state has the field `batch_size`,
which `optax.tree.get(opt_state, 'batch_size')` finds in any chain.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from adaopt import base, checks, evidence, statistics


class AdaptBatchSizeState(NamedTuple):
  """State of `adapt_batch_size`."""

  batch_size: jax.Array  # [] int32
  required: jax.Array  # [] float32, by the last test; NaN: no evidence
  count: jax.Array  # [] int32, updates so far
  test_due: jax.Array  # [] bool, whether the next update tests
  criterion_state: Any = ()  # of a `StatefulCriterion`


class ScheduleBatchSizeState(NamedTuple):
  """State of `schedule_batch_size`."""

  batch_size: jax.Array  # [] int32
  examples: jax.Array  # [] int32, seen so far


def adapt_batch_size(
  criterion: base.Criterion | base.StatefulCriterion,
  *,
  init_value: int,
  max_value: int,
  multiple_of: int = 1,
  test_interval: int = 1,
  policy: base.Policy = jnp.maximum,
) -> optax.GradientTransformationExtraArgs:
  """Holds a batch size that a criterion moves.

  A test that asks for more than the current size sets the next one,
  policy(current, required), rounded up to a multiple of `multiple_of` and
  clipped to [init_value, max_value]. A test without evidence (NaN) changes
  nothing; one that asks for infinitely many examples gets max_value.

  The state of a `StatefulCriterion` moves with the tests: not where none is
  due or there are no statistics, and never from numbers that are not finite,
  in the statistics or in what it would become.

  Args:
    criterion: From `GradientStatistics` to the batch size required, or a
      `StatefulCriterion`, which is passed the extra arguments of update too.
    init_value: b_0.
    max_value: b_max.
    multiple_of: What every size is a multiple of, b_0 and b_max included.
    test_interval: How many updates lie between two tests.
    policy: (current, required) → next. The default only grows; with one that
      only grows no test is made any more at b_max. One that never moves, such
      as `lambda current, required: current`, tests to measure alone, at b_max
      too.

  Returns:
    A transform whose update takes `statistics=`; None puts a test off. With
    `optax.inject_hyperparams`, pass static_args=('criterion', 'policy').

  Raises:
    ValueError: If a size is no positive integer, b_0 > b_max, one is no
      multiple, criterion is none, or policy is no function.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> import optax
    >>> optimizer = optax.chain(
    ...   adaopt.adapt_batch_size(
    ...     adaopt.norm_test(eta=0.1), init_value=8, max_value=1024),
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
  checks.check_callable(
    'such as jnp.maximum, (current, required) -> next', policy=policy
  )
  checks.check_integer(
    1,
    init_value=init_value,
    max_value=max_value,
    multiple_of=multiple_of,
    test_interval=test_interval,
  )
  if checks.is_concrete(init_value, max_value) and init_value > max_value:
    raise ValueError(
      f'init_value={init_value} exceeds max_value={max_value}; start lower or '
      'allow more.'
    )
  for name, size in (('init_value', init_value), ('max_value', max_value)):
    if checks.is_concrete(size, multiple_of) and size % multiple_of:
      raise ValueError(f'{name}={size} is no multiple of {multiple_of}.')

  def test_due(batch_size, count):
    shrinks = policy(jnp.float32(max_value), jnp.float32(0)) < max_value
    only_measures = policy(jnp.float32(1), jnp.float32(2**30)) == 1
    can_tell = (batch_size < max_value) | shrinks | only_measures
    return (count % test_interval == 0) & can_tell

  def init_fn(params):
    batch_size = jnp.asarray(init_value, jnp.int32)
    count = jnp.zeros([], jnp.int32)
    return AdaptBatchSizeState(
      batch_size=batch_size,
      required=jnp.full([], jnp.nan, jnp.float32),
      count=count,
      test_due=test_due(batch_size, count),
      criterion_state=criterion.init(params),
    )

  def next_size(current, required):
    proposed = policy(current, required)
    # Clipped before the cast, which is undefined beyond the integers.
    size = jnp.ceil(jnp.clip(proposed, init_value, max_value))
    size = jnp.minimum(size.astype(jnp.int32), max_value)
    size = -(-size // multiple_of) * multiple_of
    # NaN, from a test without evidence or from the policy, moves nothing.
    evident = ~jnp.isnan(required) & ~jnp.isnan(proposed)
    return jnp.where(evident & (proposed != current), size, current)

  def update_fn(updates, state, params=None, *, statistics=None, **extra_args):
    del params
    batch_size, required = state.batch_size, state.required
    memory = state.criterion_state
    if statistics is not None:
      tested, moved = criterion.update(statistics, memory, **extra_args)
      tested = jnp.asarray(tested, jnp.float32)
      if tested.ndim:
        raise ValueError(
          f'criterion must return a scalar, got shape {list(tested.shape)}.'
        )
      proposed = next_size(batch_size, tested).astype(jnp.int32)
      required = jnp.where(state.test_due, tested, required)
      batch_size = jnp.where(state.test_due, proposed, batch_size)
      moves = state.test_due & evidence.all_finite((statistics, moved))
      memory = optax.tree.where(moves, moved, memory)
    count = optax.safe_increment(state.count)
    due = test_due(batch_size, count)
    if statistics is None:
      due |= state.test_due
    return updates, AdaptBatchSizeState(
      batch_size, required, count, due, memory
    )

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def schedule_batch_size(
  schedule: int | optax.Schedule,
) -> optax.GradientTransformationExtraArgs:
  """Holds a batch size that follows a schedule over the examples seen.

  Optax's schedules serve as they are: a number for a constant size,
  `optax.linear_schedule(8, 1024, 100_000)` for a ramp over the first 100 000
  examples, and for stages `optax.join_schedules` of constants. Sizes are
  rounded to the nearest integer and clipped to [1, 2³⁰]; one that is not finite
  leaves the last.

  Args:
    schedule: A batch size, or a function from the number of examples seen,
      [] int32, to one.

  Returns:
    A transform. An update accounts for `statistics.batch_size` examples, or
    without `statistics=` for a batch of the current size.

  Raises:
    ValueError: If the size is no positive integer, or schedule(0) no number
      of at least 1.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> import optax
    >>> stages = optax.join_schedules(
    ...   [optax.constant_schedule(64), optax.constant_schedule(256)], [128])
    >>> transform = adaopt.schedule_batch_size(stages)
    >>> updates = jnp.zeros(2)
    >>> state = transform.init(updates)
    >>> for _ in range(3):
    ...   print(state.batch_size)
    ...   _, state = transform.update(updates, state)
    64
    64
    256
  """
  if not callable(schedule):
    checks.check_integer(1, schedule=schedule)
    schedule = optax.constant_schedule(schedule)

  def size(examples, last):
    value = jnp.asarray(schedule(examples))
    rounded = jnp.clip(jnp.round(value), 1, 2**30).astype(jnp.int32)
    return jnp.where(jnp.isfinite(value), rounded, last)

  checks.check_at_least(1, **{'schedule(0)': schedule(0)})

  def after(state, used):
    examples = statistics.saturating_add(state.examples, used)
    batch_size = size(examples, state.batch_size)
    return ScheduleBatchSizeState(batch_size, examples)

  def init_fn(params):
    del params
    examples = jnp.zeros([], jnp.int32)
    return ScheduleBatchSizeState(size(examples, 1), examples)

  def update_fn(updates, state, params=None, *, statistics=None, **extra_args):
    del params, extra_args
    used = state.batch_size if statistics is None else statistics.batch_size
    return updates, after(state, used)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)
