"""A batch size that is held until a number of examples were seen."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from adaopt._common import checks, counts, fields, passing
from adaopt.batch_size import accumulation


class HoldUntilState(NamedTuple):
  """State of `hold_until`."""

  examples: jax.Array  # [] int32, seen so far, modulo 2³¹
  turns: jax.Array  # [] int32, how often they went round 2³¹
  inner_state: optax.OptState  # which holds the batch size


def hold_until(
  transform: optax.GradientTransformation, num_examples: int
) -> optax.GradientTransformationExtraArgs:
  """Keeps the first batch size until `num_examples` examples were seen.

  Such as those of a warm-up of the learning rate. Around `adapt_batch_size` the
  criterion goes on testing meanwhile, so that its averages are those of the
  whole warm-up; where it had asked for the largest size, the first test after
  it can be an update late. Around `schedule_batch_size` the schedule goes on
  counting: after the warm-up the size is what it says there.

  Args:
    transform: What holds a batch size, alone or in a chain; within
      `accumulate`.
    num_examples: N: the size moves from the first update on by which N
      examples were seen.

  Returns:
    The transform. An update accounts for `statistics.batch_size` examples, and
    for as many as the current size without `statistics=`.

  Raises:
    ValueError: If transform is not one, or num_examples not a positive
      integer; from init if it does not hold one batch size, or accumulates
      micro-batches.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> import optax
    >>> transform = adaopt.batch_size.hold_until(
    ...   adaopt.schedule_batch_size(optax.linear_schedule(8, 72, 64)), 24)
    >>> updates = jnp.zeros(2)
    >>> state = transform.init(updates)
    >>> for _ in range(4):
    ...   print(optax.tree.get(state, 'batch_size'))
    ...   _, state = transform.update(updates, state)
    8
    8
    8
    32
  """
  checks.check_optimizer(transform, 'transform')
  checks.check_integer(1, bits=counts.BITS, num_examples=num_examples)
  transform = passing.with_own_args(transform)

  def init_fn(params):
    inner_state = transform.init(params)
    fields.batch_size_of(inner_state)
    if fields.states_of(inner_state, accumulation.AccumulateState):
      raise ValueError(
        'hold_until counts whole batches, and accumulate is passed '
        'micro-batches: pass it what is within accumulate.'
      )
    return HoldUntilState(*counts.nothing(), inner_state)

  def update_fn(updates, state, params=None, **extra_args):
    first = fields.batch_size_of(state.inner_state)
    statistics = None
    if 'statistics' in extra_args:
      statistics = passing.statistics_in(extra_args, 'hold_until')
    used = first if statistics is None else statistics.batch_size
    count = counts.added(state.examples, state.turns, used)
    updates, inner_state = transform.update(
      updates, state.inner_state, params, **extra_args
    )
    size = jnp.where(
      counts.reaches(*count, num_examples),
      fields.batch_size_of(inner_state),
      first,
    )
    inner_state = fields.with_batch_size(inner_state, size)
    return updates, HoldUntilState(*count, inner_state)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)
