"""Times a training step on MNIST under both drivers.

python -m adaopt.experiments.benchmarks.drivers --data_dir=DIR
"""

import itertools

import jax

from adaopt import training
from adaopt.experiments import command_line, datasets, models, options
from adaopt.experiments.benchmarks import steps, timing

# Model, examples in a batch, sizes of its micro-batches.
CASES = (('cnn', 256, (64, 256)), ('logistic', 8192, (256, 1024)))
DRIVERS = {'traced': training.traced, 'dispatched': training.dispatched}
CRITERIA = {'mean': None, 'mean and v': steps.PASSED}


def main() -> None:
  """Prints one row for every model, micro-batch size and estimate."""
  examples = jax.device_put(options.load(datasets.load_mnist).train)
  timing.print_machine()
  timing.print_header(
    'model',
    'b',
    'micro-batch',
    'estimate',
    'traced, ms',
    'dispatched, ms',
    'traced / dispatched',
  )
  for name, batch_size, sizes in CASES:
    runners = {
      (size, estimate, driver): steps.make_runner(
        models.MODELS[name](),
        examples,
        batch_size,
        micro_batch_size=size,
        criterion=CRITERIA[estimate],
        driver=DRIVERS[driver],
      )
      for size, estimate, driver in itertools.product(sizes, CRITERIA, DRIVERS)
    }
    medians = timing.in_turns(runners)
    for size, estimate in itertools.product(sizes, CRITERIA):
      traced, dispatched = (medians[size, estimate, d] for d in DRIVERS)
      timing.print_row(
        name,
        batch_size,
        size,
        estimate,
        f'{traced:.1f}',
        f'{dispatched:.1f}',
        f'{traced / dispatched:.2f}',
      )


if __name__ == '__main__':
  command_line.run(main, optional=['data_dir', 'repeats'])
