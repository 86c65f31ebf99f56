"""Trains a run to the end of its budget of tokens, from its last checkpoint."""

import contextlib
import functools
import json
import pathlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
import tqdm
from jax.experimental import multihost_utils

import adaopt
from adaopt.experiments import checkpoints, records
from adaopt.experiments.language_model import runs
from adaopt.training import counting

FRESH = {'position': 0, 'evaluated': 0.0, 'feed': None}
"""The progress of a run that begins: bytes of metrics, tokens at the last
evaluation, and where its feed stands."""


@contextlib.contextmanager
def _log(
  folder: pathlib.Path, position: int, examples: int
) -> Iterator[tuple[Callable[..., None], Callable[[], int]]]:
  """Yields how to write and to flush; the first process does it for all."""
  if jax.process_index():
    yield lambda kind, values: None, lambda: 0
    return
  log = records.open_log(folder, position, examples)
  try:
    yield functools.partial(records.write, log), lambda: records.flush(log)
  finally:
    records.close(log)


def _is_stopped(stop):
  """Whether any process was asked to stop."""
  asked = multihost_utils.process_allgather(np.array(stop.is_set()))
  return bool(np.any(asked))


class _Job(NamedTuple):
  """A run and where it writes."""

  run: runs.Run
  config: ml_collections.ConfigDict
  manager: Any  # of its checkpoints
  write: Callable[..., None]
  flush: Callable[[], int]
  stop: threading.Event


def train(
  run: runs.Run,
  config: ml_collections.ConfigDict,
  folder: pathlib.Path,
  stop: threading.Event,
) -> bool:
  """Trains to the end of the budget, or until a stop is requested.

  What it writes does not depend on whether it was ever stopped or killed.

  Args:
    run: From `runs.prepare`.
    config: `num_tokens` and `eval_interval`, in tokens.
    folder: Receives metrics and checkpoints, one at every evaluation.
    stop: Once set in any process, all save and stop after the next step.

  Returns:
    Whether the run finished.

  Raises:
    ValueError: If there are checkpoints but none can be used.
  """
  check = lambda progress: records.check_metrics(folder, progress['position'])
  with checkpoints.open_folder(folder / 'checkpoints') as manager:
    state, progress = checkpoints.latest(manager, run.state, check) or (
      run.state,
      FRESH,
    )
    if progress['feed'] is not None:
      run.feed.set_state(json.dumps(progress['feed']).encode())
    examples = int(state.train.examples)
    with _log(folder, progress['position'], examples) as (write, flush):
      job = _Job(run, config, manager, write, flush, stop)
      return _train(job, state, progress['evaluated'])


def _evaluate(job, state, tokens):
  values = {
    'examples': int(state.train.examples),
    'tokens': tokens,
    'test_loss': job.run.evaluate(state.train.params),
    'average_test_loss': job.run.evaluate(state.average),
  }
  job.write('eval', values)


def _save(job, state, evaluated):
  progress = {
    'position': job.flush(),
    'evaluated': evaluated,
    'feed': json.loads(job.run.feed.get_state()),
  }
  checkpoints.save(job.manager, int(state.train.step), state, progress)


def _train(job, state, evaluated):
  """Returns whether it finished."""
  run, config = job.run, job.config
  tokens = counting.value(state.train.weight)
  steps = adaopt.fit(
    run.loss_fn,
    run.optimizer,
    state.train,
    run.feed,
    total_weight=config.num_tokens,
  )
  with _progress_bar(tokens, config.num_tokens) as show:
    for train_state, metrics in steps:
      seen = np.float32([metrics.batch_size, metrics.examples])
      average = run.move(state.average, train_state.params, *seen)
      state = runs.State(train_state, average)
      tokens = counting.value(train_state.weight)
      job.write('train', _scalars(metrics) | {'tokens': tokens})
      show(tokens, metrics)
      due = min(evaluated + config.eval_interval, config.num_tokens)
      stopped = _is_stopped(job.stop) and tokens < config.num_tokens
      if tokens >= due:
        _evaluate(job, state, tokens)
        evaluated = tokens
      if tokens >= due or stopped:
        _save(job, state, evaluated)
      if stopped:
        return False
  return True


def _scalars(metrics):
  values = metrics._asdict()
  del values['aux']
  return values


@contextlib.contextmanager
def _progress_bar(tokens, num_tokens):
  """Yields a function that shows the metrics of a step."""
  with tqdm.tqdm(
    total=num_tokens,
    initial=int(tokens),
    unit=' tokens',
    unit_scale=True,
    disable=jax.process_index() > 0,
  ) as bar:

    def show(tokens, metrics):
      bar.set_postfix(
        {'batch': metrics.batch_size, 'loss': metrics.loss}, refresh=False
      )
      bar.update(int(tokens) - bar.n)

    yield show
