"""Times weighted losses, tests of some tensors, and the check of a loss.

python -m adaopt.experiments.benchmarks.weighted

All times are the processor's, of all threads, which what else runs on the
machine changes little. On one core, such as by taskset, they are what a run
takes.
"""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from sklearn import datasets

import adaopt
from adaopt.experiments import command_line, models
from adaopt.experiments.benchmarks import networks, steps, timing

WEIGHED = ('logistic', 'mlp', 'cnn', 'transformer', 'lstm')
CHECKED = ('mlp on digits', 'cnn', 'transformer')
FIELDS = {
  'no noise': None,
  'v': 'variance',
  'coordinate variance': 'coordinate_variance',
}


def in_turns(functions: dict[Any, Callable[[], Any]]) -> dict[Any, float]:
  """Median milliseconds of the processor of every function, run in turns."""
  times = {name: [] for name in functions}
  for function in functions.values():
    jax.block_until_ready(function())
  for _ in range(timing.REPEATS.value):
    for name, function in functions.items():
      begin, runs = time.process_time(), 0
      while not runs or time.process_time() < begin + timing.BLOCK:
        jax.block_until_ready(function())
        runs += 1
      times[name].append(1e3 * (time.process_time() - begin) / runs)
  return {name: statistics.median(values) for name, values in times.items()}


def weighted_batch(network: networks.Network) -> dict[str, jax.Array]:
  """Random examples with weights.

  Of an image the weight is 1 or 9, as of a class; of the tokens of a sequence
  it is 1 for a random number of the first ones, at least a quarter, and 0 for
  the others.
  """
  x, y = networks.examples(network)
  key = jax.random.key(2)
  if network.image:
    weights = jnp.where(jax.random.bernoulli(key, 0.1, y.shape), 9.0, 1.0)
  else:
    length = network.length
    lengths = jax.random.randint(key, [len(x), 1], length // 4, length + 1)
    weights = jnp.where(jnp.arange(length) < lengths, 1.0, 0.0)
  return {'input': x, 'label': y, 'weight': weights}


def losses_of(network: networks.Network) -> dict[str, Callable]:
  """The mean of all losses, and their mean by weight."""

  def losses(params, batch):
    return optax.softmax_cross_entropy_with_integer_labels(
      network.model.apply(params, batch['input']), batch['label']
    )

  def mean(params, batch):
    return jnp.mean(losses(params, batch))

  def weighted(params, batch):
    total = jnp.sum(batch['weight'] * losses(params, batch))
    return adaopt.WeightedLoss(total, jnp.sum(batch['weight']))

  return {'mean': mean, 'weighted': weighted}


def reading(field: str | None) -> Callable:
  """A loss function → its value, mean gradient and one of the statistics."""

  def make(loss_fn):
    def estimate(params, batch):
      loss, statistics = adaopt.value_and_statistics(loss_fn)(params, batch)
      read = getattr(statistics, field) if field else ()
      return loss, statistics.mean, read

    return estimate

  return make


def print_statistics() -> None:
  """The price of weights in programs that return one statistic."""
  timing.print_header(
    'network', 'b', 'read', 'mean, ms', 'weighted, ms', 'weighted / mean'
  )
  for name in WEIGHED:
    network = networks.NETWORKS[name]
    batch = weighted_batch(network)
    params = network.model.init(jax.random.key(1), batch['input'][:1])
    runs = {
      (read, kind): functools.partial(
        jax.jit(reading(field)(loss_fn)), params, batch
      )
      for read, field in FIELDS.items()
      for kind, loss_fn in losses_of(network).items()
    }
    times = in_turns(runs)
    for read in FIELDS:
      mean, weighted = times[read, 'mean'], times[read, 'weighted']
      cells = f'{mean:.1f}', f'{weighted:.1f}', f'{weighted / mean:.2f}'
      timing.print_row(name, network.batch_size, read, *cells)


def make_step(
  network: networks.Network,
  loss_fn: Callable,
  criterion: adaopt.Criterion | None,
  batch: dict[str, jax.Array],
) -> Callable[[], Any]:
  """A function that makes the next step, of two micro-batches."""
  size = network.batch_size
  optimizer = optax.chain(steps.hold(criterion, size), optax.sgd(1e-4))
  step = adaopt.train_step(loss_fn, optimizer, micro_batch_size=size // 2)
  params = network.model.init(jax.random.key(1), batch['input'][:1])
  state = adaopt.init_train_state(params, optimizer)

  def run():
    nonlocal state
    state, metrics = step(state, batch)
    return metrics

  return run


def print_steps() -> None:
  """The price of tests of all tensors and of the LayerNorms, in a step."""
  network = networks.NETWORKS['transformer']._replace(batch_size=16)
  batch = weighted_batch(network)
  criteria = {
    'no test': None,
    'test of LayerNorms': adaopt.of_tensors(
      steps.PASSED, lambda path: 'LayerNorm' in path
    ),
    'test of all': steps.PASSED,
  }
  runs = {
    (kind, name): make_step(network, loss_fn, criterion, batch)
    for kind, loss_fn in losses_of(network).items()
    for name, criterion in criteria.items()
  }
  times = in_turns(runs)
  timing.print_header(
    'transformer, step',
    'mean, ms',
    'over no test',
    'weighted, ms',
    'over no test',
    'weighted / mean',
  )
  for name in criteria:
    cells = []
    for kind in ('mean', 'weighted'):
      own = times[kind, name]
      cells += [f'{own:.0f}', f'{own / times[kind, "no test"]:.2f}']
    ratio = times['weighted', name] / times['mean', name]
    timing.print_row(name, *cells, f'{ratio:.2f}')


def first_step(name: str, *, check: bool) -> float:
  """Seconds of the processor until the first step, with its compilation."""
  if name == 'mlp on digits':
    images, labels = datasets.load_digits(return_X_y=True)
    batch = {'input': jnp.asarray(images / 16), 'label': jnp.asarray(labels)}
    model, size = models.MLP(), 64
  else:
    network = networks.NETWORKS[name]
    x, y = networks.examples(network)
    batch = {'input': x, 'label': y}
    model, size = network.model, 32
  params = model.init(jax.random.key(1), batch['input'][:1])

  hold = adaopt.adapt_batch_size(
    adaopt.norm_test(0.5), init_batch_size=size, max_batch_size=size
  )
  jax.clear_caches()
  begin = time.process_time()
  run = adaopt.fit(
    steps.mean_loss(model),
    optax.chain(hold, optax.sgd(1e-4)),
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
  for name in CHECKED:
    turns = [
      (first_step(name, check=False), first_step(name, check=True))
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
  print_statistics()
  print_steps()
  print_checks()


if __name__ == '__main__':
  command_line.run(main, optional=['repeats'])
