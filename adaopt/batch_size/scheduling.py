"""A transform that holds a batch size and moves it by a schedule."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from adaopt._common import arithmetic, checks, counts, functions, passing


class ScheduleBatchSizeState(NamedTuple):
  """State of `schedule_batch_size`."""

  batch_size: jax.Array  # [] int32
  examples: jax.Array  # [] int32, seen so far, modulo 2³¹
  turns: jax.Array  # [] int32, how often they went round 2³¹


def schedule_batch_size(
  schedule: int | optax.Schedule,
) -> optax.GradientTransformationExtraArgs:
  """Holds a batch size that follows a schedule over the examples seen.

  Optax's schedules serve as they are: a number for a constant size,
  `optax.linear_schedule(8, 1024, 100_000)` for a ramp over the first 100 000
  examples, and for stages `optax.join_schedules` of constants. Sizes are
  rounded to the nearest integer and clipped to [1, 2³¹ − 1]; one that is not
  finite leaves the last. Integers stay exact.

  Args:
    schedule: A batch size, or a function from the number of examples seen,
      [] int32, to one. It is 2³¹ − 1 beyond that, but for a function with a
      parameter `turns`, as `stage_schedule` makes: that is passed the number
      modulo 2³¹, and how often it went round.

  Returns:
    A transform. An update accounts for `statistics.batch_size` examples;
    without `statistics=`, which it does not need, or with None, for as many as
    the current size.

  Raises:
    ValueError: If the size is not a positive integer, or schedule(0) is not a
      number of at least 1.

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

  def size(examples, turns, last):
    value = counts.at(schedule, examples, turns)
    if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
      return jnp.maximum(arithmetic.saturating_int(value), 1)
    rounded = jnp.maximum(arithmetic.saturating_int(jnp.round(value)), 1)
    return jnp.where(jnp.isfinite(value), rounded, last)

  functions.check_takes(1, schedule=schedule)
  with jax.transfer_guard('allow'):
    checks.check_at_least(1, **{'schedule(0)': schedule(0)})

  def init_fn(params):
    del params
    count = counts.nothing()
    return ScheduleBatchSizeState(size(*count, 1), *count)

  def update_fn(updates, state, params=None, **extra_args):
    del params
    extra_args.setdefault('statistics', None)
    statistics = passing.statistics_in(extra_args, 'schedule_batch_size')
    used = state.batch_size if statistics is None else statistics.batch_size
    count = counts.added(state.examples, state.turns, used)
    batch_size = size(*count, state.batch_size)
    return updates, ScheduleBatchSizeState(batch_size, *count)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)
