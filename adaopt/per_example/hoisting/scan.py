"""Runs a scan without its hoisted equations, then the hoisted equations.

The scan emits the sources of the hoisted equations. From their stacks an output
that was emitted is computed for all steps at once, and an output that was
carried is computed as a sum of contractions.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from adaopt.per_example import cut
from adaopt.per_example.hoisting import steps
from adaopt.per_example.program import ir, scans


class Hoisted(NamedTuple):
  """The equations of one output that run after the scan."""

  equations: list[ir.Equation]
  sources: list[int]  # values of the body that the equations start from
  carry: int | None  # the input with the sum so far; None if emitted
  from_zero: bool  # whether the sum starts from zero


class Loop(NamedTuple):
  """A scan and its outputs to hoist."""

  equation: ir.Equation
  body: ir.Program
  consts: int  # the number of inputs that are fixed: equal in all steps
  carries: int  # the number of inputs after them that are carried
  varying: set[int]  # the values of the body that are not fixed
  hoisted: dict[int, Hoisted]  # by the index of the output


def run(loop: Loop, read: ir.Read) -> list[Any]:
  """Computes the outputs of a scan."""
  equation, body, consts, carries, _, hoisted = loop
  operands = dict(zip(body.inputs, map(read, equation.inputs), strict=True))
  kept = [i for i in range(len(body.outputs)) if i not in hoisted]
  carry_inputs = [body.inputs[consts + i] for i in kept if i < carries]
  sliced = body.inputs[consts + carries :]
  emitted, fixed = _sources(loop)
  known_fixed = body.constants | {v: operands[v] for v in body.inputs[:consts]}
  independent = ir.needed(body.equations, fixed)
  known_fixed |= zip(
    fixed, ir.evaluate(independent, known_fixed, fixed), strict=True
  )
  wanted = [*(body.outputs[i] for i in kept), *emitted]
  equations = ir.needed(body.equations, wanted, effects=True)

  def step(carry, x):
    known = known_fixed | dict(zip(carry_inputs, carry, strict=True))
    known |= dict(zip(sliced, x, strict=True))
    results = ir.evaluate(equations, known, wanted)
    return results[: len(carry)], results[len(carry) :]

  init, xs = ([operands[v] for v in vs] for vs in (carry_inputs, sliced))
  final, stacked = scans.run(equation, step, init, xs)
  results = dict(zip(kept, [*final, *stacked], strict=False))
  stacks = {v: operands[v] for v in sliced}
  stacks |= zip(emitted, stacked[len(kept) - len(final) :], strict=True)
  for i, one in hoisted.items():
    if one.carry is None:
      results[i] = _emitted(body.outputs[i], one, stacks, known_fixed)
    else:
      init = {one.carry: operands[one.carry]}
      results[i] = _carried(body.outputs[i], one, stacks, known_fixed, init)
  return [results[i] for i in range(len(body.outputs))]


def _sources(loop):
  """The sources that the scan has to emit, and those that are fixed."""
  sources = dict.fromkeys(v for h in loop.hoisted.values() for v in h.sources)
  sums = {h.carry for h in loop.hoisted.values()}
  carried = loop.body.inputs[loop.consts : loop.consts + loop.carries]
  made = [v for v in sources if v in loop.body.producers]
  emitted = [v for v in made if v in loop.varying]
  emitted += [v for v in sources if v in carried and v not in sums]
  return emitted, [v for v in made if v not in loop.varying]


def _emitted(output, hoisted, stacks, fixed):
  """Computes an emitted output from stacked values."""
  mapped = {v: stacks[v] for v in hoisted.sources if v in stacks}

  def one(mapped):
    (value,) = ir.evaluate(hoisted.equations, fixed | mapped, [output])
    return value

  return jax.vmap(one)(mapped)


def _carried(output, hoisted, stacks, fixed, init):
  """Computes a carried sum from stacked values."""
  known = fixed | init
  for v in hoisted.sources:
    if v in stacks:
      known[v] = jnp.sum(stacks[v], 0, dtype=stacks[v].dtype)

  def one_contraction(equation):
    return lambda read: [steps.summed(equation, read, stacks)]

  def added(equation):
    (other,) = (v for v in equation.inputs if v != hoisted.carry)
    return lambda read: [read(other)]

  instead = {
    e.outputs: one_contraction(e)
    for e in hoisted.equations
    if e.name in cut.CONTRACTIONS
  }
  if hoisted.from_zero:
    instead |= {
      e.outputs: added(e)
      for e in hoisted.equations
      if hoisted.carry in e.inputs
    }
  return ir.evaluate(hoisted.equations, known, [output], instead)[0]
