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

from adaopt.per_example import cut, program, slices


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
    equations = program.needed(flat.equations, flat.outputs)
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
    if equation.name in cut.MOVES | cut.SUMS:
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
  body = program.flatten(equation.params['jaxpr'])
  body = hoist(body, sorted(positions))
  consts, carries = (equation.params[f'num_{k}'] for k in ('consts', 'carry'))
  varying = program.dependents(body.equations, body.inputs[consts:])
  found = {}
  for i in sorted(positions):
    if body.outputs[i] not in body.producers:
      continue
    equations, leaves = cut.linear(body, body.outputs[i])
    carry = body.inputs[consts + i] if i < carries else None
    if all(e.name not in cut.CONTRACTIONS for e in equations):
      continue
    if (
      varying.intersection(leaves)
      if carry is None
      else _only_adds(body, equations, leaves, carry, varying)
    ):
      from_zero = i < carries and cut.is_zero(flat, equation.inputs[consts + i])
      found[i] = _Hoisted(equations, leaves, carry, from_zero)
  return _Loop(equation, body, found)


def _only_adds(body, equations, leaves, carry, varying):
  """Whether a carry only adds up products that vary with the step."""
  after_carry = program.dependents(equations, [carry])

  def adds_up(equation):
    if equation.name in cut.SUMS:
      inputs = program.numbers(equation.inputs)
      return len(inputs) == 2 and varying.issuperset(inputs)
    if after_carry.intersection(equation.outputs):
      return False
    return equation.name in cut.MOVES or _is_summable(equation)

  return (
    carry in leaves
    and body.uses[carry] == 1
    and all(adds_up(e) and varying.intersection(e.outputs) for e in equations)
  )


def _fission(loop: _Loop, read: program.Read) -> list[Any]:
  """Runs a loop without what is hoisted, then what is hoisted."""
  equation, body, hoisted = loop
  params = equation.params
  operands = dict(zip(body.inputs, map(read, equation.inputs), strict=True))
  consts, carries = params['num_consts'], params['num_carry']
  kept = [i for i in range(len(body.outputs)) if i not in hoisted]
  kept_carries = [i for i in kept if i < carries]
  carry_inputs = [body.inputs[consts + i] for i in kept_carries]
  of_loop = set(body.inputs[consts : consts + carries])
  sliced = body.inputs[consts + carries :]
  outside = body.constants | {v: operands[v] for v in body.inputs[:consts]}
  leaves = dict.fromkeys(v for h in hoisted.values() for v in h.leaves)
  sums = {h.carry for h in hoisted.values()}
  emitted = [
    v for v in leaves if v not in sums and (v in of_loop or v in body.producers)
  ]
  wanted = [*(body.outputs[i] for i in kept), *emitted]
  equations = program.needed(body.equations, wanted)

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

  def summed(equation):
    return lambda read: [_summed(equation, read, stacks)]

  def added(equation):
    (other,) = (v for v in equation.inputs if v != hoisted.carry)
    return lambda read: [read(other)]

  instead = {
    e.outputs: summed(e)
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


def _summed(equation, read, stacks):
  """Σ_t of a product whose factors are stacked over t, or one of them."""
  if not all(value in stacks for value in equation.inputs):
    # The other one is the same in every step, and this one a sum by now.
    return program.bind(equation, *map(read, equation.inputs))[0]
  operands = [stacks[value] for value in equation.inputs]
  equation, operands = SUMMED[equation.name](equation, operands)
  return program.bind(equation, *operands)[0]


def _contracted_too(equation, operands):
  """Contracts the leading axes of the factors of a product of matrices."""
  contracted, batched = jax.tree.map(
    lambda axis: axis + 1, equation.params['dimension_numbers']
  )
  dimensions = (tuple((0, *axes) for axes in contracted), batched)
  params = equation.params | {'dimension_numbers': dimensions}
  return equation._replace(params=params), operands


def _as_features(equation, operands):
  """Makes the leading axes of the factors of a convolution features."""
  spec = equation.params['dimension_numbers']

  def merged(x, axis):
    x = jnp.moveaxis(x, 0, axis)
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])

  axes = spec.lhs_spec[1], spec.rhs_spec[1]
  return equation, list(map(merged, operands, axes))


# What turns a sum over steps into one product.
SUMMED = {
  'dot_general': _contracted_too,
  'conv_general_dilated': _as_features,
}


def _is_summable(equation):
  counts = ('feature_group_count', 'batch_group_count')
  return equation.name in SUMMED and all(
    equation.params.get(count, 1) == 1 for count in counts
  )
