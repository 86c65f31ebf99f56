"""Compares schemes: python -m adaopt.experiments.compare --config=… --workdir=…

Trains every scheme of a config with some seeds, and resumes what was stopped.
"""

import collections
import pathlib
from typing import Any

import ml_collections
from absl import flags, logging

from adaopt.experiments import (
  command_line,
  config_options,
  interrupts,
  locks,
  options,
  records,
  results,
  runs,
  train,
)
from adaopt.experiments.plots import comparison

_CHECKPOINT_EXAMPLES = flags.DEFINE_integer(
  'checkpoint_examples', 2**30, 'Examples between checkpoints.', lower_bound=1
)
_CHECKPOINT_MINUTES = flags.DEFINE_float(
  'checkpoint_minutes', 5.0, 'Minutes between checkpoints.', lower_bound=0.0
)


COLUMNS = {
  'steps': ('steps', '.0f'),
  'examples': ('examples', '.0f'),
  'mean_batch_size': ('mean batch', '.0f'),
  'final_batch_size': ('final batch', '.0f'),
  'train_loss': ('train loss', '.4f'),
  'test_accuracy': ('test accuracy', '.4f'),
  'seconds': ('seconds', '.1f'),
  'programs': ('programs compiled', '.0f'),
}


def summarise(
  scheme: str, seed: int, curves: records.Curves, end: records.End
) -> dict[str, Any]:
  """The row of a run that made at least one step."""
  steps = len(curves.train['examples'])
  examples = int(curves.train['examples'][-1])
  return {
    'scheme': scheme,
    'seed': seed,
    'steps': steps,
    'examples': examples,
    'mean_batch_size': examples / steps,
    'final_batch_size': int(curves.train['batch_size'][-1]),
    'train_loss': float(curves.eval['train_loss'][-1]),
    'test_accuracy': float(curves.eval['test_accuracy'][-1]),
    **end._asdict(),
  }


def table(rows: list[dict[str, Any]]) -> str:
  """The results in Markdown; each scheme says how many of its runs stopped."""
  stopped = collections.Counter(r['scheme'] for r in rows if not r['finished'])
  titles = {name: f'{name} ({n} stopped)' for name, n in stopped.items()}
  named = [r | {'scheme': titles.get(r['scheme'], r['scheme'])} for r in rows]
  return results.averages(named, COLUMNS)


def _folder(workdir, scheme, seed):
  return workdir / scheme / f'seed_{seed}'


def _claim(planned, config, workdir):
  """Claims the folders of all runs, or raises before any training."""
  shared = {k: v for k, v in config.items() if k not in ('schemes', 'seed')}
  settings = {
    _folder(workdir, name, seed): ml_collections.ConfigDict(
      shared | {'scheme': config.schemes[name], 'seed': seed}
    )
    for name, seeds, _ in planned
    for seed in seeds
  }
  for take in (records.check, records.claim):
    for folder, own in settings.items():
      take(folder, own)


def report(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> str:
  """Writes tables and pictures of all runs that finished or stopped."""
  rows, curves = [], {}
  for name in config.schemes:
    for folder in sorted((workdir / name).glob('seed_*')):
      end = records.read_end(folder)
      if end is None:
        continue
      seed = int(folder.name.removeprefix('seed_'))
      run = records.read(folder)
      rows.append(summarise(name, seed, run, end))
      curves.setdefault(name, []).append(run)
  if not rows:
    return 'No run has made a step.'
  text = table(rows)
  try:
    results.save(rows, text, workdir, 'results')
    comparison.save(curves, workdir)
  except OSError as error:
    logging.warning('The table is printed and not saved: %s.', error)
  return text


def run_all(
  planned: list[runs.Planned],
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  interval: train.Interval,
) -> str:
  """Trains all planned runs that are not finished; reports after each.

  Raises:
    ValueError: If another process works in the folder, or it holds runs with
      other settings, or one of its files is damaged.
    OSError: If the disk is full; what was saved stays.
  """
  text = ''
  with locks.held(workdir), interrupts.requested_stop() as stop:
    _claim(planned, config, workdir)
    for name, seeds, prepare in planned:
      ends = {s: records.read_end(_folder(workdir, name, s)) for s in seeds}
      left = tuple(s for s, end in ends.items() if not (end and end.finished))
      if left:
        folders = [_folder(workdir, name, seed) for seed in left]
        run = prepare(left)
        finished = not stop.is_set() and train.train(
          name, run, config, folders, interval, stop
        )
      text = report(config, workdir)
      if left and not finished:
        print(f'Stopped in {name}; the same command resumes the run.')
        break
  return text


def main() -> None:
  """Trains the schemes of a config and prints the table."""
  config = config_options.CONFIG.value
  workdir = pathlib.Path(options.WORKDIR.value)
  interval = train.Interval(
    _CHECKPOINT_EXAMPLES.value, _CHECKPOINT_MINUTES.value
  )
  names = config_options.SCHEMES.value or list(config.get('schemes', ()))
  with config_options.ending_in_words(
    'the same command resumes from the last checkpoint.'
  ):
    planned = runs.plan(
      config, names, options.SEEDS.value, options.DATA_DIR.value
    )
    print(run_all(planned, config, workdir, interval))
  print(f'Tables and pictures: {workdir}')


if __name__ == '__main__':
  command_line.run(
    main, ['config', 'workdir'], ['data_dir', 'seeds', 'schemes']
  )
