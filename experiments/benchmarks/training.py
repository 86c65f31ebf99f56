"""Times adaptive training on MNIST, or reports the cost of runs to a target.

python -m adaopt.experiments.benchmarks.training --data_dir=DIR [--peers]
python -m adaopt.experiments.benchmarks.training --workdir=runs/mnist_cnn

The first compares steps with the norm test to steps of the same loop without
statistics and, with --peers, to the same step in PyTorch, where torch.func
computes one gradient per example. The second reads the runs of
adaopt.experiments.compare.
"""

import pathlib
import sys

import jax
import numpy as np
from absl import flags

from adaopt.experiments import command_line, datasets, models, options, records
from adaopt.experiments.benchmarks import statistics, steps, timing

_TARGET = flags.DEFINE_float(
  'target', 0.99, 'The test accuracy to reach.', lower_bound=0, upper_bound=1
)

# Model, examples in a micro-batch, examples in a batch.
CASES = (
  ('cnn', 64, (256, 1024, 4096)),
  ('logistic', 1024, (256, 8192, 60_000)),
)
PEERS = {'cnn': 'small_cnn', 'logistic': 'logistic'}
SCHEMES = {'fixed': None, 'norm test': steps.PASSED}


def time_steps(examples: dict[str, jax.Array]) -> None:
  """Prints examples per second with and without the test."""
  peers = statistics.load_peers()
  columns = [f'{name}, examples / s' for name in SCHEMES]
  foreign = ['torch.func, examples / s', 'times as fast'] if peers else []
  timing.print_header('model', 'b', *columns, 'ratio', *foreign)
  for name, micro_batch_size, sizes in CASES:
    for size in sizes:
      runners = {
        scheme: steps.make_runner(
          models.MODELS[name](),
          examples,
          size,
          micro_batch_size=micro_batch_size,
          criterion=criterion,
        )
        for scheme, criterion in SCHEMES.items()
      }
      times = timing.in_turns(runners)
      fixed, tested = (1e3 * size / times[scheme] for scheme in SCHEMES)
      cells = [f'{fixed:.0f}', f'{tested:.0f}', f'{tested / fixed:.2f}']
      if peers:
        # Timed apart: threads of one library spin while the other runs.
        batch = {key: x[:size] for key, x in examples.items()}
        model = peers.torch_networks.MODELS[PEERS[name]]()
        run = peers.adaptive_step(model, batch)
        (time,) = timing.in_turns({'torch.func': run}).values()
        foreign = 1e3 * size / time
        cells += [f'{foreign:.0f}', f'{tested / foreign:.1f}']
      timing.print_row(name, size, *cells)


def time_to_target(workdir: pathlib.Path, target: float) -> None:
  """Prints the cost of each run until its test accuracy reached a target."""
  timing.print_header('scheme', 'seed', 'steps', 'examples', 'seconds', 'best')
  folders = sorted(workdir.glob('*/seed_*'))
  if not folders:
    sys.exit(f'{workdir} does not hold runs of adaopt.experiments.compare.')
  for folder in folders:
    if records.read_end(folder) is None:
      continue
    train, evaluated = records.read(folder)
    accuracy = evaluated['test_accuracy']
    reached = np.flatnonzero(accuracy >= target)
    cells = ['–'] * 3
    if len(reached):
      at = {name: values[reached[0]] for name, values in evaluated.items()}
      step = np.searchsorted(train['examples'], at['examples'], side='right')
      cells = [step, f'{at["examples"]:.0f}', f'{at["seconds"]:.1f}']
    scheme, seed = folder.parent.name, folder.name.removeprefix('seed_')
    timing.print_row(scheme, seed, *cells, f'{accuracy.max():.4f}')


def main() -> None:
  """Times steps, or reads runs."""
  if options.WORKDIR.value:
    time_to_target(pathlib.Path(options.WORKDIR.value), _TARGET.value)
    return
  train = options.load(datasets.load_mnist).train
  timing.print_machine()
  time_steps(jax.device_put(train))


if __name__ == '__main__':
  command_line.run(main, optional=['data_dir', 'workdir', 'repeats', 'peers'])
