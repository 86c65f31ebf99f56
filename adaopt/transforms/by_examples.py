"""Learning rates by the examples seen and by the batch size."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from adaopt._common import arithmetic, checks, counts, functions, passing


class ScaleByExampleScheduleState(NamedTuple):
  """State of `scale_by_example_schedule`."""

  examples: jax.Array  # [] int32, before the update to come, modulo 2³¹
  turns: jax.Array  # [] int32, how often they went round 2³¹


class ScaleByBatchSizeState(NamedTuple):
  """State of `scale_by_batch_size`."""

  first_batch_size: jax.Array  # [] int32; 0: no batch yet


def scale_by_example_schedule(
  schedule: optax.Schedule,
) -> optax.GradientTransformationExtraArgs:
  """Scales updates by a schedule over the examples seen, not the updates.

  Schedules inside optax's own optimizers count updates, of any batch size.
  Behind an optimizer made with learning rate 1.0 this transform is its
  schedule over examples, weight decay included: `optax.chain(
  optax.adamw(1.0, weight_decay=0.1), scale_by_example_schedule(schedule))` is
  `optax.adamw(schedule, weight_decay=0.1)` whose schedule counts examples.

  Args:
    schedule: From the number of examples before this update, [] int32, to the
      factor. Beyond 2³¹ as in `schedule_batch_size`.

  Returns:
    A transform whose update requires `statistics=`, for its `batch_size`.

  Raises:
    ValueError: If schedule is not a function; from update without statistics.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> import optax
    >>> transform = adaopt.scale_by_example_schedule(
    ...   optax.linear_schedule(1.0, 0.0, transition_steps=100))
    >>> updates = jnp.ones(1)
    >>> statistics = adaopt.GradientStatistics(jnp.array(25), mean=updates)
    >>> state = transform.init(updates)
    >>> for _ in range(3):
    ...   scaled, state = transform.update(
    ...     updates, state, statistics=statistics)
    ...   print(scaled)
    [1.]
    [0.75]
    [0.5]
  """
  checks.check_callable('of the number of examples', schedule=schedule)
  functions.check_schedule(schedule=schedule)

  def init_fn(params):
    del params
    return ScaleByExampleScheduleState(*counts.nothing())

  def update_fn(updates, state, params=None, **extra_args):
    del params
    b = passing.batch_size_in(extra_args, 'scale_by_example_schedule')
    factor = counts.at(schedule, state.examples, state.turns)
    count = counts.added(state.examples, state.turns, b)
    scaled = arithmetic.scale(factor, updates)
    return scaled, ScaleByExampleScheduleState(*count)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def scale_by_batch_size(
  exponent: jax.typing.ArrayLike = 0.5,
) -> optax.GradientTransformationExtraArgs:
  """Scales the learning rate with the batch size: (b / b_0)^exponent.

  b_0 is the first batch that it sees, so that the learning rate is the one for
  the size at which a run starts.

  Args:
    exponent: 0 for no change, 1/2 for the square-root rule of Adam-like
      methods, 1 for the linear rule of SGD, with or without momentum.

  Returns:
    A transform whose update requires `statistics=`, for its `batch_size`.

  Raises:
    ValueError: If the exponent is negative; from update without statistics.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> transform = adaopt.scale_by_batch_size(exponent=0.5)
    >>> updates = jnp.ones(1)
    >>> state = transform.init(updates)
    >>> for batch_size in (8, 32):
    ...   scaled, state = transform.update(
    ...     updates, state,
    ...     statistics=adaopt.GradientStatistics(batch_size, updates))
    ...   print(scaled)
    [1.]
    [2.]
  """
  checks.check_not_negative(exponent=exponent)

  def init_fn(params):
    del params
    return ScaleByBatchSizeState(jnp.zeros([], jnp.int32))

  def update_fn(updates, state, params=None, **extra_args):
    del params
    b = passing.batch_size_in(extra_args, 'scale_by_batch_size')
    b = jnp.asarray(b, jnp.int32)
    first = jnp.where(state.first_batch_size > 0, state.first_batch_size, b)
    factor = (b / first) ** exponent
    return arithmetic.scale(factor, updates), ScaleByBatchSizeState(first)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)
