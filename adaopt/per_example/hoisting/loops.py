"""Hoists the contractions of gradients out of the loops of a program.

A scan over time adds one term of a recurrent cell's gradient in every step. The
scan can emit factors instead, and the contraction runs after it, where a rule
sees it: Σ_t x_t δ_tᵀ is that of a dense layer on a sequence. A scan over layers
emits one slice of the stacked gradient in every step. Where that slice is a
gradient of its own it stays (`stacks` reduces it there); where more follows it
is hoisted, too.
"""

import collections
import functools
from collections.abc import Sequence

import jax

from adaopt.per_example import cut
from adaopt.per_example.hoisting import scan, slicing, steps
from adaopt.per_example.program import inlining, ir, scans


def hoist(
  flat: ir.Program, indices: Sequence[int], emitted: Sequence[int] = ()
) -> ir.Program:
  """Hoists the contractions of gradients, at any depth of loops.

  It also turns slices of a matrix product into products of slices.

  Args:
    flat: A program.
    indices: Which of its outputs are gradients.
    emitted: Which of these a scan may go on emitting, see `cut.find_stacked`.

  Returns:
    An equal program.
  """
  stacks = [cut.find_stacked(flat, flat.outputs[i]) for i in emitted]
  stay = {stacked.source for stacked in stacks if stacked}
  changes = _changes(flat, [flat.outputs[i] for i in indices], stay)
  if not changes:
    return flat

  def run(*inputs):
    known = flat.constants | dict(zip(flat.inputs, inputs, strict=True))
    equations = ir.needed(flat.equations, flat.outputs, effects=True)
    return ir.evaluate(equations, known, flat.outputs, changes)

  closed = jax.make_jaxpr(run)(*(flat.avals[v] for v in flat.inputs))
  return hoist(inlining.flatten(closed), indices, emitted)


def _changes(flat, gradients, stay):
  """Other ways to compute equations, by the outputs of the equation."""
  changes, reached = {}, collections.defaultdict(set)
  pending = ir.numbers(gradients)
  while pending:
    equation = flat.producers.get(value := pending.pop())
    if equation is None or equation.outputs in changes or value in stay:
      continue
    if cut.moves_or_adds(flat.avals, equation):
      pending.extend(ir.numbers(equation.inputs))
    elif equation.name in slicing.SELECTIONS:
      if slicing.is_of_product(flat, equation):
        changes[equation.outputs] = slicing.of_factors(flat, equation)
    elif equation.name == 'scan':
      reached[equation.outputs].add(equation.outputs.index(value))
  for outputs, indices in reached.items():
    loop = _loop(flat, flat.producers[outputs[0]], indices)
    if loop.hoisted:
      changes[outputs] = functools.partial(scan.run, loop)
  return changes


def _loop(
  flat: ir.Program, equation: ir.Equation, indices: set[int]
) -> scan.Loop:
  """Finds which outputs of a scan to hoist."""
  jaxpr, consts, carries = scans.parts(flat, equation)
  body = hoist(inlining.flatten(jaxpr), sorted(indices))
  varying = ir.dependents(body.equations, body.inputs[consts:])
  others = [v for i, v in enumerate(body.outputs) if i not in indices]
  space = cut.weight_space(body, others, varying)
  found = {}
  for i in sorted(indices):
    output = body.outputs[i]
    if output not in body.producers or not equation.params['length']:
      continue
    if i < carries:
      carry = body.inputs[consts + i]
      from_zero = cut.is_zero(flat, equation.inputs[consts + i])
      walked = cut.follow_back(body, output, varying, set())
      hoisted = scan.Hoisted(*walked, carry, from_zero)
      allowed = _only_adds(body, hoisted, varying)
    else:
      walked = cut.follow_back(body, output, varying, space)
      hoisted = scan.Hoisted(*walked, None, False)
      allowed = varying.intersection(hoisted.sources)
    contracts = any(cut.is_contraction(body, e) for e in hoisted.equations)
    if allowed and contracts:
      found[i] = hoisted
  return scan.Loop(equation, body, consts, carries, varying, found)


def _only_adds(body, hoisted, varying):
  """Whether a carry only adds up contractions that vary with the step."""
  equations, sources, carry, _ = hoisted
  after_carry = ir.dependents(equations, [carry])

  def adds_up(equation):
    if equation.name in cut.SUMS:
      inputs = ir.numbers(equation.inputs)
      return len(inputs) == 2 and varying.issuperset(inputs)
    if after_carry.intersection(equation.outputs):
      return False
    moves = cut.is_move(body.avals, equation)
    return moves or steps.is_summable(body, equation)

  return (
    carry in sources
    and all(body.uses[v] == 1 for v in after_carry)
    and all(map(adds_up, equations))
  )
