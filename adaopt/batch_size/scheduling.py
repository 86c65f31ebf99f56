"""Batch sizes, and learning rates with them, by schedules over examples."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from adaopt._common import arithmetic, checks, functions, passing


class ScheduleBatchSizeState(NamedTuple):
  """State of `schedule_batch_size`."""

  batch_size: jax.Array  # [] int32
  examples: jax.Array  # [] int32, seen so far


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
      [] int32, to one.

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

  def size(examples, last):
    value = schedule(examples)
    if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
      return jnp.maximum(arithmetic.saturating_int(value), 1)
    rounded = jnp.maximum(arithmetic.saturating_int(jnp.round(value)), 1)
    return jnp.where(jnp.isfinite(value), rounded, last)

  functions.check_takes(1, schedule=schedule)
  with jax.transfer_guard('allow'):
    checks.check_at_least(1, **{'schedule(0)': schedule(0)})

  def after(state, used):
    examples = arithmetic.saturating_add(state.examples, used)
    batch_size = size(examples, state.batch_size)
    return ScheduleBatchSizeState(batch_size, examples)

  def init_fn(params):
    del params
    examples = jnp.zeros([], jnp.int32)
    return ScheduleBatchSizeState(size(examples, 1), examples)

  def update_fn(updates, state, params=None, **extra_args):
    del params
    extra_args.setdefault('statistics', None)
    statistics = passing.statistics_in(extra_args, 'schedule_batch_size')
    used = state.batch_size if statistics is None else statistics.batch_size
    return updates, after(state, used)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def seesaw(
  learning_rate: jax.typing.ArrayLike,
  init_batch_size: int,
  boundaries: Sequence[int],
  factor: float = 2.0,
) -> tuple[optax.Schedule, optax.Schedule]:
  r"""Seesaw: half of every cut of the learning rate becomes a larger batch.

  Where a schedule would cut the learning rate by a, cut it by √a and multiply
  the batch size by a: with k boundaries passed,

    α = α_0 a^(−k/2),  b = b_0 a^k,

  so that α / √b falls as it would have, in fewer steps.

  Args:
    learning_rate: α_0.
    init_batch_size: b_0.
    boundaries: The numbers of examples from which on each cut holds, rising.
    factor: a > 1, what the learning rate would be cut by at each.

  Returns:
    The learning rate, for `scale_by_example_schedule`, and the batch size, for
    `schedule_batch_size`, which rounds it: functions of the examples seen.

  Raises:
    ValueError: If a constant is out of range, or the boundaries do not rise.

  Example:
    >>> import adaopt
    >>> import optax
    >>> learning_rate, batch_size = adaopt.seesaw(
    ...   0.1, 64, boundaries=[1000, 2000], factor=4.0)
    >>> optimizer = optax.chain(
    ...   adaopt.schedule_batch_size(batch_size),
    ...   adaopt.scale_by_example_schedule(learning_rate),
    ...   optax.sgd(1.0))
    >>> for examples in (0, 1000, 2000):
    ...   print(f'{learning_rate(examples):.3f} {batch_size(examples):.0f}')
    0.100 64
    0.050 256
    0.025 1024

  References:
    Meterez et al., `Seesaw: Accelerating Training by Balancing Learning Rate
    and Batch Size Scheduling <https://arxiv.org/abs/2510.14717>`_, 2025
  """
  checks.check_positive(learning_rate=learning_rate, factor=factor)
  checks.check_integer(1, init_batch_size=init_batch_size)
  if not factor > 1:
    raise ValueError(f'factor must be above 1, got {factor}.')
  if not np.ndim(boundaries):
    raise ValueError(
      'boundaries must be a sequence of numbers of examples, got '
      f'{boundaries!r}.'
    )
  boundaries = list(boundaries)
  for boundary in boundaries:
    checks.check_integer(1, boundary=boundary)
  if boundaries != sorted(set(boundaries)):
    raise ValueError(f'boundaries must rise, got {boundaries}.')
  stages = range(len(boundaries) + 1)
  if isinstance(factor, float) and factor.is_integer():
    factor = int(factor)  # So that sizes beyond float32 are exact.
  return (
    _stages([learning_rate * factor ** (-k / 2) for k in stages], boundaries),
    _stages([_size(init_batch_size * factor**k) for k in stages], boundaries),
  )


def _size(value):
  return min(value, arithmetic.LARGEST) if isinstance(value, int) else value


def _stages(values, boundaries):
  """The value after as many boundaries as have been reached."""

  def schedule(examples):
    value = values[0]
    for boundary, later in zip(boundaries, values[1:], strict=True):
      value = jnp.where(jnp.asarray(examples) < boundary, value, later)
    return value

  return schedule
