"""Where a parameter's gradient is cut off the program of one sample.

A gradient is made by contractions, of a layer's input with its output
cotangent, and then only moved around and added up. These last equations are
its tail. Left out of the batched pass they leave the factors, from which every
reduction over samples can be contracted without a gradient per sample.
"""

from typing import Any, NamedTuple

from jax.extend import core

from adaopt.per_example import program

# What moves the elements of a gradient, or changes their type.
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
# A gradient is followed back through values of at least this part of its size.
LEAST_PART = 1 / 8


class Tail(NamedTuple):
  """The last equations of one gradient. With none, it is its own factor."""

  equations: tuple[program.Equation, ...]  # in order
  factors: tuple[int, ...]  # with a value for every sample
  shared: tuple[int, ...]  # with one value for all samples
  output: int
  unknown: str | None  # a primitive that no rule knows
  avals: list[Any]  # shape and dtype of every value of the program

  @property
  def contractions(self) -> list[program.Equation]:
    return [e for e in self.equations if e.name in CONTRACTIONS]

  def shape(self, value: int) -> tuple[int, ...]:
    """The shape of a value, for one sample."""
    return self.avals[value].shape


def is_contraction(flat: program.Program, equation: program.Equation) -> bool:
  """Whether an equation is linear in each of its factors."""
  if equation.name != 'scatter-add':
    return equation.name in CONTRACTIONS
  return is_zero(flat, equation.inputs[0])


def is_zero(flat: program.Program, value: program.Value) -> bool:
  """Whether a value is an array of zeros, as sums start from."""
  equation = flat.producers.get(value)
  if equation is None or equation.name != 'broadcast_in_dim':
    return False
  fill = equation.inputs[0]
  return isinstance(fill, core.Literal) and fill.val == 0


def linear(
  flat: program.Program, output: int
) -> tuple[list[program.Equation], list[int]]:
  """Follows a gradient back through moves and sums to contractions.

  Args:
    flat: A program.
    output: The gradient.

  Returns:
    The equations on the way, and the values that they start from.
  """
  found, leaves, pending = [], [], [output]
  while pending:
    value = pending.pop()
    equation = flat.producers.get(value)
    if equation and is_contraction(flat, equation):
      found.append(equation)
      leaves.extend(program.numbers(equation.inputs))
    elif equation and equation.name in MOVES | SUMS:
      found.append(equation)
      pending.extend(program.numbers(equation.inputs))
    else:
      leaves.append(value)
  return in_order(found), list(dict.fromkeys(leaves))


def in_order(found: list[program.Equation]) -> list[program.Equation]:
  """Equations as the program has them, each once."""
  # Values are numbered in the order in which equations make them.
  return [e for _, e in sorted({e.outputs: e for e in found}.items())]


def _general(flat, output, per_sample):
  """Follows a gradient back through everything of about its size.

  Beyond `linear` that is what is done to a gradient alone: a mask, a
  normalisation of the weights, a loop over blocks of them.
  """
  found, leaves, pending = [], [], [output]
  size = flat.size(output)

  def made_of_less(value):
    """Whether a factor is itself a gradient, better made from its factors."""
    equations, sources = linear(flat, value)
    if not any(is_contraction(flat, e) for e in equations):
      return False
    sizes = [flat.size(v) for v in sources if v in per_sample]
    return len(sizes) > 1 and sum(sizes) < flat.size(value)

  def of_its_size(equation, value):
    inputs = per_sample.intersection(program.numbers(equation.inputs))
    return (
      sum(flat.uses[v] for v in equation.outputs) == 1
      and flat.size(value) >= LEAST_PART * size
      and all(flat.size(v) <= size for v in inputs)
    )

  while pending:
    value = pending.pop()
    equation = flat.producers.get(value)
    if equation is None or value not in per_sample:
      leaves.append(value)
    elif is_contraction(flat, equation):
      found.append(equation)
      for v in program.numbers(equation.inputs):
        (pending if made_of_less(v) else leaves).append(v)
    elif equation.name in MOVES | SUMS or of_its_size(equation, value):
      found.append(equation)
      pending.extend(program.numbers(equation.inputs))
    else:
      leaves.append(value)
  return in_order(found), list(dict.fromkeys(leaves))


def _made_from_nothing_as_large(flat, output, per_sample):
  """The name of what makes a gradient that is larger than all it is made of."""
  equation = flat.producers.get(output)
  if equation is None:
    return None
  inputs = per_sample.intersection(program.numbers(equation.inputs))
  if any(flat.size(v) >= flat.size(output) for v in inputs):
    return None
  return equation.name


def find_tail(
  flat: program.Program, output: program.Value, per_sample: set[int]
) -> Tail | None:
  """Follows a gradient back to its factors.

  Args:
    flat: The program of one sample.
    output: The gradient.
    per_sample: The values that depend on the sample.

  Returns:
    Its tail; None if it depends on no sample, which makes it zero.
  """
  if not isinstance(output, int) or output not in per_sample:
    return None
  equations, leaves = _general(flat, output, per_sample)
  known = lambda e: e.name in MOVES | SUMS or is_contraction(flat, e)
  strange = [e.name for e in equations if not known(e)]
  unknown = strange[-1] if strange else None
  if strange:
    sizes = [flat.size(v) for v in leaves if v in per_sample]
    worthwhile = sum(sizes) < max(
      flat.size(v) for e in equations for v in e.outputs
    )
  else:
    worthwhile = any(is_contraction(flat, e) for e in equations)
  if not worthwhile:
    equations, leaves = [], [output]
    unknown = _made_from_nothing_as_large(flat, output, per_sample)
  return Tail(
    equations=tuple(equations),
    factors=tuple(v for v in leaves if v in per_sample),
    shared=tuple(v for v in leaves if v not in per_sample),
    output=output,
    unknown=unknown,
    avals=flat.avals,
  )
