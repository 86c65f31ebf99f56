"""Takes the contractions of gradients out of the loops of a program.

The weights of a recurrent cell get their gradient in a scan, one term added a
step; those of scanned layers get one slice a step. What the body only adds up
or emits can be contracted after the loop from factors that the loop emits
instead, and then the rules see it: Σ_t x_t δ_tᵀ is a dense layer on sequences.
"""

import collections
import functools
from collections.abc import Sequence

import jax
from jax.extend import core

from adaopt.per_example import cut, fission, inlining, program, slices, summed


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
  return hoist(inlining.flatten(closed), positions)


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
      changes[outputs] = functools.partial(fission.run, loop)
  return changes


def _loop(
  flat: program.Program, equation: program.Equation, positions: set[int]
) -> fission.Loop:
  """Finds which outputs of a scan can be computed after it."""
  jaxpr = equation.params['jaxpr']
  if not isinstance(jaxpr, core.ClosedJaxpr):
    jaxpr = core.ClosedJaxpr(jaxpr, ())
  consts, carries = _counts(flat, equation, jaxpr)
  body = hoist(inlining.flatten(jaxpr), sorted(positions))
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
      hoisted = fission.Hoisted(*walked, carry, from_zero)
      leaves_loop = _only_adds(body, hoisted, varying)
    else:
      walked = cut.follow_back(body, output, varying, space)
      hoisted = fission.Hoisted(*walked, None, False)
      leaves_loop = varying.intersection(hoisted.leaves)
    makes = any(cut.is_contraction(body, e) for e in hoisted.equations)
    if leaves_loop and makes:
      found[i] = hoisted
  return fission.Loop(equation, body, consts, carries, varying, found)


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
