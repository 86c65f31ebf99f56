"""The parts of a scan, an equation of a flat program."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.extend import core

from adaopt.per_example.program import ir


class Parts(NamedTuple):
  """The body of a scan, and which of its inputs and outputs are what."""

  jaxpr: core.ClosedJaxpr
  consts: int  # the number of inputs that are fixed: equal in all steps
  carries: int  # the number of inputs after them, and of outputs, carried


def parts(flat: ir.Program, equation: ir.Equation) -> Parts:
  """The parts of a scan; the inputs and outputs after its carries are sliced.

  Args:
    flat: The program with the scan.
    equation: The scan.

  Returns:
    Its parts.
  """
  jaxpr = equation.params['jaxpr']
  if not isinstance(jaxpr, core.ClosedJaxpr):
    jaxpr = core.ClosedJaxpr(jaxpr, ())
  # Only values that are sliced or stacked have another rank outside. JAX's own
  # parameters for these numbers change their names between versions.
  ranks = lambda avals: [len(aval.shape) for aval in avals]
  inside = ranks(jaxpr.in_avals), ranks(jaxpr.out_avals)
  aval = lambda v: flat.avals[v] if isinstance(v, int) else v.aval
  outside = tuple(
    ranks(map(aval, values)) for values in (equation.inputs, equation.outputs)
  )
  same = [
    sum(a == b for a, b in zip(*pair, strict=True))
    for pair in zip(inside, outside, strict=True)
  ]
  return Parts(jaxpr, same[0] - same[1], same[1])


def run(equation: ir.Equation, step: Callable, init: Any, xs: Any) -> Any:
  """Runs another step as often, and in the order, as a scan runs its own."""
  params = equation.params
  return jax.lax.scan(
    step,
    init,
    xs,
    length=params['length'],
    reverse=params['reverse'],
    unroll=params['unroll'],
  )
