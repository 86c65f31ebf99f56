"""Loops over steps: the next one is dispatched before the last one is read."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from adaopt._common import base, checks, functions
from adaopt.training import counting, drivers, placing, steps, timing


class Run(NamedTuple):
  """What a loop goes through: steps over the examples of a stream."""

  # Micro-batch size → step, the same for the same size.
  step_of: Callable[[int], Callable[[Any, Any], tuple[Any, steps.Metrics]]]
  micro_batch_size: Callable[[int], int]  # of a batch of this size
  max_micro_batch_size: int
  dataset: Any
  # The count of examples of a state → its position in the stream.
  position: Callable[[Any], Any]
  # (position, state) → whether there is a batch at the position.
  goes_on: Callable[[Any, Any], bool]


def rung(batch_size: int, largest: int) -> int:
  """The smallest of largest, largest/4, largest/16, … that holds a batch."""
  while largest % 4 == 0 and largest // 4 >= batch_size:
    largest //= 4
  return largest


def within(
  num_examples: int | None, total_weight: float | None
) -> Callable[[Any, Any], bool]:
  """(position, state) → whether neither budget is spent."""

  def goes_on(position, state):
    if num_examples is not None and position >= num_examples:
      return False
    return total_weight is None or counting.value(state.weight) < total_weight

  return goes_on


def nothing(state: Any, metrics: steps.Metrics) -> None:
  """An observer that does nothing."""
  del state, metrics


def iterate(
  step_of: Callable[[int], drivers.Step],
  state: Any,
  dataset: base.Batch,
  *,
  num_examples: int,
  total_weight: float | None = None,
  max_micro_batch_size: int,
  donate: bool = False,
  start: Callable[[Any, Any], timing.Observer] = lambda *_: nothing,
) -> Iterator[tuple[Any, steps.Metrics]]:
  """The loop of `fit`, over steps of your own on arrays.

  Args:
    step_of: micro_batch_size → step, the same for the same size.
    state: Where to start.
    dataset: As in `fit`, arrays.
    num_examples: As in `fit`.
    total_weight: As in `fit`.
    max_micro_batch_size: As in `fit`.
    donate: Whether the steps overwrite their state.
    start: (state, dataset) → what to call with each state and its metrics
      before they are yielded; called before the first step, if there is one.

  Returns:
    An iterator over (state, metrics).

  Raises:
    ValueError: For arguments out of range, and a state without `examples`.
  """
  checks.check_callable('of the micro-batch size', step_of=step_of)
  checks.check_callable('(state, dataset) -> observer', start=start)
  functions.check_takes(1, step_of=step_of)
  functions.check_takes(2, start=start)
  checks.check_integer(
    1, num_examples=num_examples, max_micro_batch_size=max_micro_batch_size
  )
  checks.check_flag(donate=donate)
  checks.check_arrays(dataset=dataset)
  if not hasattr(state, 'examples'):
    raise ValueError(
      'state must count its examples, as a TrainState does, got '
      f'{type(state).__name__}.'
    )
  if total_weight is not None:
    checks.check_positive(total_weight=total_weight)
  goes_on = within(num_examples, total_weight)
  if not goes_on(int(state.examples), state):
    return iter(())
  placing.check_same(dataset, placing.mesh_of(state))
  dataset = placing.placed(dataset, placing.beside(state))
  run = Run(
    step_of,
    lambda batch_size: rung(batch_size, max_micro_batch_size),
    max_micro_batch_size,
    dataset,
    position=lambda count: count,
    goes_on=goes_on,
  )
  return loop(run, state, start(state, dataset), donate)


def loop(
  run: Run, state: Any, observe: timing.Observer, donate: bool
) -> Iterator[tuple[Any, steps.Metrics]]:
  """Goes through a run that has a first step.

  Args:
    run: The run.
    state: Where to start.
    observe: What to call with each state and its metrics before they are
      yielded.
    donate: Whether the steps overwrite their state.

  Returns:
    An iterator over (state, metrics).
  """
  watch = timing.stopwatch(state, run.max_micro_batch_size)

  def dispatch(state, last_batch_size):
    size = run.micro_batch_size(int(last_batch_size))
    state = watch.before(state, size)
    return state, run.step_of(size)(state, run.dataset)

  def known(state, metrics):
    metrics = jax.device_get(metrics)
    metrics = metrics._replace(examples=run.position(metrics.examples))
    observe(state, metrics)
    return metrics

  observe = watch.timed(observe)
  go = _in_turn if donate else _ahead
  return go(dispatch, known, state, run)


# The size of a batch may not be known yet when its step is dispatched, so the
# size of the batch before chooses its micro-batches. Only speed depends on it.


def _in_turn(dispatch, known, state, run):
  """A step after the loop body of the one before."""
  _, (state, metrics) = dispatch(state, state.last_batch_size)
  _warn_of_lowered_size(metrics)
  while True:
    metrics = known(state, metrics)
    yield state, metrics
    if not run.goes_on(metrics.examples, state):
      return
    _, (state, metrics) = dispatch(state, metrics.batch_size)


def _ahead(dispatch, known, state, run):
  """A step is dispatched before the metrics of the one before are read."""
  _, (state, metrics) = dispatch(state, state.last_batch_size)
  following = None
  try:
    first = _warn_of_lowered_size(metrics)
    position, batch_size = run.position(first.examples), first.batch_size
    while True:
      if run.goes_on(position, state):
        state, following = dispatch(state, batch_size)
      read = known(state, metrics)
      yield state, read
      if following is None:
        return
      (state, metrics), following = following, None
      batch_size = read.next_batch_size
      position = read.examples + batch_size
  finally:
    # Nothing is left running behind a break.
    jax.block_until_ready((metrics, following))


def _warn_of_lowered_size(metrics: steps.Metrics) -> steps.Metrics:
  """Reads the metrics of a first step; warns if max_batch_size was lowered."""
  known = jax.device_get(metrics)
  sizes = known.batch_size, known.next_batch_size
  if sizes[0] > sizes[1] and np.all(known.required > sizes[0]):
    logging.warning(
      'The state came with a batch size of %d, above the largest that the '
      'optimizer allows; it came down to %d.',
      *sizes,
    )
  return known
