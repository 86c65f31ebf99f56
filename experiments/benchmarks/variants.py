"""Shared by benchmarks of functions of a loss: time, memory, compilation."""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from absl import flags

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


class Compiled(NamedTuple):
  """A variant, ready to run."""

  run: Callable[[], Any]
  seconds: float  # to trace and compile
  temporary: int  # bytes


def compile_for(
  network: networks.Network, variants: Variants
) -> dict[str, Compiled]:
  """Compiles every variant for a network."""
  batch = networks.examples(network)
  params = network.model.init(jax.random.key(1), batch[0][:1])
  loss_fn = networks.loss_of(network)
  compiled = {}
  for name, variant in variants.items():
    begin = time.perf_counter()
    function = jax.jit(variant(loss_fn)).lower(params, batch).compile()
    compiled[name] = Compiled(
      functools.partial(function, params, batch),
      time.perf_counter() - begin,
      function.memory_analysis().temp_size_in_bytes,
    )
  return compiled


class Times(NamedTuple):
  """Median milliseconds on one network."""

  ours: dict[str, float]  # of every variant
  peers: dict[str, float]  # of the PyTorch peers


Peers = Callable[[str, networks.Network], dict[str, Callable[[], Any]]]
"""(name, network) → the functions of other libraries that support it."""


def measure(
  variants: Variants, peers: Peers | None
) -> tuple[dict[str, dict[str, Compiled]], dict[str, Times]]:
  """Compiles and times the chosen networks, printing a row of ratios for each.

  Returns what was compiled, and the times, by network.
  """
  others = [name for name in variants if name != PLAIN]
  timing.print_header('network', 'b', f'{PLAIN}, ms', *others)
  compiled, times = {}, {}
  for name in NETWORK.value:
    network = networks.NETWORKS[name]
    functions = compiled[name] = compile_for(network, variants)
    run = {variant: one.run for variant, one in functions.items()}
    ours = timing.in_turns(run)
    # Timed apart: threads of one library keep spinning while the other runs.
    foreign = peers(name, network) if peers else {}
    times[name] = Times(ours, timing.in_turns(foreign))
    plain = ours[PLAIN]
    ratios = (f'{ours[other] / plain:.2f}' for other in others)
    timing.print_row(name, network.batch_size, f'{plain:.1f}', *ratios)
  return compiled, times


def print_costs(compiled: dict[str, dict[str, Compiled]]) -> None:
  """Prints memory and compile times."""
  names = list(next(iter(compiled.values())))
  timing.print_header('temporary memory, MB', *names)
  for name, variants in compiled.items():
    megabytes = (f'{v.temporary / 1e6:.1f}' for v in variants.values())
    timing.print_row(name, *megabytes)
  timing.print_header('trace and compile, s', *names)
  for name, variants in compiled.items():
    timing.print_row(name, *(f'{v.seconds:.1f}' for v in variants.values()))


def print_peers(times: dict[str, Times], variant: str) -> None:
  """Prints the times of the PyTorch peers next to JAX's and those of ours."""
  columns = dict.fromkeys(key for one in times.values() for key in one.peers)
  timing.print_header('ms', f'JAX {PLAIN}', f'adaopt {variant}', *columns)
  for name, (ours, peers) in times.items():
    cells = (f'{peers[key]:.1f}' if key in peers else '' for key in columns)
    timing.print_row(name, f'{ours[PLAIN]:.1f}', f'{ours[variant]:.1f}', *cells)
