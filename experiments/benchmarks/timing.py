"""Shared by all benchmarks: runs in turns, and printing of results."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Hashable
from typing import Any

import jax
from absl import flags

REPEATS = flags.DEFINE_integer(
  'repeats', 5, 'Turns per function.', lower_bound=1
)

LONG = 5.0
"""Runs longer than this many seconds are not repeated."""

BLOCK = 0.2
"""Seconds for which each turn repeats a function."""


def in_turns(functions: dict[Hashable, Callable[[], Any]]) -> dict:
  """Median milliseconds of every function, run in turns.

  A turn runs a function once untimed, so that it does not pay for what the
  previous one left in the caches, and then repeats it for at least `BLOCK`
  seconds. A function that takes longer than `LONG` has only one turn, and its
  first run counts.
  """
  times = {name: [] for name in functions}
  for _ in range(REPEATS.value):
    for name, function in functions.items():
      if times[name] and times[name][0] > 1e3 * LONG:
        continue
      begin = time.perf_counter()
      jax.block_until_ready(function())
      first = time.perf_counter() - begin
      if first > LONG:
        times[name].append(1e3 * first)
        continue
      runs, begin = 0, time.perf_counter()
      while not runs or time.perf_counter() < begin + BLOCK:
        jax.block_until_ready(function())
        runs += 1
      times[name].append(1e3 * (time.perf_counter() - begin) / runs)
  return {name: statistics.median(values) for name, values in times.items()}


def print_machine() -> None:
  print(
    f'{jax.devices()[0].device_kind}, {os.cpu_count()} cores of '
    f'{platform.machine()}, JAX {jax.__version__}',
    flush=True,
  )


def print_header(*cells: Any) -> None:
  """Starts a table."""
  print()
  print_row(*cells)
  print_row(*['---'] * len(cells))


def print_row(*cells: Any) -> None:
  print('|', ' | '.join(map(str, cells)), '|', flush=True)
