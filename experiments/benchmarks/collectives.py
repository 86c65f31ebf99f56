"""What devices send each other, from compiled HLO."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

WIDTHS = {'f32': 4, 's32': 4, 'u32': 4, 'bf16': 2, 'f16': 2, 'pred': 1, 's8': 1}
"""Bytes of a number."""
_COLLECTIVE = re.compile(
  r'= (\(?\w+\[.*?) (all-\w+|collective-\w+|reduce-scatter)(?:-start)?\((.*)'
)
_CALLS = re.compile(
  r'(body|condition|calls|to_apply|\w+_computations?)='
  r'(\{[^}]*\}|%?[\w.\-]+)'
)


class Collective(NamedTuple):
  """An operation of which several devices take part."""

  kind: str  # such as 'all-reduce'
  elements: int  # numbers of its result
  size: int  # bytes of its result
  devices: int | None  # that take part; None: all
  times: int  # how often a program runs it, as far as trip counts are known
  in_loop: bool


def collectives(text: str) -> list[Collective]:
  """The collectives of a compiled program, as `Compiled.as_text` prints it."""
  bodies = dict(_computations(text))
  entry = next(name for name, body in bodies.items() if body[0] == 'E')
  found = {}

  def visit(name, times, in_loop):
    before, was_in_loop = found.get(name, (0, False))
    found[name] = before + times, in_loop or was_in_loop
    for line in bodies[name].splitlines()[1:]:
      trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
      for role, names in _CALLS.findall(line):
        loops = role in ('body', 'condition')
        number = int(trips[1]) if loops and trips else 1
        for called in re.findall(r'[\w.\-]+', names):
          if called in bodies:
            visit(called, times * number, in_loop or loops)

  visit(entry, 1, in_loop=False)
  return [
    one
    for name, body in bodies.items()
    if name in found
    for one in _in_computation(body, *found[name])
  ]


def _computations(text: str) -> Iterator[tuple[str, str]]:
  """The name and the text of every computation."""
  for body in re.split(r'\n(?=(?:ENTRY )?%?[\w.\-]+ \()', text):
    found = re.match(r'(?:ENTRY )?%?([\w.\-]+) \(', body)
    if found:
      yield found[1], body


def _in_computation(body, times, in_loop):
  for shapes, kind, rest in _COLLECTIVE.findall(body):
    sizes = [
      (math.prod(map(int, filter(None, dims.split(',')))), WIDTHS[dtype])
      for dtype, dims in re.findall(r'(\w+)\[([\d,]*)\]', shapes)
    ]
    yield Collective(
      kind,
      sum(number for number, _ in sizes),
      sum(number * width for number, width in sizes),
      _devices(rest),
      times,
      in_loop,
    )


def _devices(attributes):
  """How many devices each group has, in any of the ways to write groups."""
  axes = re.search(r'replica_groups=mesh\[(.*?)\] \{(.*?)\}', attributes)
  if axes:
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", axes[1]))
    return math.prod(int(sizes[n]) for n in re.findall(r"'(\w+)'", axes[2]))
  numbered = re.search(r'replica_groups=\[\d+,(\d+)\]<=', attributes)
  if numbered:
    return int(numbered[1])
  listed = re.search(r'replica_groups=\{\{([\d,]+)\}', attributes)
  return listed[1].count(',') + 1 if listed else None


def sent(collective: Collective, num_devices: int) -> float:
  """Bytes that each device sends in a ring, every time it is run.

  With n devices, S bytes of result: 2 S (n − 1)/n for an all-reduce, S (n − 1)
  for a reduce-scatter, S for a permutation, S (n − 1)/n for all others.
  """
  n = collective.devices or num_devices
  factor = {
    'all-reduce': 2 * (n - 1) / n,
    'reduce-scatter': n - 1,
    'collective-permute': 1,
  }.get(collective.kind, (n - 1) / n)
  return factor * collective.size * collective.times
