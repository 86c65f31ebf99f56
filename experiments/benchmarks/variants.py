"""Shared by benchmarks of functions of a loss: time, memory, compilation."""

import functools
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
from absl import flags

from adaopt.experiments import losses
from adaopt.experiments.benchmarks import networks, timing

NETWORK = flags.DEFINE_multi_enum(
  'network',
  list(networks.NETWORKS),
  networks.NETWORKS,
  'Network to time; may be repeated. Default: all.',
)

PLAIN = 'plain gradient'

Variants = dict[str, Callable[[Callable], Callable]]
"""By name: loss_fn → (params, batch) → anything; the first is `PLAIN`."""

Peers = Callable[[str, networks.Network], timing.Functions]
"""(name, network) → the functions of other libraries that support it."""

Times = dict[str, dict[str, float]]
"""Median milliseconds by network, of every variant and of the peers."""


class Compiled(NamedTuple):
  """A variant, ready to run."""

  run: functools.partial
  seconds: float  # to trace and compile


def of_examples(loss_fn: Callable) -> Callable:
  """(params, batch) → the losses and gradients of all examples."""

  def gradients(params, batch):
    one = jax.tree.map(lambda x: x[:, None], batch)
    return jax.vmap(jax.value_and_grad(loss_fn), (None, 0))(params, one)

  return gradients


def compile_for(
  network: networks.Network, variants: Variants
) -> dict[str, Compiled]:
  """Compiles every variant for a network."""
  batch, params = networks.examples(network), networks.parameters(network)
  compiled = {}
  for name, variant in variants.items():
    begin = time.perf_counter()
    run = timing.compiled(variant(losses.mean(network.model)), params, batch)
    compiled[name] = Compiled(run, time.perf_counter() - begin)
  return compiled


def measure(variants: Variants, peers: Peers | None, beside: str) -> Times:
  """Compiles and times the chosen networks, and prints all tables.

  The times of `beside`, one of the variants, stand next to those of the peers.
  """
  others = [name for name in variants if name != PLAIN]
  timing.print_header('network', 'b', f'{PLAIN}, ms', *others)
  compiled, times = {}, {}
  for name in NETWORK.value:
    network = networks.NETWORKS[name]
    compiled[name] = compile_for(network, variants)
    ours = timing.in_turns({k: v.run for k, v in compiled[name].items()})
    # Timed apart: threads of one library keep spinning while the other runs.
    foreign = peers(name, network) if peers else {}
    times[name] = ours | timing.in_turns(foreign)
    plain = ours[PLAIN]
    ratios = (f'{ours[other] / plain:.2f}' for other in others)
    timing.print_row(name, network.batch_size, f'{plain:.1f}', *ratios)
  _print_costs(compiled)
  if peers:
    _print_peers(times, beside, set(variants) - {PLAIN, beside})
  return times


def _print_costs(compiled: dict[str, dict[str, Compiled]]) -> None:
  """Prints memory and compile times."""
  memory = lambda one: one.run.func.memory_analysis().temp_size_in_bytes / 1e6
  for title, number in (
    ('temporary memory, MB', memory),
    ('trace and compile, s', lambda one: one.seconds),
  ):
    timing.print_header(title, *next(iter(compiled.values())))
    for name, variants in compiled.items():
      timing.print_row(name, *(f'{number(v):.1f}' for v in variants.values()))


def _print_peers(times: Times, beside: str, left_out: set[str]) -> None:
  """Prints the times of the PyTorch peers next to JAX's and one of ours."""
  names = dict.fromkeys(key for one in times.values() for key in one)
  columns = [key for key in names if key not in left_out]
  titles = {PLAIN: f'JAX {PLAIN}', beside: f'adaopt {beside}'}
  timing.print_header('ms', *(titles.get(key, key) for key in columns))
  for name, one in times.items():
    cells = (f'{one[key]:.1f}' if key in one else '' for key in columns)
    timing.print_row(name, *cells)
