"""Draws the frontier.

python -m adaopt.experiments.frontier --config=… --workdir=…
"""

import pathlib

import ml_collections

from adaopt.experiments import (
  command_line,
  config_options,
  files,
  locks,
  options,
)
from adaopt.experiments.frontier import plan, reporting, training
from adaopt.experiments.plots import frontier as pictures


def run_all(
  config: ml_collections.ConfigDict,
  names: list[str],
  num_seeds: int,
  data_dir: str | None,
  workdir: pathlib.Path,
) -> str:
  """Runs the trials that are not done yet, and reports on all.

  The folder receives trials.jsonl, frontier.md, frontier.png and devices.png.
  """
  plan.check(config)
  for name in names:
    plan.scheme_of(config, name)
  splits = training.load(config, data_dir)
  with locks.held(workdir):
    run = plan.remembering(config, splits, workdir / 'trials.jsonl')
    return _run_all(config, names, num_seeds, run, workdir)


def _run_all(config, names, num_seeds, run, workdir):
  seeds = range(config.seed, config.seed + num_seeds)

  def seeds_of(name, rate):
    outcomes = [run(name, rate, seed) for seed in seeds]
    print(reporting.line(name, rate, outcomes), flush=True)
    return outcomes

  print('Searching the learning rate of every fixed batch size.', flush=True)
  sized = plan.fixed_rates(config, run)
  rates = {name: sized[size] for size, name in plan.fixed_names(config).items()}
  fixed = {name: seeds_of(name, rate) for name, rate in rates.items()}
  rates |= dict.fromkeys(names, sized[config.init])
  schemes, table = {}, ''
  for name in names:
    schemes[name] = seeds_of(name, rates[name])
    table = reporting.table(schemes, fixed, rates)
    files.write(workdir / 'frontier.md', table + '\n')
  pictures.save(schemes, fixed, config.device_batch, workdir)
  return table


def main() -> None:
  """Runs what is not done yet, and prints the table."""
  config = config_options.CONFIG.value
  workdir = pathlib.Path(options.WORKDIR.value)
  names = config_options.SCHEMES.value or list(config.get('schemes', ()))
  with config_options.ending_in_words(
    'the same command goes on after the last whole run.'
  ):
    print(
      run_all(
        config, names, options.SEEDS.value, options.DATA_DIR.value, workdir
      )
    )
  print(f'Table and pictures: {workdir}')


if __name__ == '__main__':
  command_line.run(
    main, ['config', 'workdir'], ['data_dir', 'seeds', 'schemes']
  )
