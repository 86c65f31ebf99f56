"""Prints equations as text that does not change with JAX's version."""

import itertools
import string
from collections.abc import Iterable

import numpy as np
from jax.extend import core

from adaopt.per_example.program import ir


def _letters():
  """a to z, aa to zz, and so on."""
  for length in itertools.count(1):
    for word in itertools.product(string.ascii_lowercase, repeat=length):
      yield ''.join(word)


def names(flat: ir.Program, values: Iterable[ir.Value]) -> list[str]:
  """Names values by letters, in order: inputs, constants and needed values."""
  needed = ir.needed(flat.equations, flat.outputs, effects=True)
  read = {v for e in needed for v in ir.numbers(e.inputs)}
  made = [v for e in needed for v in e.outputs]
  named = [*flat.inputs, *(v for v in flat.constants if v in read), *made]
  table = dict(zip(named, _letters(), strict=False))
  literal = lambda value: f'{np.asarray(value.val).item():g}'
  return [
    literal(v) if isinstance(v, core.Literal) else table[v] for v in values
  ]


def text(flat: ir.Program, equations: Iterable[ir.Equation]) -> str:
  """Equations as lines `output [shape] = primitive input ...`.

  Args:
    flat: The program that the equations belong to.
    equations: The equations to print.

  Returns:
    A line for every equation.
  """
  lines = []
  for equation in equations:
    shapes = [list(flat.avals[value].shape) for value in equation.outputs]
    outputs = zip(names(flat, equation.outputs), shapes, strict=True)
    left = ', '.join(f'{name} {shape}' for name, shape in outputs)
    right = ' '.join([equation.name, *names(flat, equation.inputs)])
    lines.append(f'{left} = {right}')
  return '\n'.join(lines)
