"""Times weighted losses, tests of some tensors, and the check of a loss.

python -m experiments.benchmarks.weighted
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from absl import app
from sklearn import datasets

import adaopt
from experiments import models, options
from experiments.benchmarks import networks, steps, timing

CHECKED = ('mlp on digits', 'cnn', 'transformer')


def masked_batch(network: networks.Network) -> dict[str, jax.Array]:
  """Random tokens, and masks that keep a random number of the first ones."""
  x, y = networks.examples(network)
  lengths = jax.random.randint(
    jax.random.key(2), [len(x)], network.length // 4, network.length + 1
  )
  mask = jnp.arange(network.length) < lengths[:, None]
  return {'input': x, 'label': y, 'mask': mask.astype(jnp.float32)}


def losses_of(network: networks.Network) -> dict[str, Callable]:
  """The mean loss of the tokens of an example, and that of all tokens."""

  def token_losses(params, batch):
    logits = network.model.apply(params, batch['input'])
    return optax.softmax_cross_entropy_with_integer_labels(
      logits, batch['label']
    )

  def mean(params, batch):
    return jnp.mean(token_losses(params, batch))

  def weighted(params, batch):
    losses = batch['mask'] * token_losses(params, batch)
    return adaopt.WeightedLoss(jnp.sum(losses), jnp.sum(batch['mask']))

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
  """The price of weights in a program that returns one statistic."""
  network = networks.NETWORKS['transformer']
  batch = masked_batch(network)
  params = network.model.init(jax.random.key(1), batch['input'][:1])
  fields = {
    'no noise': None,
    'v': 'variance',
    'coordinate variance': 'coordinate_variance',
    'v∥': 'variance_along_mean',
  }
  timing.print_header(
    'transformer, read', 'mean, ms', 'weighted, ms', 'weighted / mean'
  )
  for name, field in fields.items():
    runs = {
      kind: functools.partial(jax.jit(reading(field)(loss_fn)), params, batch)
      for kind, loss_fn in losses_of(network).items()
    }
    print_ratio(name, timing.in_turns(runs))


def print_ratio(name: str, times: dict[str, float]) -> None:
  first, second = times.values()
  timing.print_row(
    name, f'{first:.0f}', f'{second:.0f}', f'{second / first:.3f}'
  )


def make_step(
  network: networks.Network,
  loss_fn: Callable,
  criterion: adaopt.Criterion | None,
  batch: dict[str, jax.Array],
) -> Callable[[], Any]:
  """A function that makes the next step, of two micro-batches."""
  size = network.batch_size
  hold = (
    adaopt.schedule_batch_size(size)
    if criterion is None
    else adaopt.adapt_batch_size(
      criterion, init_batch_size=size, max_batch_size=2 * size
    )
  )
  optimizer = optax.chain(hold, optax.sgd(1e-4))
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
  network = networks.NETWORKS['transformer']
  batch = masked_batch(network)
  criteria = {
    'no test': None,
    'test of LayerNorms': adaopt.of_tensors(
      steps.PASSED, lambda path: 'LayerNorm' in path
    ),
    'test of all': steps.PASSED,
  }
  found = {}
  runs = {
    (kind, name): make_step(network, loss_fn, criterion, batch)
    for kind, loss_fn in losses_of(network).items()
    for name, criterion in criteria.items()
  }
  found = timing.in_turns(runs)
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
      own = found[kind, name]
      cells += [f'{own:.0f}', f'{own / found[kind, "no test"]:.3f}']
    ratio = found['weighted', name] / found['mean', name]
    timing.print_row(name, *cells, f'{ratio:.3f}')


def first_step(name: str, *, check: bool) -> float:
  """Seconds until `fit` yields its first step, compilation included."""
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

  def loss_fn(params, batch):
    logits = model.apply(params, batch['input'])
    return optax.softmax_cross_entropy_with_integer_labels(
      logits, batch['label']
    ).mean()

  hold = adaopt.adapt_batch_size(
    adaopt.norm_test(0.5), init_batch_size=size, max_batch_size=size
  )
  jax.clear_caches()
  begin = time.perf_counter()
  run = adaopt.fit(
    loss_fn,
    optax.chain(hold, optax.sgd(1e-4)),
    params,
    batch,
    num_examples=size,
    max_micro_batch_size=size,
    check=check,
  )
  next(run)
  return time.perf_counter() - begin
