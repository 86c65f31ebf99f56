"""Takes the contractions of gradients out of the loops of a program.

The weights of a recurrent cell get their gradient in a scan, one term added a
step; those of scanned layers get one slice a step. What the body only adds up
or emits can be contracted after the loop from factors that the loop emits
instead, and then the rules see it: Σ_t x_t δ_tᵀ is a dense layer on sequences.
"""

import collections
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from adaopt.per_example import cut, program, slices, summed


class _Hoisted(NamedTuple):
  """What is computed after a loop for one of its outputs."""

  equations: list[program.Equation]
  leaves: list[int]  # values of the body that the equations start from
  carry: int | None  # the input that holds the sum so far
  from_zero: bool  # whether that is where the sum starts


class _Loop(NamedTuple):
  """A scan, and the outputs that can leave it."""

  equation: program.Equation
  body: program.Program
  consts: int  # inputs that are the same in all steps
  carries: int  # inputs after them that are carried on
  varying: set[int]  # the values of the body that are not the same in all steps
  hoisted: dict[int, _Hoisted]  # by position


def hoist(flat: program.Program, positions: Sequence[int]) -> program.Program:
  """Moves contractions that make gradients out of loops.

  It also brings slices of a contraction to its factors, since a cell computes
  several gradients in one product and then splits it.

  Args:
    flat: A program.
    positions: Which of its outputs are gradients.

  Returns:
    An equal program.
  """
  changes = _changes(flat, [flat.outputs[i] for i in positions])
  if not changes:
    return flat

  def run(*inputs):
    known = flat.constants | dict(zip(flat.inputs, inputs, strict=True))
    equations = program.needed(flat.equations, flat.outputs, effects=True)
    return program.evaluate(equations, known, flat.outputs, changes)

  closed = jax.make_jaxpr(run)(*(flat.avals[v] for v in flat.inputs))
  return hoist(program.flatten(closed), positions)


def _changes(flat, gradients):
  """What to evaluate in another way, by the outputs of its equation."""
  changes, reached = {}, collections.defaultdict(set)
  pending = program.numbers(gradients)
  while pending:
    equation = flat.producers.get(value := pending.pop())
    if equation is None or equation.outputs in changes:
      continue
    if cut.moves_or_adds(flat.avals, equation):
      pending.extend(program.numbers(equation.inputs))
    elif equation.name in slices.SELECTIONS:
      if slices.is_of_product(flat, equation):
        changes[equation.outputs] = slices.of_factors(flat, equation)
    elif equation.name == 'scan':
      reached[equation.outputs].add(equation.outputs.index(value))
  for outputs, positions in reached.items():
    loop = _loop(flat, flat.producers[outputs[0]], positions)
    if loop.hoisted:
      changes[outputs] = lambda read, loop=loop: _fission(loop, read)
  return changes


def _loop(
  flat: program.Program, equation: program.Equation, positions: set[int]
) -> _Loop:
  """Finds which outputs of a scan can be computed after it."""
  jaxpr = equation.params['jaxpr']
  if not isinstance(jaxpr, core.ClosedJaxpr):
    jaxpr = core.ClosedJaxpr(jaxpr, ())
  consts, carries = _counts(flat, equation, jaxpr)
  body = hoist(program.flatten(jaxpr), sorted(positions))
  varying = program.dependents(body.equations, body.inputs[consts:])
  others = [v for i, v in enumerate(body.outputs) if i not in positions]
  space = cut.weight_space(body, others, varying)
  found = {}
  for i in sorted(positions):
    output = body.outputs[i]
    if output not in body.producers or not equation.params['length']:
      continue
    if i < carries:
      carry = body.inputs[consts + i]
      from_zero = cut.is_zero(flat, equation.inputs[consts + i])
      walked = cut.follow_back(body, output, varying, set())
      hoisted = _Hoisted(*walked, carry, from_zero)
      leaves_loop = _only_adds(body, hoisted, varying)
    else:
      walked = cut.follow_back(body, output, varying, space)
      hoisted = _Hoisted(*walked, None, False)
      leaves_loop = varying.intersection(hoisted.leaves)
    makes = any(cut.is_contraction(body, e) for e in hoisted.equations)
    if leaves_loop and makes:
      found[i] = hoisted
  return _Loop(equation, body, consts, carries, varying, found)


def _counts(flat, equation, jaxpr):
  """How many inputs of a scan are constants, and how many are carries."""
  # The rank tells: only what is sliced or stacked has another axis outside.
  # JAX keeps the numbers under other names from version to version.
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
  return same[0] - same[1], same[1]


def _only_adds(body, hoisted, varying):
  """Whether a carry only adds up products that vary with the step."""
  equations, leaves, carry, _ = hoisted
  after_carry = program.dependents(equations, [carry])

  def adds_up(equation):
    if equation.name in cut.SUMS:
      inputs = program.numbers(equation.inputs)
      return len(inputs) == 2 and varying.issuperset(inputs)
    if after_carry.intersection(equation.outputs):
      return False
    moves = cut.is_move(body.avals, equation)
    return moves or summed.is_summable(body, equation)

  return (
    carry in leaves
    and all(body.uses[v] == 1 for v in after_carry)
    and all(map(adds_up, equations))
  )


def _fission(loop: _Loop, read: program.Read) -> list[Any]:
  """Runs a loop without what is hoisted, then what is hoisted."""
  equation, body, consts, carries, varying, hoisted = loop
  params = equation.params
  operands = dict(zip(body.inputs, map(read, equation.inputs), strict=True))
  kept = [i for i in range(len(body.outputs)) if i not in hoisted]
  kept_carries = [i for i in kept if i < carries]
  carry_inputs = [body.inputs[consts + i] for i in kept_carries]
  of_loop = set(body.inputs[consts : consts + carries])
  sliced = body.inputs[consts + carries :]
  outside = body.constants | {v: operands[v] for v in body.inputs[:consts]}
  leaves = dict.fromkeys(v for h in hoisted.values() for v in h.leaves)
  sums = {h.carry for h in hoisted.values()}
  made = [v for v in leaves if v in body.producers]
  emitted = [v for v in made if v in varying]
  emitted += [v for v in leaves if v in of_loop and v not in sums]
  fixed = [v for v in made if v not in varying]
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
