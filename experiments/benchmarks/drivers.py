"""Times a training step on MNIST under both drivers.

python -m adaopt.experiments.benchmarks.drivers --data_dir=DIR
"""

import itertools
import sys

import jax
import jax.numpy as jnp
from absl import app
from adaopt.experiments import datasets, models, options
from adaopt.experiments.benchmarks import steps, timing

from adaopt import training

# Model, examples in a batch, sizes of its micro-batches.
CASES = (('cnn', 256, (64, 256)), ('logistic', 8192, (256, 1024)))
DRIVERS = {'traced': training.traced, 'dispatched': training.dispatched}
CRITERIA = {'mean': None, 'mean and v': steps.PASSED}


def main(argv: list[str]) -> None:
  """Prints one row for every model, micro-batch size and estimate."""
  del argv
  options.quiet()
  try:
    train = datasets.load_mnist(options.DATA_DIR.value).train
  except (FileNotFoundError, ValueError) as error:
    sys.exit(str(error))
  examples = jax.tree.map(jnp.asarray, train)
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
  app.run(main)
