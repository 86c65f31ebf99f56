"""Where a parameter's gradient is cut off the program of one sample.

A gradient is made by contractions, of a layer's input with its output
cotangent, and then only moved around and added up. These last equations are
its tail. Left out of the batched pass they leave the factors, from which every
reduction over samples can be contracted without a gradient per sample.
"""

from typing import Any, NamedTuple

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


class Tail(NamedTuple):
  """The last equations of one gradient. With none, it is its own factor."""

  contractions: tuple[program.Equation, ...]
  rest: tuple[program.Equation, ...]  # moves and sums, in order
  factors: tuple[int, ...]  # with a value for every sample
  shared: tuple[int, ...]  # with one value for all samples
  output: int
  avals: list[Any]  # shape and dtype of every value of the program

  def shape(self, value: int) -> tuple[int, ...]:
    """The shape of a value, for one sample."""
    return self.avals[value].shape


def find_tail(
  flat: program.Program, output: program.Value, per_sample: set[int]
) -> Tail | None:
  """Follows a gradient back to the factors of its contractions.

  Args:
    flat: The program of one sample.
    output: The gradient.
    per_sample: The values that depend on the sample.

  Returns:
    Its tail; None if it depends on no sample, which makes it zero.
  """
  if not isinstance(output, int) or output not in per_sample:
    return None
  contractions, rest, factors, pending = [], [], [], [output]
  while pending:
    value = pending.pop()
    equation = flat.producers.get(value)
    name = equation.primitive.name if equation else None
    if name in MOVES or name in SUMS:
      rest.append(equation)
      pending.extend(program.numbers(equation.inputs))
    elif name in CONTRACTIONS:
      contractions.append(equation)
      factors.extend(program.numbers(equation.inputs))
    else:
      factors.append(value)
  if not contractions:
    rest, factors = [], [output]
  # Values are numbered in the order in which equations make them.
  in_order = lambda found: tuple(
    e for _, e in sorted({e.outputs: e for e in found}.items())
  )
  return Tail(
    contractions=in_order(contractions),
    rest=in_order(rest),
    factors=tuple(v for v in dict.fromkeys(factors) if v in per_sample),
    shared=tuple(v for v in dict.fromkeys(factors) if v not in per_sample),
    output=output,
    avals=flat.avals,
  )
