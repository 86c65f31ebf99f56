"""Times a training step on MNIST under both drivers.

python -m experiments.benchmarks.drivers --data_dir=DIR
"""

import functools
import itertools
import sys

import jax
import jax.numpy as jnp
import optax
from absl import app

import adaopt
from adaopt import drivers
from experiments import datasets, models, options
from experiments.benchmarks import timing

# Model, examples in a batch, sizes of its micro-batches.
CASES = (('cnn', 256, (64, 256)), ('logistic', 8192, (256, 1024)))
DRIVERS = {'traced': drivers.traced, 'dispatched': drivers.dispatched}
CRITERIA = {'mean': None, 'mean and v': adaopt.norm_test(eta=1e3)}


def make_step(model, params, batch_size, micro_batch_size, driver, criterion):
  """A compiled step that keeps its batch size, and its first state."""

  def loss_fn(params, batch):
    logits = model.apply(params, batch['input'])
    return optax.softmax_cross_entropy_with_integer_labels(
      logits, batch['label']
    ).mean()

  hold = (
    adaopt.schedule_batch_size(batch_size)
    if criterion is None
    else adaopt.adapt_batch_size(
      criterion, init_value=batch_size, max_value=2 * batch_size
    )
  )
  optimizer = optax.chain(hold, adaopt.adagrad(1e-4))
  step = adaopt.train_step(
    loss_fn, optimizer, micro_batch_size=micro_batch_size, driver=driver
  )
  return step, adaopt.init_train_state(
    jax.tree.map(jnp.copy, params), optimizer
  )


def time_case(name, batch_size, sizes, examples):
  """Median milliseconds of every variant, run in turns."""
  model = models.MODELS[name]()
  params = model.init(jax.random.key(0), examples['input'][:1])
  variants = {
    (size, estimate, driver): make_step(
      model, params, batch_size, size, DRIVERS[driver], CRITERIA[estimate]
    )
    for size, estimate, driver in itertools.product(sizes, CRITERIA, DRIVERS)
  }
  states = {key: state for key, (_, state) in variants.items()}

  def run(key):
    states[key], metrics = variants[key][0](states[key], examples)
    return metrics

  return timing.in_turns({key: functools.partial(run, key) for key in variants})


def main(argv: list[str]) -> None:
  """Prints one row for every model, micro-batch size and estimate."""
  del argv
  options.quiet()
  try:
    train = datasets.DATASETS['mnist'](options.DATA_DIR.value).train
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
    medians = time_case(name, batch_size, sizes, examples)
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
