"""Times gradient statistics against a plain gradient.

python -m adaopt.experiments.benchmarks.statistics [--peers]
"""

import functools
import pathlib
import sys
from collections.abc import Callable
from types import ModuleType

import jax
import jax.numpy as jnp
import optax
from absl import flags

import adaopt
from adaopt.experiments import command_line
from adaopt.experiments.benchmarks import timing, variants
from adaopt.experiments.plots import ratios as ratio_plots

_PEERS = flags.DEFINE_bool(
  'peers', False, 'Whether to time torch.func and BackPACK too.'
)
_PICTURE = flags.DEFINE_string('picture', None, 'File to draw the ratios in.')

GROUPS = 8
"""The number of micro-batches, of adaopt and of optax."""


def per_example(loss_fn: Callable) -> Callable:
  """Mean gradient and squared norms from one gradient per example."""

  def estimate(params, batch):
    values, gradients = variants.of_examples(loss_fn)(params, batch)
    norms = jax.vmap(lambda g: optax.tree.norm(g, squared=True))(gradients)
    mean = jax.tree.map(lambda g: jnp.mean(g, 0), gradients)
    return jnp.mean(values), mean, norms

  return estimate


def microbatching(loss_fn: Callable) -> Callable:
  """The same with optax, one micro-batch of gradients at a time."""

  def estimate(params, batch):
    return optax.microbatching.micro_grad(
      loss_fn,
      microbatch_size=len(batch['label']) // GROUPS,
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


def instrumented(loss_fn: Callable) -> Callable:
  """adaopt's estimator, and what `adaopt.noise_scale` makes of it."""
  instrument = adaopt.noise_scale(half_life=20_000)

  def estimate(params, batch):
    loss, statistics = adaopt.value_and_statistics(loss_fn)(params, batch)
    state = instrument.init(params)
    return loss, instrument.update(
      statistics.mean, state, params, statistics=statistics
    )

  return estimate


def in_groups(loss_fn: Callable) -> Callable:
  """adaopt's estimator with micro-batches as samples."""

  def estimate(params, batch):
    size = len(batch['label']) // GROUPS
    return adaopt.value_and_statistics(
      loss_fn, only=('variance',), group_size=size
    )(params, batch)

  return estimate


VARIANTS = {
  variants.PLAIN: jax.value_and_grad,
  'v': ours('variance'),
  'v on demand': on_demand,
  'noise scale': instrumented,
  'v and v∥': ours('variance', 'variance_along_mean'),
  'coordinate-wise': ours('coordinate_variance'),
  'spectral': spectral,
  'mean of signs': adaopt.per_example.mean_of_signs,
  f'{GROUPS} groups': in_groups,
  'vmap(grad)': per_example,
  'optax': microbatching,
}


def load_peers() -> ModuleType | None:
  """The module of the PyTorch peers, if --peers is set."""
  if not _PEERS.value:
    return None
  return timing.load_peers('peers', 'torch and backpack-for-pytorch')


def main() -> None:
  """Prints times, memory and compile times."""
  picture = _PICTURE.value and pathlib.Path(_PICTURE.value)
  if picture:
    try:
      ratio_plots.check_path(picture)
    except ValueError as error:
      sys.exit(f'--picture: {error}')
  peers = load_peers()
  timing.print_machine()
  times = variants.measure(VARIANTS, peers and peers.functions, 'v')
  if picture:
    names = [name for name in VARIANTS if name != variants.PLAIN]
    ratios = {
      network: {name: one[name] / one[variants.PLAIN] for name in names}
      for network, one in times.items()
    }
    ratio_plots.save(ratios, picture)


if __name__ == '__main__':
  command_line.run(main, optional=['repeats', 'network'])
