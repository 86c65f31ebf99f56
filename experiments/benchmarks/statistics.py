"""Times gradient statistics against a plain gradient.

python -m experiments.benchmarks.statistics [--peers]
"""

import functools
import importlib
import pathlib
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from absl import app, flags

import adaopt
from experiments import options
from experiments.benchmarks import networks, timing
from experiments.plots import ratios as ratio_plots

_NETWORKS = flags.DEFINE_multi_enum(
  'network',
  list(networks.NETWORKS),
  networks.NETWORKS,
  'Network to time; may be repeated. Default: all.',
)
_PEERS = flags.DEFINE_bool(
  'peers', False, 'Whether to time torch.func and BackPACK too.'
)
_PICTURE = flags.DEFINE_string('picture', None, 'File to draw the ratios in.')

GROUPS = 8
"""The number of micro-batches, of adaopt and of optax."""


def per_example(loss_fn: Callable) -> Callable:
  """Mean gradient and squared norms from one gradient per example."""

  def estimate(params, batch):
    one = jax.tree.map(lambda x: x[:, None], batch)
    gradient = jax.value_and_grad(loss_fn)
    values, gradients = jax.vmap(gradient, (None, 0))(params, one)
    norms = jax.vmap(lambda g: optax.tree.norm(g, squared=True))(gradients)
    mean = jax.tree.map(lambda g: jnp.mean(g, 0), gradients)
    return jnp.mean(values), mean, norms

  return estimate


def microbatching(loss_fn: Callable) -> Callable:
  """The same with optax, one micro-batch of gradients at a time."""

  def estimate(params, batch):
    return optax.microbatching.micro_grad(
      loss_fn,
      microbatch_size=len(batch[0]) // GROUPS,
      metrics_fn=functools.partial(optax.tree.norm, squared=True),
    )(params, batch)

  return estimate


def ours(*only: str) -> Callable:
  """adaopt's estimator of some statistics."""
  return lambda loss_fn: adaopt.value_and_statistics(loss_fn, only=only)


def on_demand(loss_fn: Callable) -> Callable:
  """adaopt's estimator of all statistics; only v is read."""

  def estimate(params, batch):
    loss, statistics = adaopt.value_and_statistics(loss_fn)(params, batch)
    return loss, statistics.mean, statistics.variance

  return estimate


def spectral(loss_fn: Callable) -> Callable:
  """adaopt's estimator, and what a test of Muon makes of it."""
  criterion = adaopt.criteria.spectral_noise_scale(0.6)
  estimator = adaopt.value_and_statistics(
    loss_fn, only=('coordinate_variance', 'matrix_variance')
  )

  def estimate(params, batch):
    loss, statistics = estimator(params, batch)
    state = criterion.init(params)
    required, _ = criterion.update(statistics, state)
    return loss, statistics.mean, required

  return estimate


def in_groups(loss_fn: Callable) -> Callable:
  """adaopt's estimator with micro-batches as samples."""

  def estimate(params, batch):
    size = len(batch[0]) // GROUPS
    return adaopt.value_and_statistics(
      loss_fn, only=('variance',), group_size=size
    )(params, batch)

  return estimate


PLAIN = 'plain gradient'
VARIANTS = {
  PLAIN: jax.value_and_grad,
  'v': ours('variance'),
  'v on demand': on_demand,
  'v and v∥': ours('variance', 'variance_along_mean'),
  'coordinate-wise': ours('coordinate_variance'),
  'spectral': spectral,
  f'{GROUPS} groups': in_groups,
  'vmap(grad)': per_example,
  'optax': microbatching,
}


class Compiled(NamedTuple):
  """A variant, ready to run."""

  run: Callable[[], Any]
  seconds: float  # to trace and compile
  temporary: int  # bytes


def compile_variants(network: networks.Network) -> dict[str, Compiled]:
  """Compiles every variant for a network."""
  batch = networks.examples(network)
  params = network.model.init(jax.random.key(1), batch[0][:1])
  loss_fn = networks.loss_of(network)
  compiled = {}
  for name, variant in VARIANTS.items():
    begin = time.perf_counter()
    function = jax.jit(variant(loss_fn)).lower(params, batch).compile()
    compiled[name] = Compiled(
      functools.partial(function, params, batch),
      time.perf_counter() - begin,
      function.memory_analysis().temp_size_in_bytes,
    )
  return compiled


def load_peers() -> ModuleType | None:
  """The module of the PyTorch peers, if --peers is set."""
  if not _PEERS.value:
    return None
  try:
    return importlib.import_module('experiments.benchmarks.peers')
  except ImportError as error:
    sys.exit(f'--peers needs torch and backpack-for-pytorch: {error}.')


class Times(NamedTuple):
  """Median milliseconds on one network."""

  ours: dict[str, float]  # of every variant
  peers: dict[str, float]  # of the PyTorch peers


def measure(
  networks_by_name: dict[str, networks.Network], peers: ModuleType | None
) -> tuple[dict[str, dict[str, Compiled]], dict[str, Times]]:
  """Compiles and times all networks, printing a row of ratios for each."""
  others = [name for name in VARIANTS if name != PLAIN]
  timing.print_header('network', 'b', f'{PLAIN}, ms', *others)
  compiled, times = {}, {}
  for name, network in networks_by_name.items():
    variants = compiled[name] = compile_variants(network)
    run = {variant: one.run for variant, one in variants.items()}
    ours = timing.in_turns(run)
    # Timed apart: threads of one library keep spinning while the other runs.
    foreign = peers.functions(name, network) if peers else {}
    times[name] = Times(ours, timing.in_turns(foreign))
    plain = ours[PLAIN]
    ratios = (f'{ours[other] / plain:.2f}' for other in others)
    timing.print_row(name, network.batch_size, f'{plain:.1f}', *ratios)
  return compiled, times


def print_costs(compiled: dict[str, dict[str, Compiled]]) -> None:
  """Prints memory and compile times."""
  timing.print_header('temporary memory, MB', *VARIANTS)
  for name, variants in compiled.items():
    megabytes = (f'{v.temporary / 1e6:.1f}' for v in variants.values())
    timing.print_row(name, *megabytes)
  timing.print_header('trace and compile, s', *VARIANTS)
  for name, variants in compiled.items():
    timing.print_row(name, *(f'{v.seconds:.1f}' for v in variants.values()))


def print_peers(times: dict[str, Times]) -> None:
  """Prints the times of the PyTorch peers next to JAX's and ours."""
  columns = dict.fromkeys(key for one in times.values() for key in one.peers)
  timing.print_header('ms', f'JAX {PLAIN}', 'adaopt v', *columns)
  for name, (ours, peers) in times.items():
    cells = (f'{peers[key]:.1f}' if key in peers else '' for key in columns)
    timing.print_row(name, f'{ours[PLAIN]:.1f}', f'{ours["v"]:.1f}', *cells)


def main(argv: list[str]) -> None:
  """Prints times, then memory and compile times."""
  del argv
  options.quiet()
  picture = _PICTURE.value and pathlib.Path(_PICTURE.value)
  if picture:
    try:
      ratio_plots.check_path(picture)
    except ValueError as error:
      sys.exit(f'--picture: {error}')
  peers = load_peers()
  timing.print_machine()
  chosen = {name: networks.NETWORKS[name] for name in _NETWORKS.value}
  compiled, times = measure(chosen, peers)
  print_costs(compiled)
  if peers:
    print_peers(times)
  if picture:
    ratios = {
      name: {key: t / ours[PLAIN] for key, t in ours.items() if key != PLAIN}
      for name, (ours, _) in times.items()
    }
    ratio_plots.save(ratios, picture)


if __name__ == '__main__':
  app.run(main)
