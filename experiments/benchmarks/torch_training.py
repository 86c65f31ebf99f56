"""Trains the CNN of mnist_cnn with a fixed batch size, here and in PyTorch.

python -m adaopt.experiments.benchmarks.torch_training --data_dir=DIR --seeds=5

Both use the same network, initial distribution, AdaGrad, learning rate and
batch size, which no test changes. Seeds start at the config's. A row is the
result of a run on the examples that the config evaluates.
"""

import sys
from collections.abc import Iterator
from types import ModuleType

import ml_collections
from absl import flags

from adaopt import training
from adaopt.experiments import command_line, datasets, options, results, runs
from adaopt.experiments.benchmarks import timing
from adaopt.experiments.configs import mnist_cnn

_STEPS = flags.DEFINE_integer('steps', 30, 'Steps per run.', lower_bound=1)

SCHEME = 'batch_2048'

Outcome = tuple[float, float]
"""Train loss and test accuracy."""


def train_here(
  config: ml_collections.ConfigDict, num_seeds: int
) -> Iterator[Outcome]:
  """Trains every seed with adaopt."""
  plan = runs.plan(config, [SCHEME], num_seeds, options.DATA_DIR.value)
  for planned in plan:
    run = planned.prepare(planned.seeds)
    for state, _ in training.iterate(
      run.step_of,
      run.state,
      run.examples,
      num_examples=config.num_examples,
      max_micro_batch_size=config.max_micro_batch_size,
      donate=True,
    ):
      params = state.params
    loss, accuracy = run.evaluate(params)
    yield float(loss), float(accuracy)


def train_in_torch(
  config: ml_collections.ConfigDict, num_seeds: int, torch_networks: ModuleType
) -> Iterator[Outcome]:
  """Trains every seed with PyTorch."""
  scheme = config.schemes[SCHEME]
  train, test = map(
    torch_networks.tensors, datasets.load_mnist(options.DATA_DIR.value)
  )
  first = [x[: config.eval_train_examples] for x in train]
  for seed in range(config.seed, config.seed + num_seeds):
    torch_networks.torch.manual_seed(seed)
    model = torch_networks.MODELS['small_cnn']()
    torch_networks.train(
      model,
      *train,
      batch_size=scheme.batch_size,
      num_steps=config.num_examples // scheme.batch_size,
      learning_rate=scheme.learning_rate,
    )
    loss, _ = torch_networks.loss_and_accuracy(model, *first)
    _, accuracy = torch_networks.loss_and_accuracy(model, *test)
    yield loss, accuracy


def main() -> None:
  """Prints a row for every run, then the means of both."""
  torch_networks = timing.load_peers('torch_networks', 'torch')
  config = mnist_cnn.get_config()
  config.num_examples = _STEPS.value * config.schemes[SCHEME].batch_size
  num_seeds = options.SEEDS.value
  outcomes = {
    'adaopt': train_here(config, num_seeds),
    'PyTorch': train_in_torch(config, num_seeds, torch_networks),
  }
  timing.print_machine()
  timing.print_header('library', 'seed', 'train loss', 'test accuracy')
  means = {}
  try:
    for name, found in outcomes.items():
      means[name] = []
      for seed, outcome in enumerate(found, config.seed):
        timing.print_row(name, seed, *(f'{x:.4f}' for x in outcome))
        means[name].append(outcome)
  except (FileNotFoundError, ValueError) as error:
    sys.exit(str(error))
  timing.print_header('library', 'seeds', 'train loss', 'test accuracy')
  for name, found in means.items():
    cells = [
      results.mean_and_deviation(column, '.3f')
      for column in zip(*found, strict=True)
    ]
    timing.print_row(name, len(found), *cells)


if __name__ == '__main__':
  command_line.run(main, optional=['data_dir', 'seeds'])
