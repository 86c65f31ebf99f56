"""Runs a loop without what is hoisted out of it, then what is hoisted.

The loop emits the values that the hoisted equations start from. From them what
it emitted before is made for all steps at once, and what it added up is made as
a sum of products.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from adaopt.per_example import cut, program, summed


class Hoisted(NamedTuple):
  """What is computed after a loop for one of its outputs."""

  equations: list[program.Equation]
  leaves: list[int]  # values of the body that the equations start from
  carry: int | None  # the input that holds the sum so far
  from_zero: bool  # whether that is where the sum starts


class Loop(NamedTuple):
  """A scan, and the outputs that can leave it."""

  equation: program.Equation
  body: program.Program
  consts: int  # inputs that are the same in all steps
  carries: int  # inputs after them that are carried on
  varying: set[int]  # the values of the body that are not the same in all steps
  hoisted: dict[int, Hoisted]  # by position


def run(loop: Loop, read: program.Read) -> list[Any]:
  """Runs a loop without what is hoisted, then what is hoisted."""
  equation, body, consts, carries, _, hoisted = loop
  params = equation.params
  operands = dict(zip(body.inputs, map(read, equation.inputs), strict=True))
  kept = [i for i in range(len(body.outputs)) if i not in hoisted]
  carry_inputs = [body.inputs[consts + i] for i in kept if i < carries]
  sliced = body.inputs[consts + carries :]
  emitted, fixed = _leaves(loop)
  outside = body.constants | {v: operands[v] for v in body.inputs[:consts]}
  independent = program.needed(body.equations, fixed)
  outside |= zip(
    fixed, program.evaluate(independent, outside, fixed), strict=True
  )
  wanted = [*(body.outputs[i] for i in kept), *emitted]
  equations = program.needed(body.equations, wanted, effects=True)

  def step(carry, x):
    known = outside | dict(zip(carry_inputs, carry, strict=True))
    known |= dict(zip(sliced, x, strict=True))
    results = program.evaluate(equations, known, wanted)
    return results[: len(carry)], results[len(carry) :]

  final, stacked = jax.lax.scan(
    step,
    [operands[v] for v in carry_inputs],
    [operands[v] for v in sliced],
    length=params['length'],
    reverse=params['reverse'],
    unroll=params['unroll'],
  )
  results = dict(zip(kept, [*final, *stacked], strict=False))
  stacks = {v: operands[v] for v in sliced}
  stacks |= zip(emitted, stacked[len(kept) - len(final) :], strict=True)
  for i, one in hoisted.items():
    if one.carry is None:
      results[i] = _slices(body.outputs[i], one, stacks, outside)
    else:
      init = {one.carry: operands[one.carry]}
      results[i] = _sums(body.outputs[i], one, stacks, outside, init)
  return [results[i] for i in range(len(body.outputs))]


def _leaves(loop):
  """The leaves that the loop has to emit, and those made of its constants."""
  leaves = dict.fromkeys(v for h in loop.hoisted.values() for v in h.leaves)
  sums = {h.carry for h in loop.hoisted.values()}
  carried = loop.body.inputs[loop.consts : loop.consts + loop.carries]
  made = [v for v in leaves if v in loop.body.producers]
  emitted = [v for v in made if v in loop.varying]
  emitted += [v for v in leaves if v in carried and v not in sums]
  return emitted, [v for v in made if v not in loop.varying]


def _slices(output, hoisted, stacks, outside):
  """An output that is emitted, from stacked values."""
  mapped = {v: stacks[v] for v in hoisted.leaves if v in stacks}

  def one(mapped):
    (value,) = program.evaluate(hoisted.equations, outside | mapped, [output])
    return value

  return jax.vmap(one)(mapped)


def _sums(output, hoisted, stacks, outside, init):
  """An output that is added up, from stacked values."""
  known = outside | init
  for v in hoisted.leaves:
    if v in stacks:
      known[v] = jnp.sum(stacks[v], 0, dtype=stacks[v].dtype)

  def one_product(equation):
    return lambda read: [summed.over_steps(equation, read, stacks)]

  def added(equation):
    (other,) = (v for v in equation.inputs if v != hoisted.carry)
    return lambda read: [read(other)]

  instead = {
    e.outputs: one_product(e)
    for e in hoisted.equations
    if e.name in cut.CONTRACTIONS
  }
  if hoisted.from_zero:
    instead |= {
      e.outputs: added(e)
      for e in hoisted.equations
      if hoisted.carry in e.inputs
    }
  return program.evaluate(hoisted.equations, known, [output], instead)[0]
