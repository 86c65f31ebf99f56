"""Times gradient statistics against a plain gradient.

python -m experiments.benchmarks.statistics
"""

import functools
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from absl import app, flags

import adaopt
from experiments import options
from experiments.benchmarks import networks

_REPEATS = flags.DEFINE_integer('repeats', 5, 'Runs of each function.')
_NETWORKS = flags.DEFINE_multi_enum(
  'network',
  list(networks.NETWORKS),
  networks.NETWORKS,
  'A network to time; may be repeated. All by default.',
)

GROUPS = 8
"""Samples at the grain of micro-batches, and optax's micro-batches."""


def per_example(loss_fn: Callable) -> Callable:
  """Mean gradient and squared norms by one gradient per example."""

  def estimate(params, batch):
    one = jax.tree.map(lambda x: x[:, None], batch)
    gradient = jax.value_and_grad(loss_fn)
    values, gradients = jax.vmap(gradient, (None, 0))(params, one)
    norms = jax.vmap(lambda g: optax.tree.norm(g, squared=True))(gradients)
    mean = jax.tree.map(lambda g: jnp.mean(g, 0), gradients)
    return jnp.mean(values), mean, norms

  return estimate


def microbatching(loss_fn: Callable) -> Callable:
  """The same by optax, a micro-batch of gradients at a time."""

  def estimate(params, batch):
    return optax.microbatching.micro_grad(
      loss_fn,
      microbatch_size=len(batch[0]) // GROUPS,
      metrics_fn=functools.partial(optax.tree.norm, squared=True),
    )(params, batch)

  return estimate


def ours(**options: Any) -> Callable:
  """adaopt's estimator with options."""
  return lambda loss_fn: adaopt.value_and_statistics(loss_fn, **options)


def in_groups(loss_fn: Callable) -> Callable:
  """adaopt's estimator at the grain of micro-batches."""

  def estimate(params, batch):
    size = len(batch[0]) // GROUPS
    return adaopt.value_and_statistics(loss_fn, group_size=size)(params, batch)

  return estimate


PLAIN = 'plain gradient'
VARIANTS = {
  PLAIN: jax.value_and_grad,
  'v': ours(),
  'v and v∥': ours(along_mean=True),
  'coordinate-wise': ours(variance='coordinate'),
  f'{GROUPS} groups': in_groups,
  'vmap(grad)': per_example,
  'optax': microbatching,
}


class Cost(NamedTuple):
  """What one function costs."""

  milliseconds: float  # median
  compile_seconds: float  # tracing included
  temporary: int  # bytes, of the compiled program


def measure(network: networks.Network, repeats: int) -> dict[str, Cost]:
  """Compiles every variant and runs them in turns."""
  batch = networks.examples(network)
  params = network.model.init(jax.random.key(1), batch[0][:1])
  loss_fn = networks.loss_of(network)
  compiled, seconds = {}, {}
  for name, variant in VARIANTS.items():
    begin = time.perf_counter()
    compiled[name] = jax.jit(variant(loss_fn)).lower(params, batch).compile()
    seconds[name] = time.perf_counter() - begin
  times = {name: [] for name in compiled}
  for turn in range(repeats + 1):
    for name, function in compiled.items():
      begin = time.perf_counter()
      jax.block_until_ready(function(params, batch))
      if turn:
        times[name].append(1e3 * (time.perf_counter() - begin))
  return {
    name: Cost(
      statistics.median(times[name]),
      seconds[name],
      function.memory_analysis().temp_size_in_bytes,
    )
    for name, function in compiled.items()
  }


def print_row(*cells: Any) -> None:
  print('|', ' | '.join(map(str, cells)), '|', flush=True)


def main(argv: list[str]) -> None:
  """Prints times and then memory and compile times."""
  del argv
  options.quiet()
  print(
    f'{jax.devices()[0].device_kind}, {os.cpu_count()} cores of '
    f'{platform.machine()}, JAX {jax.__version__}\n'
  )
  others = [name for name in VARIANTS if name != PLAIN]
  print_row('network', 'b', f'{PLAIN}, ms', *others)
  print_row(*['---'] * (len(others) + 3))
  costs = {}
  for name in _NETWORKS.value:
    network = networks.NETWORKS[name]
    cost = costs[name] = measure(network, _REPEATS.value)
    plain = cost[PLAIN].milliseconds
    ratios = [f'{cost[other].milliseconds / plain:.2f}' for other in others]
    print_row(name, network.batch_size, f'{plain:.1f}', *ratios)
  for title, unit, form in (
    ('temporary memory', 'MB', lambda c: f'{c.temporary / 1e6:.0f}'),
    ('trace and compile', 's', lambda c: f'{c.compile_seconds:.1f}'),
  ):
    print()
    print_row(f'{title}, {unit}', *VARIANTS)
    print_row(*['---'] * (len(VARIANTS) + 1))
    for name, cost in costs.items():
      print_row(name, *map(form, cost.values()))


if __name__ == '__main__':
  app.run(main)
