"""Times weighted losses, tests of some tensors, and the check of a loss.

python -m adaopt.experiments.benchmarks.weighted

All times are the processor's, of all threads, which what else runs on the
machine changes little. On one core, such as by taskset, they are what a run
takes.
"""

import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

import adaopt
from adaopt.experiments import command_line, losses, models
from adaopt.experiments.benchmarks import networks, steps, timing

WEIGHED = ('logistic', 'mlp', 'cnn', 'transformer', 'lstm')
CHECKED = {
  'small mlp': networks.Network(models.MLP(), 64, (8, 8)),
  'cnn': networks.NETWORKS['cnn']._replace(batch_size=32),
  'transformer': networks.NETWORKS['transformer'],
}
FIELDS = {
  'no noise': None,
  'v': 'variance',
  'coordinate variance': 'coordinate_variance',
}
LOSSES = {'mean': losses.mean, 'weighted': losses.weighted}
CRITERIA = {
  'no test': None,
  'test of LayerNorms': adaopt.of_tensors(
    steps.PASSED, lambda path: 'LayerNorm' in path
  ),
  'test of all': steps.PASSED,
}


def weighted_batch(network: networks.Network) -> dict[str, jax.Array]:
  """Random examples with weights.

  Of an image the weight is 1 or 9, as of a class; of the tokens of a sequence
  it is 1 for a random number of the first ones, at least a quarter, and 0 for
  the others.
  """
  batch, key = networks.examples(network), jax.random.key(2)
  shape = batch['label'].shape
  if network.image:
    weights = jnp.where(jax.random.bernoulli(key, 0.1, shape), 9.0, 1.0)
  else:
    length = network.length
    lengths = jax.random.randint(key, [shape[0], 1], length // 4, length + 1)
    weights = jnp.where(jnp.arange(length) < lengths, 1.0, 0.0)
  return batch | {'weight': weights}


def reading(loss_fn: adaopt.LossFn, field: str | None) -> Callable:
  """(params, batch) → the loss, its mean gradient and one of the statistics."""

  def estimate(params, batch):
    loss, statistics = adaopt.value_and_statistics(loss_fn)(params, batch)
    read = getattr(statistics, field) if field else ()
    return loss, statistics.mean, read

  return estimate


def estimates() -> timing.Rows:
  """Both losses, in programs that return one statistic."""
  for name in WEIGHED:
    network = networks.NETWORKS[name]
    args = networks.parameters(network), weighted_batch(network)
    for read, field in FIELDS.items():
      yield (
        (name, network.batch_size, read),
        {
          kind: timing.compiled(reading(loss(network.model), field), *args)
          for kind, loss in LOSSES.items()
        },
      )


def tested_steps() -> timing.Rows:
  """Steps of two micro-batches, without and with tests."""
  network = networks.NETWORKS['transformer']._replace(batch_size=16)
  batch = weighted_batch(network)
  for kind, loss in LOSSES.items():
    yield (
      (kind,),
      {
        name: steps.make_runner(
          network.model,
          batch,
          network.batch_size,
          micro_batch_size=network.batch_size // 2,
          criterion=criterion,
          loss=loss,
        )
        for name, criterion in CRITERIA.items()
      },
    )


def first_step(network: networks.Network, *, check: bool) -> float:
  """Seconds of the processor until the first step, with its compilation."""
  size, params = network.batch_size, networks.parameters(network)
  batch = networks.examples(network)
  jax.clear_caches()
  begin = time.process_time()
  run = adaopt.fit(
    losses.mean(network.model),
    optax.chain(steps.hold(steps.PASSED, size), optax.sgd(1e-4)),
    params,
    batch,
    num_examples=size,
    max_micro_batch_size=size,
    check=check,
  )
  next(run)
  return time.process_time() - begin


def print_checks() -> None:
  """The price of the check that `fit` makes before its first update."""
  timing.print_header(
    'network', 'first step, s', 'with the check, s', 'the check, s'
  )
  for name, network in CHECKED.items():
    turns = [
      (first_step(network, check=False), first_step(network, check=True))
      for _ in range(timing.REPEATS.value)
    ]
    without, with_check = map(statistics.median, zip(*turns, strict=True))
    added = statistics.median(b - a for a, b in turns)
    timing.print_row(
      name, f'{without:.1f}', f'{with_check:.1f}', f'{added:.1f}'
    )


def main() -> None:
  """Prints a table of each."""
  timing.print_machine()
  labels = 'network', 'b', 'read'
  timing.print_ratios(labels, estimates(), time.process_time)
  timing.print_ratios(['transformer'], tested_steps(), time.process_time)
  print_checks()


if __name__ == '__main__':
  command_line.run(main, optional=['repeats'])
