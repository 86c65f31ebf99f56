"""Cuts the tail of a parameter's gradient off the program of one sample.

The tail holds the last equations of a gradient: contractions, of a layer's
input with its output cotangent, and the moves and sums of their results. It
starts from the factors. Reductions over samples are computed from the factors,
without a gradient for every sample.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend import core

from adaopt.per_example.program import ir, scans

# Equations that move elements, between devices too, or change their width.
MOVES = frozenset(
  {
    'convert_element_type',
    'copy',
    'expand_dims',
    'reshape',
    'sample_sharding_constraint',
    'squeeze',
    'transpose',
  }
)
SUMS = frozenset({'add', 'add_any'})
CONTRACTIONS = frozenset({'conv_general_dilated', 'dot_general', 'scatter-add'})


class Tail(NamedTuple):
  """The last equations of one gradient. Without any, it is its own factor."""

  equations: tuple[ir.Equation, ...]  # in order
  contractions: tuple[ir.Equation, ...]  # the contractions among them
  factors: tuple[int, ...]  # the sources with a value for every sample
  shared: tuple[int, ...]  # the sources with one value for all samples
  output: int  # the gradient
  unknown: str | None  # the name of a primitive that no rule knows
  avals: list[Any]  # shape and dtype of every value of the program
  axes: tuple[str, ...] = ()  # mesh axes that shard the samples; (): not known

  def shape(self, value: int) -> tuple[int, ...]:
    """The shape of a value, for one sample."""
    return self.avals[value].shape


class Stacked(NamedTuple):
  """In place of a tail: a gradient that a scan emits, a slice in every step."""

  source: int  # the emitted stack
  moves: tuple[ir.Equation, ...]  # from the stack to the gradient, in order
  output: int  # the gradient
  avals: list[Any]  # shape and dtype of every value of the program


def is_move(avals: list[Any], equation: ir.Equation) -> bool:
  """Whether an equation moves elements, or changes their width."""
  if equation.name != 'convert_element_type':
    return equation.name in MOVES
  values = (*ir.numbers(equation.inputs), *equation.outputs)
  every = lambda kind: all(jnp.issubdtype(avals[v].dtype, kind) for v in values)
  return every(jnp.floating) or every(jnp.complexfloating)


def moves_or_adds(avals: list[Any], equation: ir.Equation) -> bool:
  """Whether an equation is a move or a sum."""
  return equation.name in SUMS or is_move(avals, equation)


def is_contraction(flat: ir.Program, equation: ir.Equation) -> bool:
  """Whether an equation is linear in each of its inputs."""
  if equation.name != 'scatter-add':
    return equation.name in CONTRACTIONS
  return is_zero(flat, equation.inputs[0])


def is_zero(flat: ir.Program, value: ir.Value) -> bool:
  """Whether a value is an array of zeros."""
  if isinstance(value, core.Literal):
    return value.val == 0
  equation = flat.producers.get(value)
  if equation is None or equation.name != 'broadcast_in_dim':
    return False
  return is_zero(flat, equation.inputs[0])


def weight_space(
  flat: ir.Program, results: list[ir.Value], per_sample: set[int]
) -> set[int]:
  """Finds the values that are as large as a parameter and only make gradients.

  A loss may mask or normalise a parameter W before it multiplies with it. The
  gradient is then the mask times an outer product of the factors, and a tail
  that ends at the mask would keep that product, [J, ...] times the size of W.
  Weight space is what such a tail may go through. It starts where an equation
  has an output larger than its inputs, such as an outer product. It includes
  what depends on that, such as the masked product. It excludes what is used for
  more than gradients.

  Args:
    flat: The program of one sample.
    results: Its outputs that are not gradients.
    per_sample: The values that depend on the sample.

  Returns:
    The values in weight space.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from adaopt.per_example.program import inlining, printing
    >>> mask = jnp.tri(4, 3)
    >>> loss = lambda w, x: jnp.sum(x @ (w * mask))
    >>> args = jnp.ones([4, 3]), jnp.ones(4)
    >>> flat = inlining.flatten(jax.make_jaxpr(jax.grad(loss))(*args))
    >>> print(printing.text(flat, ir.needed(flat.equations, flat.outputs)))
    d [3] = broadcast_in_dim 1
    e [3, 4] = dot_general d b
    f [4, 3] = transpose e
    g [4, 3] = mul f c
    >>> per_sample = ir.dependents(flat.equations, flat.inputs[1:])
    >>> space = weight_space(flat, [], per_sample)
    >>> print(*printing.names(flat, sorted(space)))
    e f g

    With weight space the gradient g has the factor b [4] for every sample.
    Without it, the gradient [4, 3] would be its own factor.

    >>> for values in (space, set()):
    ...   tail = find_tail(flat, flat.outputs[0], per_sample, values)
    ...   print(*printing.names(flat, tail.factors))
    b
    g
  """
  equations = ir.needed(flat.equations, flat.outputs)
  largest = lambda equation: max(map(flat.size, equation.outputs))
  reached, starts = set(), set()
  for equation in equations:
    inputs = per_sample.intersection(ir.numbers(equation.inputs))
    contracts = len(inputs) > 1 and is_contraction(flat, equation)
    if equation.effects:
      continue
    if inputs & reached and not contracts:
      reached.update(equation.outputs)
    elif inputs and sum(map(flat.size, inputs)) < largest(equation):
      reached.update(equation.outputs)
      starts.update(equation.outputs)
  blocked = set(ir.numbers(results))
  for equation in reversed(equations):
    outputs = set(equation.outputs)
    if outputs & blocked or not outputs <= reached:
      blocked.update(outputs, ir.numbers(equation.inputs))
    elif outputs & starts:
      blocked.update(ir.numbers(equation.inputs))
  return reached - blocked


def find_tail(
  flat: ir.Program,
  output: ir.Value,
  per_sample: set[int],
  space: set[int],
) -> Tail | None:
  """Finds the tail of a gradient.

  Args:
    flat: The program of one sample.
    output: The gradient.
    per_sample: The values that depend on the sample.
    space: The values in weight space.

  Returns:
    Its tail; None if the gradient is shared.
  """
  if not isinstance(output, int) or output not in per_sample:
    return None
  equations, sources = follow_back(flat, output, per_sample, space)
  contractions = [e for e in equations if is_contraction(flat, e)]
  unknown = [
    e.name
    for e in equations
    if not is_contraction(flat, e) and not moves_or_adds(flat.avals, e)
  ]
  tail = Tail(
    equations=tuple(equations),
    contractions=tuple(contractions),
    factors=tuple(v for v in sources if v in per_sample),
    shared=tuple(v for v in sources if v not in per_sample),
    output=output,
    unknown=unknown[-1] if unknown else None,
    avals=flat.avals,
  )
  if _is_cheaper(flat, tail, per_sample):
    return tail
  maker = _unknown_maker(flat, output, per_sample)
  return Tail((), (), (output,), (), output, maker, flat.avals)


def _is_cheaper(flat, tail, per_sample):
  """Whether the factors cost less than the gradient."""
  if not all(map(flat.size, [tail.output, *tail.factors])):
    return False
  contracted = set()
  for equation in tail.contractions:
    inputs = [v for v in ir.numbers(equation.inputs) if v in per_sample]
    if len(inputs) > 1:
      contracted.update(inputs)
  # A known contraction of two factors is cheaper, whatever their sizes.
  if tail.unknown is None and contracted.issuperset(tail.factors):
    return True
  made = [flat.size(v) for e in tail.equations for v in e.outputs]
  return sum(map(flat.size, tail.factors)) < max(made, default=0)


def find_stacked(flat: ir.Program, output: ir.Value) -> Stacked | None:
  """Finds the stack that a gradient is moved from.

  Args:
    flat: A program.
    output: The gradient.

  Returns:
    The stack; None unless a scan emits it and it is read for nothing else.
  """
  moves, value = [], output
  while isinstance(value, int) and flat.uses[value] == 1:
    equation = flat.producers.get(value)
    if equation is None:
      return None
    if equation.name == 'scan' and equation.params['length']:
      carries = scans.parts(flat, equation).carries
      emits = equation.outputs.index(value) >= carries
      found = Stacked(value, tuple(reversed(moves)), output, flat.avals)
      return found if emits else None
    if not is_move(flat.avals, equation):
      return None
    moves.append(equation)
    (value,) = equation.inputs
  return None


def follow_back(
  flat: ir.Program, output: int, varying: set[int], space: set[int]
) -> tuple[list[ir.Equation], list[int]]:
  """Follows a gradient back through moves, sums and weight space.

  Args:
    flat: A program.
    output: The gradient.
    varying: The values to follow; all others are sources.
    space: The values in weight space.

  Returns:
    The equations on the way, in order, and their sources.
  """
  found, sources, pending, seen = {}, {}, [output], set()
  while pending:
    value = pending.pop()
    if value in seen:
      continue
    seen.add(value)
    equation = flat.producers.get(value) if value in varying else None
    inputs = ir.numbers(equation.inputs) if equation else []
    if equation and moves_or_adds(flat.avals, equation):
      onward = inputs
    elif equation and (value in space or is_contraction(flat, equation)):
      onward = [v for v in inputs if v in space]
    else:
      sources[value] = None
      continue
    found[equation.outputs] = equation
    pending.extend(onward)
    sources |= dict.fromkeys(v for v in inputs if v not in onward)
  # Values are numbered in the order in which equations make them.
  return [found[outputs] for outputs in sorted(found)], list(sources)


def _unknown_maker(flat, output, per_sample):
  """The primitive of a gradient that may be larger than its inputs."""
  equation = flat.producers.get(output)
  if equation is None or len(flat.avals[output].shape) < 2:
    return None
  inputs = per_sample.intersection(ir.numbers(equation.inputs))
  larger = all(flat.size(v) < flat.size(output) for v in inputs)
  return equation.name if larger or ir.holds_jaxprs(equation) else None
