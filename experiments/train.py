"""Trains the runs of a plan and writes what they did."""

import pathlib
import threading
import time
from typing import NamedTuple

import jax
import ml_collections
import tqdm
from absl import logging

import adaopt
from experiments import compilations, interrupts, plots, results, runs


class Curves(NamedTuple):
  """What a run leaves to draw."""

  evaluations: list[results.Evaluation]
  batch_sizes: list[tuple[int, int]]  # (examples, batch size) of every step


def train(
  name: str,
  run: runs.Run,
  config: ml_collections.ConfigDict,
  folder: pathlib.Path,
  stop: threading.Event,
) -> tuple[Curves, float]:
  """Trains one run to the end of its budget, or until it is to stop.

  Args:
    name: Of the scheme.
    run: The run.
    config: `num_examples`, `eval_interval` in examples, and
      `max_micro_batch_size`.
    folder: Gets metrics.jsonl and TensorBoard events.
    stop: Set when it is to stop after the step at hand.

  Returns:
    The curves, and the seconds that training took, compilation included and
    evaluation not.
  """
  writer = results.open_writer(folder)
  curves = Curves([], [])

  def evaluate(state):
    jax.block_until_ready(state)
    begin = time.perf_counter()
    loss, accuracy = jax.device_get(run.evaluate(state.params))
    evaluation = results.Evaluation(
      int(state.examples), float(loss), float(accuracy)
    )
    curves.evaluations.append(evaluation)
    results.write(writer, 'eval', evaluation._asdict())
    return time.perf_counter() - begin

  def record(metrics):
    scalars = metrics._asdict()
    del scalars['aux']
    results.write(writer, 'train', scalars)
    curves.batch_sizes.append((int(metrics.examples), int(metrics.batch_size)))

  evaluate(run.state)
  skipped, paused, begin = 0, 0.0, time.perf_counter()
  bar = tqdm.tqdm(
    total=config.num_examples, desc=name, unit=' examples', unit_scale=True
  )
  for state, metrics in adaopt.fit(
    run.make_step,
    run.state,
    run.examples,
    num_examples=config.num_examples,
    max_micro_batch_size=config.max_micro_batch_size,
  ):
    record(metrics)
    skipped += not metrics.finite
    bar.set_postfix(
      {'batch': metrics.batch_size, 'loss': metrics.loss}, refresh=False
    )
    bar.update(int(metrics.batch_size))
    last = curves.evaluations[-1].examples
    due = min(last + config.eval_interval, config.num_examples)
    if metrics.examples >= due > last or stop.is_set():
      paused += evaluate(state)
    if stop.is_set():
      break
  seconds = time.perf_counter() - begin - paused
  bar.close()
  results.close(writer)
  if skipped:
    logging.warning(
      '%s: in %d steps the loss or the gradient was not finite, and the update '
      'was left out.',
      name,
      skipped,
    )
  return curves, seconds


def run_all(
  planned: list[runs.Planned],
  config: ml_collections.ConfigDict,
  workdir: str,
) -> list[results.Result]:
  """Trains what is planned; writes table and picture after every run.

  Args:
    planned: From `runs.plan`.
    config: The same.
    workdir: Gets config.json, results.csv, results.md, curves.png, and for
      every run SCHEME/seed_N with metrics.jsonl and TensorBoard events.

  Returns:
    The rows of the table; fewer after Ctrl-C.
  """
  folder = pathlib.Path(workdir)
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'config.json').write_text(config.to_json(indent=2) + '\n')
  rows, all_curves = [], {}
  with interrupts.requested_stop() as stop:
    for name, seed, prepare in planned:
      run, programs = prepare(), compilations.count()
      curves, seconds = train(
        name, run, config, folder / name / f'seed_{seed}', stop
      )
      programs = compilations.count() - programs
      rows.append(_result(name, seed, curves, seconds, programs))
      all_curves.setdefault(name, []).append(curves)
      results.save_table(rows, folder)
      plots.save_curves(all_curves, folder / 'curves.png')
      if stop.is_set():
        print(f'Stopped in {name}; what there is lies in {folder}.')
        break
  return rows


def _result(name, seed, curves, seconds, programs):
  """The row of a run."""
  examples, batch_size = curves.batch_sizes[-1]
  steps = len(curves.batch_sizes)
  return results.Result(
    scheme=name,
    seed=seed,
    steps=steps,
    examples=examples,
    mean_batch_size=examples / steps,
    final_batch_size=batch_size,
    train_loss=curves.evaluations[-1].train_loss,
    test_accuracy=curves.evaluations[-1].test_accuracy,
    seconds=seconds,
    programs=programs,
  )
