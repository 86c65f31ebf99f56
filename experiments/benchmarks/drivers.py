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
DRIVERS = {'dispatched': training.dispatched, 'traced': training.traced}
CRITERIA = {'mean': None, 'mean and v': steps.PASSED}


def rows(examples: dict[str, jax.Array]) -> timing.Rows:
  """Both drivers with every model, micro-batch size and estimate."""
  for name, batch_size, sizes in CASES:
    for size, estimate in itertools.product(sizes, CRITERIA):
      yield (
        (name, batch_size, size, estimate),
        {
          driver: steps.make_runner(
            models.MODELS[name](),
            examples,
            batch_size,
            micro_batch_size=size,
            criterion=CRITERIA[estimate],
            driver=DRIVERS[driver],
          )
          for driver in DRIVERS
        },
      )


def main() -> None:
  """Prints the table."""
  examples = jax.device_put(options.load(datasets.load_mnist).train)
  timing.print_machine()
  labels = 'model', 'b', 'micro-batch', 'estimate'
  timing.print_ratios(labels, rows(examples))


if __name__ == '__main__':
  command_line.run(main, optional=['data_dir', 'repeats'])
