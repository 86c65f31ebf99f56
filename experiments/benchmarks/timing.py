"""Shared by all benchmarks: runs in turns, and printing of results."""

import functools
import importlib
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Hashable, Iterable
from types import ModuleType
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


Functions = dict[Hashable, Callable[[], Any]]
"""Functions to be timed, by name; they have been compiled."""

Rows = Iterable[tuple[tuple[Any, ...], Functions]]
"""The first cells of a row, and its functions: the same names in every row."""


def compiled(function: Callable[..., Any], *args: Any) -> functools.partial:
  """A function compiled for its arguments, which it holds."""
  return functools.partial(jax.jit(function).lower(*args).compile(), *args)


def in_turns(
  functions: Functions, clock: Callable[[], float] = time.perf_counter
) -> dict[Hashable, float]:
  """Median milliseconds of every function, run in turns.

  A turn runs a function once untimed, so that it does not pay for what the
  previous one left in the caches, and then repeats it for at least `BLOCK`
  seconds. A function that takes longer than `LONG` has only one turn, and its
  first run counts. With `time.process_time` as the clock the times are the
  processor's, of all threads, which what else runs on the machine changes
  little.
  """
  times = {name: [] for name in functions}
  for _ in range(REPEATS.value):
    for name, function in functions.items():
      if times[name] and times[name][0] > 1e3 * LONG:
        continue
      begin = clock()
      jax.block_until_ready(function())
      first = clock() - begin
      if first > LONG:
        times[name].append(1e3 * first)
        continue
      runs, begin = 0, clock()
      while not runs or clock() < begin + BLOCK:
        jax.block_until_ready(function())
        runs += 1
      times[name].append(1e3 * (clock() - begin) / runs)
  return {name: statistics.median(values) for name, values in times.items()}


def print_ratios(
  labels: Iterable[str],
  rows: Rows,
  clock: Callable[[], float] = time.perf_counter,
) -> None:
  """Times functions and prints a table, with ratios to the first of a row.

  `labels` are the titles of the cells that a row begins with.
  """
  for number, (cells, functions) in enumerate(rows):
    times = in_turns(functions, clock)
    first, *others = times
    if not number:
      titles = [f'{name}, ms' for name in times]
      print_header(*labels, *titles, *(f'{name} / {first}' for name in others))
    ratios = [f'{times[name] / times[first]:.2f}' for name in others]
    print_row(*cells, *(f'{time:.2f}' for time in times.values()), *ratios)


def load_peers(name: str, packages: str) -> ModuleType:
  """A module of this folder that needs packages; ends the script without."""
  try:
    return importlib.import_module(f'{__package__}.{name}')
  except ImportError as error:
    sys.exit(f'This needs {packages}: {error}.')


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
