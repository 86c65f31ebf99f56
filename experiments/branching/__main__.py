"""Measures the critical batch size by branching.

  python -m adaopt.experiments.branching \
    --config=experiments/configs/frontier.py:fashion_mnist_momentum \
    --workdir=runs/branching --seeds=8 --data_dir=DIR

A trunk trains with the batch size `init` and a constant learning rate. At
points of it, branches start from its whole state, optimizer included: for
k = 1, 2, 4, … equally many examples in batches k times as large, the rate
scaled by k^exponent. The critical batch size is the largest whose validation
loss, averaged over the second half of the branch, is within a tolerance of that
of k = 1.

References:
  Merrill et al., `Critical Batch Size Revisited: A Simple Empirical Approach to
  Large-Batch Language Model Training <https://arxiv.org/abs/2505.23971>`_, 2025
"""

import json
import pathlib

import ml_collections
from absl import flags

from adaopt.experiments import (
  command_line,
  config_options,
  files,
  journal,
  locks,
  options,
)
from adaopt.experiments.branching import branches, reporting
from adaopt.experiments.frontier import plan as frontier
from adaopt.experiments.frontier import training
from adaopt.experiments.plots import branching as pictures

LEARNING_RATE = flags.DEFINE_float(
  'learning_rate', None, 'Of the trunk. Default: the guess of the config.'
)
BRANCH_POINTS = flags.DEFINE_list(
  'branch_points',
  ['0.05', '0.15', '0.4', '0.8'],
  'Where to branch, as shares of the budget of the config.',
)
BRANCH_EXAMPLES = flags.DEFINE_integer(
  'branch_examples',
  None,
  'Examples of every branch, init times a power of 2. Default: at most 1/20 of '
  'the budget.',
)
LOSS_TOLERANCE = flags.DEFINE_float(
  'loss_tolerance',
  0.01,
  'By what share the loss of a branch may exceed that of k = 1.',
  lower_bound=0.0,
)


def run_all(
  config: ml_collections.ConfigDict,
  plan: branches.Plan,
  shares: list[float],
  tolerance: float,
  data_dir: str | None,
  workdir: pathlib.Path,
) -> str:
  """Measures the points that are not done yet, and reports on all.

  The folder receives branching.jsonl, branching.md and branching.png.
  """
  splits = training.load(config, data_dir)
  settings = frontier.shared(config).to_dict() | plan._asdict()
  settings['seed'] = config.seed
  with locks.held(workdir):
    once = journal.remembering(
      workdir / 'branching.jsonl', json.dumps(settings, sort_keys=True)
    )
    return _run_all(config, plan, shares, tolerance, splits, once, workdir)


def _run_all(config, plan, shares, tolerance, splits, once, workdir):
  branch = branches.make_trunk(config, plan, splits)
  points = []
  for examples in sorted(round(x * config.num_examples) for x in shares):
    measure = lambda examples=examples: branch(examples)._asdict()
    found = once(f'branches at {examples}', measure)
    points.append(branches.Point(**found))
  adapt = branches.make_adaptive(config, plan.learning_rate, splits)
  curves = {
    title: once(name, lambda name=name: adapt(name))
    for name, title in branches.ADAPTIVE.items()
  }
  table = reporting.table(points, curves, tolerance)
  files.write(workdir / 'branching.md', table + '\n')
  pictures.save(points, curves, tolerance, workdir / 'branching.png')
  return table


def main() -> None:
  """Measures what is not done yet, and prints the table."""
  config = config_options.CONFIG.value
  workdir = pathlib.Path(options.WORKDIR.value)
  with config_options.ending_in_words(
    'the same command goes on after the last point.'
  ):
    if config_options.SCHEMES.value:
      raise ValueError('branching has its own schemes; leave out --schemes.')
    frontier.check(config)
    plan = branches.Plan(
      LEARNING_RATE.value or config.guess,
      BRANCH_EXAMPLES.value or branches.default_examples(config),
      options.SEEDS.value,
    )
    table = run_all(
      config,
      plan,
      [float(share) for share in BRANCH_POINTS.value],
      LOSS_TOLERANCE.value,
      options.DATA_DIR.value,
      workdir,
    )
  print(table)
  print(f'Table and picture: {workdir}')


if __name__ == '__main__':
  command_line.run(main, ['config', 'workdir'], ['data_dir', 'seeds'])
