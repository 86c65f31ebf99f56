"""Turns a jaxpr into a flat program: inlines calls, removes repetitions.

Jaxprs nest, and two calls of one function share its variables. In a flat
program every call has values of its own.
"""

import collections
import functools
from typing import Any

import jax
from jax.extend import core

from adaopt.per_example.program import ir

# The calls to inline, and the parameter that holds what they call.
CALLS = {
  'jit': 'jaxpr',
  'closed_call': 'call_jaxpr',
  'custom_jvp_call': 'call_jaxpr',
  'custom_vjp_call': 'call_jaxpr',
  'remat2': 'jaxpr',
}

PLAIN_CALLS = {name: CALLS[name] for name in ('jit', 'closed_call')}
"""Those without a derivative of their own, and without recomputation."""


@functools.cache
def _barrier() -> Any:
  """The primitive of `jax.lax.optimization_barrier`."""
  (equation,) = jax.make_jaxpr(jax.lax.optimization_barrier)(0.0).eqns
  return equation.primitive


def _key(primitive, params, inputs):
  """A key that equal equations share; a new one if params have no hash."""
  try:
    key = primitive, inputs, tuple(params.items())
    hash(key)
  except TypeError:
    return object()
  return key


def flatten(
  closed: core.ClosedJaxpr, calls: dict[str, str] = CALLS
) -> ir.Program:
  """Numbers the values of a jaxpr and inlines its calls.

  Args:
    closed: The jaxpr.
    calls: The calls to inline, `CALLS` or some of them.

  Returns:
    The program, without repetitions. What `jax.checkpoint` recomputes reads its
    inputs through a barrier, so that neither this function nor the compiler
    keeps the first result instead.
  """
  equations, constants, avals, made = [], {}, [], {}

  def number(aval):
    avals.append(aval)
    return len(avals) - 1

  def emit(primitive, params, inputs, out_avals, effects=()):
    key = object() if effects else _key(primitive, params, inputs)
    if key in made:
      return made[key]
    outputs = tuple(map(number, out_avals))
    equations.append(
      ir.Equation(primitive, params, inputs, outputs, frozenset(effects))
    )
    return made.setdefault(key, outputs)

  def behind_barrier(params, inputs):
    prevented = params['prevent_cse']
    if isinstance(prevented, bool):
      prevented = (prevented,) * len(inputs)
    held = ir.numbers(
      v for v, hold in zip(inputs, prevented, strict=True) if hold
    )
    if not params['differentiated'] or not held:
      return inputs
    released = {v: emit(_barrier(), {}, (v,), [avals[v]])[0] for v in held}
    return tuple(
      released.get(v, v) if isinstance(v, int) else v for v in inputs
    )

  def inline(jaxpr, consts, arguments):
    names = dict(zip(jaxpr.invars, arguments, strict=True))
    for var, value in zip(jaxpr.constvars, consts, strict=True):
      names[var] = number(var.aval)
      constants[names[var]] = value
    read = lambda v: v if isinstance(v, core.Literal) else names[v]
    for equation in jaxpr.eqns:
      inputs = tuple(map(read, equation.invars))
      inner = equation.params.get(calls.get(equation.primitive.name))
      if inner is None:
        outputs = emit(
          equation.primitive,
          equation.params,
          inputs,
          [var.aval for var in equation.outvars],
          equation.effects,
        )
      else:
        if 'prevent_cse' in equation.params:
          inputs = behind_barrier(equation.params, inputs)
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
  uses = collections.Counter(ir.numbers(outputs))
  for equation in ir.needed(equations, outputs):
    uses.update(ir.numbers(equation.inputs))
  return ir.Program(
    inputs, outputs, tuple(equations), constants, avals, producers, uses
  )
