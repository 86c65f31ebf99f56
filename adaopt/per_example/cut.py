"""Where a parameter's gradient is cut off the program of one sample.

A gradient is made by contractions, of a layer's input with its output
cotangent, and then only moved around and added up. These last equations are
its tail. Left out of the batched pass they leave the factors, from which every
reduction over samples can be contracted without a gradient per sample.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend import core

from adaopt.per_example import program

# What moves the elements of a gradient, or changes their width.
MOVES = frozenset(
  {
    'convert_element_type',
    'copy',
    'expand_dims',
    'reshape',
    'squeeze',
    'transpose',
  }
)
SUMS = frozenset({'add', 'add_any'})
CONTRACTIONS = frozenset({'conv_general_dilated', 'dot_general', 'scatter-add'})


class Tail(NamedTuple):
  """The last equations of one gradient. With none, it is its own factor."""

  equations: tuple[program.Equation, ...]  # in order
  contractions: tuple[program.Equation, ...]  # those of them that are
  factors: tuple[int, ...]  # with a value for every sample
  shared: tuple[int, ...]  # with one value for all samples
  output: int
  unknown: str | None  # a primitive that no rule knows
  avals: list[Any]  # shape and dtype of every value of the program

  def shape(self, value: int) -> tuple[int, ...]:
    """The shape of a value, for one sample."""
    return self.avals[value].shape


def is_move(avals: list[Any], equation: program.Equation) -> bool:
  """Whether an equation moves elements, or widens or narrows them."""
  if equation.name != 'convert_element_type':
    return equation.name in MOVES
  values = (*program.numbers(equation.inputs), *equation.outputs)
  every = lambda kind: all(jnp.issubdtype(avals[v].dtype, kind) for v in values)
  return every(jnp.floating) or every(jnp.complexfloating)


def moves_or_adds(avals: list[Any], equation: program.Equation) -> bool:
  """Whether an equation only moves elements or adds them up."""
  return equation.name in SUMS or is_move(avals, equation)


def is_contraction(flat: program.Program, equation: program.Equation) -> bool:
  """Whether an equation is linear in each of its factors."""
  if equation.name != 'scatter-add':
    return equation.name in CONTRACTIONS
  return is_zero(flat, equation.inputs[0])


def is_zero(flat: program.Program, value: program.Value) -> bool:
  """Whether a value is an array of zeros, as sums start from."""
  if isinstance(value, core.Literal):
    return value.val == 0
  equation = flat.producers.get(value)
  if equation is None or equation.name != 'broadcast_in_dim':
    return False
  return is_zero(flat, equation.inputs[0])


def weight_space(
  flat: program.Program, results: list[program.Value], per_sample: set[int]
) -> set[int]:
  """The values that are as large as weights, for the sake of gradients alone.

  They start where an equation makes more than it is given, such as an outer
  product, go on through what is done to that, such as a mask or a
  normalisation of the weights, and have no other use than gradients.

  Args:
    flat: The program of one sample.
    results: Its outputs that are not gradients.
    per_sample: The values that depend on the sample.

  Returns:
    Those values.
  """
  equations = program.needed(flat.equations, flat.outputs)
  largest = lambda equation: max(map(flat.size, equation.outputs))
  grown, starts = set(), set()
  for equation in equations:
    inputs = per_sample.intersection(program.numbers(equation.inputs))
    product = len(inputs) > 1 and is_contraction(flat, equation)
    if equation.effects:
      continue
    if inputs & grown and not product:
      grown.update(equation.outputs)
    elif inputs and sum(map(flat.size, inputs)) < largest(equation):
      grown.update(equation.outputs)
      starts.update(equation.outputs)
  blocked = set(program.numbers(results))
  for equation in reversed(equations):
    outputs = set(equation.outputs)
    if outputs & blocked or not outputs <= grown:
      blocked.update(outputs, program.numbers(equation.inputs))
    elif outputs & starts:
      blocked.update(program.numbers(equation.inputs))
  return grown - blocked


def find_tail(
  flat: program.Program,
  output: program.Value,
  per_sample: set[int],
  space: set[int],
) -> Tail | None:
  """Follows a gradient back to its factors.

  Args:
    flat: The program of one sample.
    output: The gradient.
    per_sample: The values that depend on the sample.
    space: The values in weight space.

  Returns:
    Its tail; None if it is the same for every sample.
  """
  if not isinstance(output, int) or output not in per_sample:
    return None
  equations, leaves = follow_back(flat, output, per_sample, space)
  contractions = [e for e in equations if is_contraction(flat, e)]
  strange = [
    e.name
    for e in equations
    if not is_contraction(flat, e) and not moves_or_adds(flat.avals, e)
  ]
  tail = Tail(
    equations=tuple(equations),
    contractions=tuple(contractions),
    factors=tuple(v for v in leaves if v in per_sample),
    shared=tuple(v for v in leaves if v not in per_sample),
    output=output,
    unknown=strange[-1] if strange else None,
    avals=flat.avals,
  )
  if _is_worth_it(flat, tail, per_sample):
    return tail
  unknown = _unknown_maker(flat, output, per_sample)
  return Tail((), (), (output,), (), output, unknown, flat.avals)


def _is_worth_it(flat, tail, per_sample):
  """Whether to keep the factors instead of the gradient."""
  if not all(map(flat.size, [tail.output, *tail.factors])):
    return False
  multiplied = set()
  for equation in tail.contractions:
    inputs = [v for v in program.numbers(equation.inputs) if v in per_sample]
    if len(inputs) > 1:
      multiplied.update(inputs)
  # Products of two factors are worth it whatever their sizes.
  if tail.unknown is None and multiplied.issuperset(tail.factors):
    return True
  made = [flat.size(v) for e in tail.equations for v in e.outputs]
  return sum(map(flat.size, tail.factors)) < max(made, default=0)


def follow_back(
  flat: program.Program, output: int, varying: set[int], space: set[int]
) -> tuple[list[program.Equation], list[int]]:
  """Follows a gradient back through moves, sums and weight space.

  Args:
    flat: A program.
    output: The gradient.
    varying: The values to follow; at every other the way ends.
    space: The values in weight space.

  Returns:
    The equations on the way, in order, and the values that they start from.
  """
  found, leaves, pending, seen = {}, {}, [output], set()
  while pending:
    value = pending.pop()
    if value in seen:
      continue
    seen.add(value)
    equation = flat.producers.get(value) if value in varying else None
    inputs = program.numbers(equation.inputs) if equation else []
    if equation and moves_or_adds(flat.avals, equation):
      onward = inputs
    elif equation and (value in space or is_contraction(flat, equation)):
      onward = [v for v in inputs if v in space]
    else:
      leaves[value] = None
      continue
    found[equation.outputs] = equation
    pending.extend(onward)
    leaves |= dict.fromkeys(v for v in inputs if v not in onward)
  # Values are numbered in the order in which equations make them.
  return [found[outputs] for outputs in sorted(found)], list(leaves)


def _unknown_maker(flat, output, per_sample):
  """The name of what makes a tensor that may be larger than what it is of."""
  equation = flat.producers.get(output)
  if equation is None or len(flat.avals[output].shape) < 2:
    return None
  inputs = per_sample.intersection(program.numbers(equation.inputs))
  larger = all(flat.size(v) < flat.size(output) for v in inputs)
  return equation.name if larger or program.holds_jaxprs(equation) else None
