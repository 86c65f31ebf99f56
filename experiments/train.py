"""Trains a run to the end of its budget, from its last checkpoint."""

import contextlib
import functools
import pathlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import tqdm
from absl import logging

import adaopt
from adaopt import training
from adaopt.experiments import checkpoints, compilations, records, runs


class Progress(NamedTuple):
  """What a run needs besides its state to resume."""

  positions: list[int]  # bytes of each seed's metrics so far
  evaluated: int  # examples at the last evaluation
  seconds: float  # of training


class Interval(NamedTuple):
  """How often to save: whichever comes first."""

  examples: int
  minutes: float


def _record(logs: list[records.Log], kind: str, values: dict[str, Any]) -> None:
  """Writes each seed's own values and the shared ones to its log."""
  columns = {
    name: np.broadcast_to(value, len(logs)) for name, value in values.items()
  }
  for i, log in enumerate(logs):
    own = {name: column[i] for name, column in columns.items()}
    records.write(log, kind, own)


def _check_finite(metrics: adaopt.Metrics, num_seeds: int) -> None:
  """Raises ValueError if a seed must skip a step: batch sizes would differ."""
  if num_seeds > 1 and not np.all(metrics.finite):
    raise ValueError(
      f'in step {metrics.step} the loss or the gradient of a seed was not '
      'finite; train the seeds one by one with --config.seeds_together=False.'
    )


def _check_metrics(folders, progress):
  """Raises ValueError if a checkpoint is ahead of the metrics of a seed."""
  positions = Progress(**progress).positions
  for folder, position in zip(folders, positions, strict=True):
    records.check_metrics(folder, position)


@contextlib.contextmanager
def _open_logs(
  folders: list[pathlib.Path], positions: list[int], examples: int
) -> Iterator[list[records.Log]]:
  """Opens the logs of all seeds and always closes them."""
  with contextlib.ExitStack() as stack:
    logs = []
    for folder, position in zip(folders, positions, strict=True):
      logs.append(records.open_log(folder, position, examples))
      stack.callback(records.close, logs[-1])
    yield logs


class _Job(NamedTuple):
  """A run and where it writes."""

  name: str
  run: runs.Run
  config: ml_collections.ConfigDict
  logs: list[records.Log]
  manager: Any  # of its checkpoints
  interval: Interval
  stop: threading.Event


def train(
  name: str,
  run: runs.Run,
  config: ml_collections.ConfigDict,
  folders: list[pathlib.Path],
  interval: Interval,
  stop: threading.Event,
) -> bool:
  """Trains one run to the end of its budget, or until a stop is requested.

  Except for the seconds, its files do not depend on whether it was ever stopped
  or killed.

  Args:
    name: The name of the scheme.
    run: The run, of one seed or of several together.
    config: `num_examples`, `eval_interval` in examples, and
      `max_micro_batch_size`.
    folders: One per seed, for its metrics; the first one also receives the
      checkpoints.
    interval: How often to save.
    stop: Once set, the run saves and stops after the next step.

  Returns:
    Whether the run finished.

  Raises:
    ValueError: If there are checkpoints but none can be used.
  """
  programs = compilations.count()
  with checkpoints.open_folder(folders[0] / 'checkpoints') as manager:
    fresh = Progress([0] * len(folders), evaluated=-1, seconds=0.0)
    state, progress = checkpoints.latest(
      manager, run.state, functools.partial(_check_metrics, folders)
    ) or (run.state, fresh._asdict())
    progress = Progress(**progress)
    with _open_logs(folders, progress.positions, int(state.examples)) as logs:
      job = _Job(name, run, config, logs, manager, interval, stop)
      finished, seconds, skipped = _train(job, state, progress)
  end = records.End(
    finished, seconds / len(folders), compilations.count() - programs
  )
  for folder in folders:
    records.save_end(folder, end)
  if skipped:
    logging.warning(
      '%s: in %d steps the loss or the gradient was not finite, so the update '
      'was skipped.',
      name,
      skipped,
    )
  return finished


def _evaluate(job, state, progress):
  """Records an evaluation; returns the updated progress."""
  loss, accuracy = job.run.evaluate(state.params)
  values = {
    'examples': np.asarray(state.examples),
    'train_loss': loss,
    'test_accuracy': accuracy,
    'seconds': progress.seconds,
  }
  _record(job.logs, 'eval', values)
  for log in job.logs:
    records.flush(log)  # for those who watch
  return progress._replace(evaluated=int(state.examples))


def _record_step(job, metrics):
  _check_finite(metrics, len(job.logs))
  scalars = metrics._asdict()
  del scalars['aux']
  _record(job.logs, 'train', scalars)


def _is_save_due(job, examples, saved):
  """Whether to save; `saved` has the examples and time of the last save."""
  return (
    job.stop.is_set()
    or examples - saved[0] >= job.interval.examples
    or time.monotonic() - saved[1] >= 60 * job.interval.minutes
  )


def _save(job, state, progress):
  positions = [records.flush(log) for log in job.logs]
  progress = progress._replace(positions=positions)
  checkpoints.save(job.manager, int(state.step), state, progress._asdict())


def _train(job, state, progress):
  """Returns whether it finished, its training seconds and skipped steps."""
  config = job.config
  if progress.evaluated < 0:
    progress = _evaluate(job, state, progress)
  saved = int(state.examples), time.monotonic()
  skipped, begin = 0, time.perf_counter()
  # Each step begins after the loop body of the one before, so that none runs
  # while the clock stands still.
  steps = training.iterate(
    job.run.step_of,
    jax.tree.map(jnp.copy, state),
    job.run.examples,
    num_examples=config.num_examples,
    max_micro_batch_size=config.max_micro_batch_size,
    donate=True,
  )

  def timed(state, progress):
    jax.block_until_ready(state)
    seconds = progress.seconds + time.perf_counter() - begin
    return progress._replace(seconds=seconds)

  with _progress_bar(job.name, config, state) as show:
    for state, metrics in steps:
      _record_step(job, metrics)
      show(metrics)
      skipped += not np.all(metrics.finite)
      due = min(progress.evaluated + config.eval_interval, config.num_examples)
      to_evaluate = metrics.examples >= due > progress.evaluated
      to_save = _is_save_due(job, metrics.examples, saved)
      if not (to_evaluate or to_save):
        continue
      progress = timed(state, progress)
      if to_evaluate:
        progress = _evaluate(job, state, progress)
      if to_save:
        _save(job, state, progress)
        saved = int(state.examples), time.monotonic()
        # A stop that was requested since `to_save` waits for the next step.
        if job.stop.is_set() and metrics.examples < config.num_examples:
          if not to_evaluate:
            _evaluate(job, state, progress)
          return False, progress.seconds, skipped
      begin = time.perf_counter()
  progress = timed(state, progress)
  _save(job, state, progress)
  return True, progress.seconds, skipped


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
