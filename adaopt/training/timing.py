"""The seconds of a step: measured while a run goes on, and modelled.

The clock is read when the metrics of a step arrive, as they do anyway: nothing
waits for it. What lies between two arrivals is the time of a step as the run
has it, the loop body included.
"""

import collections
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from adaopt._common import fields
from adaopt.criteria import wall_clock
from adaopt.training import agreeing, placing

Observer = Callable[[Any, Any], None]
"""(state, metrics) → None."""

clock = time.perf_counter

ENOUGH = 8
"""The number of steps of a size that make its median."""
PERIOD = 128
"""The number of steps between two models, where no size is new."""
KEPT = 32
"""The number of steps of a size that are remembered: the last ones."""
STRIDE = 4
"""How far a model is trusted beyond the largest size that was measured."""


class Stopwatch(NamedTuple):
  """What a loop calls to have its steps timed."""

  # (state, micro_batch_size) → the state to dispatch, with what was measured.
  before: Callable[[Any, int], Any]
  # Of a function of the state and metrics of a step, called as they arrive.
  timed: Callable[[Observer], Observer]


def stopwatch(state: Any, max_micro_batch_size: int) -> Stopwatch:
  """Times the steps of a run where its state holds `criteria.Seconds`.

  An interval in which a micro-batch size was dispatched for the first time,
  and so may have been compiled, does not count.

  Args:
    state: Where the run starts. Seconds that it holds are kept until steps of
      two sizes have been measured.
    max_micro_batch_size: As in `fit`.

  Returns:
    The stopwatch; one that does nothing where no state holds seconds.

  Raises:
    ValueError: If seconds would be measured on several processes.
  """
  held = fields.states_of(state, wall_clock.Seconds)
  if not held:
    return Stopwatch(lambda state, size: state, lambda observe: observe)
  if len(agreeing.processes(placing.mesh_of(state))) > 1:
    raise ValueError(
      'goodput() measures seconds, in which processes differ, and so would the '
      'batch sizes that it asks for; pass it seconds=(fixed, per_example).'
    )
  fewest_sizes = 2 if any(np.any(jax.device_get(s.reach)) for s in held) else 1
  seconds = collections.defaultdict(lambda: collections.deque(maxlen=KEPT))
  dispatched = collections.deque()  # micro-batch sizes of steps under way
  programs, count = set(), 0
  last, model = None, None

  def before(state, micro_batch_size):
    nonlocal last, model
    dispatched.append(micro_batch_size)
    if micro_batch_size not in programs:
      programs.add(micro_batch_size)
      last = None
    if model is None:
      return state
    with jax.transfer_guard('allow'):
      state = wall_clock.with_seconds(state, **model)
    model = None
    return state

  def arrived(batch_size):
    nonlocal last, model, count
    now = clock()
    m = dispatched.popleft()
    if last is not None and now > last:
      of_size = seconds[-(-batch_size // m) * m]
      of_size.append(now - last)
      count += 1
      if len(of_size) == ENOUGH or count % PERIOD == 0:
        model = _model(seconds, fewest_sizes, max_micro_batch_size)
    last = now

  def timed(observe):
    def observe_in_time(state, metrics):
      arrived(int(metrics.batch_size))
      observe(state, metrics)

    return observe_in_time

  return Stopwatch(before, timed)


def _model(seconds, fewest_sizes, max_micro_batch_size):
  """The arguments of `with_seconds`; None where too little is measured."""
  measured = {n: s for n, s in seconds.items() if len(s) >= ENOUGH}
  if len(measured) < fewest_sizes:
    return None
  fixed, per_example = affine(measured)
  return dict(
    fixed=fixed,
    per_example=per_example,
    micro_batch_size=max_micro_batch_size,
    reach=STRIDE * max(measured),
  )


def affine(seconds: Mapping[int, Sequence[float]]) -> tuple[float, float]:
  """The line fixed + per_example · n through measured seconds.

  Of the medians t_n of k_n steps each, it makes Σ k_n (line_n / t_n − 1)² least
  under fixed, per_example ≥ 0: errors of a clock are relative, and a median
  leaves out the steps in which the machine did something else.

  Args:
    seconds: From the number of examples processed n to the seconds of steps,
      > 0. At least one.

  Returns:
    (fixed, per_example). Of one size alone all is fixed.

  Example:
    >>> from adaopt.training import timing
    >>> fixed, per_example = timing.affine(
    ...   {10: [3.0, 2.0, 90.0], 100: [12.0, 12.0], 1000: [102.0]})
    >>> print(f'{fixed:.2f} {per_example:.2f}')
    2.00 0.10
  """
  medians = np.array([statistics.median(s) for s in seconds.values()])
  weights = np.sqrt([len(s) for s in seconds.values()])
  sizes = np.array([*seconds], float)
  columns = np.stack([np.ones_like(sizes), sizes]) / medians * weights
  if len(sizes) == 1:
    return float(medians[0]), 0.0
  line = np.linalg.lstsq(columns.T, weights)[0]
  if np.all(line >= 0):
    return float(line[0]), float(line[1])
  # The least lies on an edge: one of the two alone.
  alone = (columns @ weights) / np.sum(columns**2, axis=1)
  errors = np.sum((alone[:, None] * columns - weights) ** 2, axis=1)
  if errors[0] <= errors[1]:
    return float(alone[0]), 0.0
  return 0.0, float(alone[1])
