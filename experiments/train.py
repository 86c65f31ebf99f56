"""Trains a run to the end of its budget, from wherever it had got to."""

import contextlib
import pathlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
import tqdm
from absl import logging

import adaopt
from experiments import checkpoints, compilations, records, runs


class Interval(NamedTuple):
  """How often to save: by whichever comes first."""

  examples: int
  minutes: float


def _record(logs: list[records.Log], kind: str, values: dict[str, Any]) -> None:
  """Writes to the log of each seed what is its own, and what is everyone's."""
  columns = {
    name: np.broadcast_to(value, len(logs)) for name, value in values.items()
  }
  for i, log in enumerate(logs):
    own = {name: column[i] for name, column in columns.items()}
    records.write(log, kind, own)


def _check_finite(metrics: adaopt.Metrics, num_seeds: int) -> None:
  """A step left out by one seed alone would set its batch sizes apart."""
  if num_seeds > 1 and not np.all(metrics.finite):
    raise ValueError(
      f'in step {metrics.step} the loss or the gradient of a seed was not '
      'finite; train the seeds one by one with --config.seeds_together=False.'
    )


@contextlib.contextmanager
def _open_logs(
  folders: list[pathlib.Path], positions: list[int], examples: int
) -> Iterator[list[records.Log]]:
  """The logs of all seeds, closed in the end whatever happens."""
  with contextlib.ExitStack() as stack:
    logs = []
    for folder, position in zip(folders, positions, strict=True):
      logs.append(records.open_log(folder, position, examples))
      stack.callback(records.close, logs[-1])
    yield logs


def train(
  name: str,
  run: runs.Run,
  config: ml_collections.ConfigDict,
  folders: list[pathlib.Path],
  interval: Interval,
  stop: threading.Event,
) -> bool:
  """Trains one run to the end of its budget, or until it is to stop.

  What it writes does not depend on whether it was ever stopped or killed, but
  for the seconds.

  Args:
    name: Of the scheme.
    run: The run, of one seed or of several together.
    config: `num_examples`, `eval_interval` in examples, and
      `max_micro_batch_size`.
    folders: One for every seed, for its metrics; the first one gets the
      checkpoints too.
    interval: How often to save.
    stop: Set when it is to save and stop after the next step.

  Returns:
    Whether it came to its end.

  Raises:
    ValueError: If there are checkpoints, and none can be used.
  """
  programs = compilations.count()
  with checkpoints.open_folder(folders[0] / 'checkpoints') as manager:
    fresh = checkpoints.Progress([0] * len(folders), evaluated=-1, seconds=0.0)
    state, progress = checkpoints.latest(manager, run.state) or (
      run.state,
      fresh,
    )
    with _open_logs(folders, progress.positions, int(state.examples)) as logs:
      finished, seconds, skipped = _train(
        name, run, state, config, logs, manager, progress, interval, stop
      )
  end = records.End(
    finished, seconds / len(folders), compilations.count() - programs
  )
  for folder in folders:
    records.save_end(folder, end)
  if skipped:
    logging.warning(
      '%s: in %d steps the loss or the gradient was not finite, and the update '
      'was left out.',
      name,
      skipped,
    )
  return finished


def _train(name, run, state, config, logs, manager, progress, interval, stop):
  """Whether it came to its end, seconds of training, and steps left out."""
  evaluated, trained = progress.evaluated, progress.seconds

  def evaluate(state):
    loss, accuracy = run.evaluate(state.params)
    values = {
      'examples': np.asarray(state.examples),
      'train_loss': loss,
      'test_accuracy': accuracy,
      'seconds': trained,
    }
    _record(logs, 'eval', values)
    return int(state.examples)

  def save(state):
    positions = [records.flush(log) for log in logs]
    now = checkpoints.Progress(positions, evaluated, trained)
    checkpoints.save(manager, state, now)

  if evaluated < 0:
    evaluated = evaluate(state)
  # A state comes a step before its metrics, and is saved with them.
  pending, saved = None, (int(state.examples), time.monotonic())
  skipped, begin = 0, time.perf_counter()
  steps = adaopt.fit(
    run.make_step,
    state,
    run.examples,
    num_examples=config.num_examples,
    max_micro_batch_size=config.max_micro_batch_size,
  )
  with _progress_bar(name, config, state) as show:
    for state, metrics in steps:
      _check_finite(metrics, len(logs))
      scalars = metrics._asdict()
      del scalars['aux']
      _record(logs, 'train', scalars)
      show(metrics)
      skipped += not np.all(metrics.finite)
      due = min(evaluated + config.eval_interval, config.num_examples)
      to_evaluate = metrics.examples >= due > evaluated
      to_save = (
        stop.is_set()
        or metrics.examples - saved[0] >= interval.examples
        or time.monotonic() - saved[1] >= 60 * interval.minutes
      )
      if not (to_evaluate or to_save or pending):
        continue
      jax.block_until_ready(state)
      trained += time.perf_counter() - begin
      if to_evaluate:
        evaluated = evaluate(state)
      if pending:
        save(pending)
        saved = int(pending.examples), time.monotonic()
        if stop.is_set():
          evaluate(pending)
          return False, trained, skipped
      pending = jax.device_get(state) if to_save and not pending else None
      begin = time.perf_counter()
  jax.block_until_ready(state)
  trained += time.perf_counter() - begin
  save(state)
  return True, trained, skipped


@contextlib.contextmanager
def _progress_bar(
  name: str, config: ml_collections.ConfigDict, state: adaopt.TrainState
) -> Iterator[Callable[[adaopt.Metrics], None]]:
  """Yields a function that shows the metrics of a step."""
  with tqdm.tqdm(
    desc=name,
    total=config.num_examples,
    initial=int(state.examples),
    unit=' examples',
    unit_scale=True,
  ) as bar:

    def show(metrics):
      loss = np.mean(metrics.loss)
      bar.set_postfix(
        {'batch': metrics.batch_size, 'loss': loss}, refresh=False
      )
      bar.update(int(metrics.batch_size))

    yield show
