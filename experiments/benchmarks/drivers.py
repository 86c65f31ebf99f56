"""Times a training step on MNIST under both drivers.

python -m experiments.benchmarks.drivers --data_dir=DIR
"""

import itertools
import os
import platform
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import optax
from absl import app, flags

import adaopt
from adaopt import drivers
from experiments import datasets, models, options

_REPEATS = flags.DEFINE_integer('repeats', 5, 'Runs of each step.')

# Model, examples in a batch, sizes of its micro-batches.
CASES = (('cnn', 256, (64, 256)), ('logistic', 8192, (256, 1024)))
DRIVERS = {'traced': drivers.traced, 'dispatched': drivers.dispatched}
CRITERIA = {'mean': None, 'mean and v': adaopt.norm_test(eta=1e3)}


def make_step(model, params, batch_size, micro_batch_size, driver, criterion):
  """A compiled step that keeps its batch size, and its first state."""

  def loss_fn(params, batch):
    logits = model.apply(params, batch['image'])
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


def time_case(name, batch_size, sizes, examples, repeats):
  """Median milliseconds of every variant, run in turns."""
  model = models.MODELS[name]()
  params = model.init(jax.random.key(0), examples['image'][:1])
  variants = {
    (size, estimate, driver): make_step(
      model, params, batch_size, size, DRIVERS[driver], CRITERIA[estimate]
    )
    for size, estimate, driver in itertools.product(sizes, CRITERIA, DRIVERS)
  }
  times = {key: [] for key in variants}
  for turn in range(repeats + 1):
    for key, (step, state) in variants.items():
      begin = time.perf_counter()
      state, _ = jax.block_until_ready(step(state, examples))
      if turn:
        times[key].append(1e3 * (time.perf_counter() - begin))
      variants[key] = step, state
  return {key: statistics.median(values) for key, values in times.items()}


def main(argv: list[str]) -> None:
  """Prints one row for every model, micro-batch size and estimate."""
  del argv
  options.quiet()
  try:
    train = datasets.load_mnist(options.DATA_DIR.value).train
  except (FileNotFoundError, ValueError) as error:
    sys.exit(str(error))
  examples = jax.tree.map(jnp.asarray, train)
  print(
    f'{jax.devices()[0].device_kind}, {os.cpu_count()} cores of '
    f'{platform.machine()}, JAX {jax.__version__}\n'
  )
  print(
    '| model | b | micro-batch | estimate | traced, ms | dispatched, ms '
    '| traced / dispatched |'
  )
  print('|---|---|---|---|---|---|---|')
  for name, batch_size, sizes in CASES:
    medians = time_case(name, batch_size, sizes, examples, _REPEATS.value)
    for size, estimate in itertools.product(sizes, CRITERIA):
      traced, dispatched = (medians[size, estimate, d] for d in DRIVERS)
      print(
        f'| {name} | {batch_size} | {size} | {estimate} | {traced:.1f} | '
        f'{dispatched:.1f} | {traced / dispatched:.2f} |'
      )


if __name__ == '__main__':
  app.run(main)
