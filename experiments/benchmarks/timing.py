"""What every benchmark shares: runs in turns, and how results are printed."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Hashable
from typing import Any

import jax
from absl import flags

REPEATS = flags.DEFINE_integer('repeats', 5, 'Runs of each function.')


def in_turns(functions: dict[Hashable, Callable[[], Any]]) -> dict:
  """Median milliseconds of every function, run in turns.

  Every run is the second of two, so that none pays for what the one before it
  left in the caches or in spinning threads.
  """
  times = {name: [] for name in functions}
  for _ in range(REPEATS.value):
    for name, function in functions.items():
      jax.block_until_ready(function())
      begin = time.perf_counter()
      jax.block_until_ready(function())
      times[name].append(1e3 * (time.perf_counter() - begin))
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
