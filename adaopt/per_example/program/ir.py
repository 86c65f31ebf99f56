"""Flat programs: equations between numbered values.

Every value has one producer. Any part of a program can be evaluated on its own,
under any transformation.
"""

import collections
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
from jax.extend import core

Value = int | core.Literal
"""The number of a value, or a constant."""


class Equation(NamedTuple):
  """outputs = primitive(*inputs, **params)."""

  primitive: Any
  params: dict[str, Any]
  inputs: tuple[Value, ...]
  outputs: tuple[int, ...]
  effects: frozenset[Any] = frozenset()

  @property
  def name(self) -> str:
    return self.primitive.name


class Program(NamedTuple):
  """Equations in order, and the facts about their values."""

  inputs: tuple[int, ...]
  outputs: tuple[Value, ...]
  equations: tuple[Equation, ...]
  constants: dict[int, Any]
  avals: list[Any]  # shape and dtype of every value
  producers: dict[int, Equation]  # by output
  uses: collections.Counter  # how often needed equations read each value

  def size(self, value: int) -> int:
    """The number of elements of a value."""
    return math.prod(self.avals[value].shape)


def numbers(values: Iterable[Value]) -> list[int]:
  """The values that are not constants."""
  return [value for value in values if isinstance(value, int)]


def jaxprs_in(params: dict[str, Any]) -> list[core.Jaxpr]:
  """The jaxprs that an equation's parameters hold."""
  leaves = jax.tree.leaves(list(params.values()))
  opened = [x.jaxpr if isinstance(x, core.ClosedJaxpr) else x for x in leaves]
  return [x for x in opened if isinstance(x, core.Jaxpr)]


def holds_jaxprs(equation: Equation) -> bool:
  """Whether an equation is a loop, a branch or another call."""
  return bool(jaxprs_in(equation.params))


def equations_in(jaxprs: Iterable[core.Jaxpr]) -> Iterator[core.JaxprEqn]:
  """The equations of jaxprs, at any depth."""
  pending = list(jaxprs)
  while pending:
    for equation in pending.pop().eqns:
      yield equation
      pending.extend(jaxprs_in(equation.params))


def names(closed: core.ClosedJaxpr) -> set[str]:
  """The primitives of a jaxpr, at any depth."""
  return {equation.primitive.name for equation in equations_in([closed.jaxpr])}


def names_in(equation: Equation) -> set[str]:
  """The primitives of an equation: its own, and what it calls, at any depth."""
  inner = equations_in(jaxprs_in(equation.params))
  return {equation.name, *(e.primitive.name for e in inner)}


def dtypes(closed: core.ClosedJaxpr) -> set[Any]:
  """The dtypes of what a jaxpr computes at any depth, and of its outputs."""
  computed = (v.aval for e in equations_in([closed.jaxpr]) for v in e.outvars)
  avals = itertools.chain(computed, closed.out_avals)
  return {aval.dtype for aval in avals if hasattr(aval, 'dtype')}


def needed(
  equations: Iterable[Equation],
  values: Iterable[Value],
  *,
  effects: bool = False,
) -> tuple[Equation, ...]:
  """The equations that values depend on, in order.

  Args:
    equations: The equations.
    values: The values.
    effects: Whether to keep all equations with effects, too.

  Returns:
    The needed equations.
  """
  wanted, kept = set(numbers(values)), []
  for equation in reversed(tuple(equations)):
    has_effects = effects and equation.effects
    if has_effects or wanted.intersection(equation.outputs):
      kept.append(equation)
      wanted.update(numbers(equation.inputs))
  return tuple(reversed(kept))


def dependents(
  equations: Iterable[Equation], values: Iterable[int]
) -> set[int]:
  """The values that depend on one of these, and these themselves."""
  reached = set(values)
  for equation in equations:
    if reached.intersection(numbers(equation.inputs)):
      reached.update(equation.outputs)
  return reached


def bind(equation: Equation, *operands: Any) -> list[Any]:
  """Applies an equation's primitive to operands."""
  params = equation.primitive.get_bind_params(equation.params)
  results = equation.primitive.bind(*operands, **params)
  return results if equation.primitive.multiple_results else [results]


Read = Callable[[Value], Any]


def evaluate(
  equations: Iterable[Equation],
  known: Mapping[int, Any],
  values: Iterable[Value],
  instead: Mapping[tuple[int, ...], Callable[[Read], Iterable[Any]]] = {},
) -> list[Any]:
  """Evaluates equations in order.

  Args:
    equations: The equations.
    known: The values that the equations start from.
    values: The values to return.
    instead: Functions that compute the outputs of some equations in another
      way. Each takes a function that reads values.

  Returns:
    The values.
  """
  env = dict(known)
  read = lambda v: v.val if isinstance(v, core.Literal) else env[v]
  for equation in equations:
    if equation.outputs in instead:
      results = instead[equation.outputs](read)
    else:
      results = bind(equation, *map(read, equation.inputs))
    env.update(zip(equation.outputs, results, strict=True))
  return [read(value) for value in values]
