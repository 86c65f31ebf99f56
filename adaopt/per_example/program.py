"""A jaxpr as a flat program: calls inlined, values numbered.

Jaxprs nest, and two calls of one function share its variables. Numbered, every
value has one producer, and any part of the program can be evaluated on its
own, under whatever transformation.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from jax.extend import core

Value = int | core.Literal
"""A number, or a constant in its place."""


class Equation(NamedTuple):
  """outputs = primitive(*inputs, **params), values by number."""

  primitive: Any
  params: dict[str, Any]
  inputs: tuple[Value, ...]
  outputs: tuple[int, ...]


class Program(NamedTuple):
  """Equations in order, and what is known of their values."""

  inputs: tuple[int, ...]
  outputs: tuple[Value, ...]
  equations: tuple[Equation, ...]
  producers: dict[int, Equation]  # of every value that an equation makes
  constants: dict[int, Any]
  avals: list[Any]  # shape and dtype of every value


# Calls that are replaced by what they call, and where they keep it.
CALLS = {
  'jit': 'jaxpr',
  'pjit': 'jaxpr',
  'closed_call': 'call_jaxpr',
  'core_call': 'call_jaxpr',
  'custom_jvp_call': 'call_jaxpr',
  'custom_vjp_call': 'call_jaxpr',
  'checkpoint': 'jaxpr',
  'remat2': 'jaxpr',
}


def numbers(values: Iterable[Value]) -> list[int]:
  """The values that are not constants."""
  return [value for value in values if isinstance(value, int)]


def flatten(closed: core.ClosedJaxpr) -> Program:
  """Numbers the values of a jaxpr and inlines its calls.

  Args:
    closed: The jaxpr.

  Returns:
    The program. What `jax.checkpoint` would compute again is computed once.
  """
  equations, constants, avals = [], {}, []

  def number(aval):
    avals.append(aval)
    return len(avals) - 1

  def inline(jaxpr, consts, arguments):
    names = dict(zip(jaxpr.invars, arguments, strict=True))
    for var, value in zip(jaxpr.constvars, consts, strict=True):
      names[var] = number(var.aval)
      constants[names[var]] = value
    read = lambda v: v if isinstance(v, core.Literal) else names[v]
    for equation in jaxpr.eqns:
      inputs = tuple(map(read, equation.invars))
      inner = equation.params.get(CALLS.get(equation.primitive.name))
      if inner is None:
        outputs = tuple(number(var.aval) for var in equation.outvars)
        equations.append(
          Equation(equation.primitive, equation.params, inputs, outputs)
        )
      else:
        closed = isinstance(inner, core.ClosedJaxpr)
        outputs = inline(
          inner.jaxpr if closed else inner,
          inner.consts if closed else (),
          inputs,
        )
      names.update(zip(equation.outvars, outputs, strict=True))
    return tuple(map(read, jaxpr.outvars))

  inputs = tuple(number(var.aval) for var in closed.jaxpr.invars)
  outputs = inline(closed.jaxpr, closed.consts, inputs)
  producers = {value: e for e in equations for value in e.outputs}
  return Program(inputs, outputs, tuple(equations), producers, constants, avals)


def needed(
  equations: Iterable[Equation], values: Iterable[Value]
) -> tuple[Equation, ...]:
  """The equations that these values depend on, in order."""
  wanted, kept = set(numbers(values)), []
  for equation in reversed(tuple(equations)):
    if wanted.intersection(equation.outputs):
      kept.append(equation)
      wanted.update(numbers(equation.inputs))
  return tuple(reversed(kept))


def dependents(
  equations: Iterable[Equation], values: Iterable[int]
) -> set[int]:
  """All values that depend on one of these, themselves included."""
  reached = set(values)
  for equation in equations:
    if reached.intersection(numbers(equation.inputs)):
      reached.update(equation.outputs)
  return reached


def evaluate(
  equations: Iterable[Equation],
  known: Mapping[int, Any],
  values: Iterable[Value],
) -> list[Any]:
  """Evaluates equations in order, from known values, and reads values."""
  env = dict(known)
  read = lambda v: v.val if isinstance(v, core.Literal) else env[v]
  for equation in equations:
    primitive = equation.primitive
    params = primitive.get_bind_params(equation.params)
    results = primitive.bind(*map(read, equation.inputs), **params)
    results = results if primitive.multiple_results else [results]
    env.update(zip(equation.outputs, results, strict=True))
  return [read(value) for value in values]
