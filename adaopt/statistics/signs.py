"""What a program says of the signs of its values, whatever its inputs.

A value is zero where no element is positive and none negative. A bound such as
a clip's keeps a zero by its sign. Primitives without a rule say nothing.
"""

import functools
import itertools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from adaopt._common import checks
from adaopt.per_example.program import inlining, ir, scans


class Sign(NamedTuple):
  """What holds for all elements of a value, if they are finite."""

  nonpositive: bool = False
  nonnegative: bool = False


UNKNOWN = Sign()
ZERO = Sign(nonpositive=True, nonnegative=True)


def propagated(
  closed: core.ClosedJaxpr, inputs: Iterable[Sign]
) -> tuple[Sign, ...]:
  """The signs of a program's outputs.

  Args:
    closed: The program.
    inputs: The signs of its inputs.

  Returns:
    Those of its outputs. 0 / x counts as zero: 0 / 0 has no value.
  """
  program = inlining.flatten(closed)
  signs = dict(zip(program.inputs, inputs, strict=True))
  signs.update((v, _of_constant(x)) for v, x in program.constants.items())

  def read(value):
    return signs[value] if isinstance(value, int) else _of_constant(value.val)

  for equation in program.equations:
    rule = _RULES.get(equation.name)
    inputs = tuple(map(read, equation.inputs))
    known = rule and rule(program, equation, inputs)
    outputs = equation.outputs
    known = known or (UNKNOWN,) * len(outputs)
    signs.update(zip(outputs, known, strict=True))
  return tuple(map(read, program.outputs))


def _of_constant(x):
  dtype = jnp.result_type(x)
  readable = checks.is_concrete(x) and getattr(x, 'is_fully_addressable', True)
  if not readable or jnp.issubdtype(dtype, jax.dtypes.extended):
    return UNKNOWN
  x = np.asarray(x)
  if jnp.issubdtype(dtype, jnp.complexfloating):
    return ZERO if not x.any() else UNKNOWN
  return Sign(bool(np.all(x <= 0)), bool(np.all(x >= 0)))


def _both(x: Sign, y: Sign) -> Sign:
  """What holds for either of two values."""
  return Sign(x.nonpositive and y.nonpositive, x.nonnegative and y.nonnegative)


def _any_of(*signs):
  return functools.reduce(_both, signs)


def _zero_if(condition):
  return ZERO if condition else UNKNOWN


def _max(x, y):
  return Sign(x.nonpositive and y.nonpositive, x.nonnegative or y.nonnegative)


def _min(x, y):
  return Sign(x.nonpositive or y.nonpositive, x.nonnegative and y.nonnegative)


def _negative(x):
  return Sign(x.nonnegative, x.nonpositive)


def _power(program, equation, signs):
  del program
  return (_zero_if(signs[0] == ZERO and equation.params['y'] > 0),)


def _converted(program, equation, signs):
  del program
  (x,) = signs
  # −1 is positive among unsigned integers.
  keeps = jnp.issubdtype(equation.params['new_dtype'], jnp.floating)
  return (x if keeps else _zero_if(x == ZERO),)


def _branched(program, equation, signs):
  del program
  branches = equation.params['branches']
  found = [propagated(branch, signs[1:]) for branch in branches]
  return tuple(itertools.starmap(_any_of, zip(*found, strict=True)))


def _carried(body, consts, carry, rest=()):
  """The outputs of a loop's body, once its carry says what always holds."""
  while True:
    found = propagated(body, (*consts, *carry, *rest))
    kept = tuple(map(_both, carry, found))
    if kept == carry:
      return kept + found[len(carry) :]
    carry = kept


def _scanned(program, equation, signs):
  body, c, n = scans.parts(program, equation)
  return _carried(body, signs[:c], signs[c : c + n], signs[c + n :])


def _looped(program, equation, signs):
  del program
  first = equation.params['cond_nconsts']
  carry = first + equation.params['body_nconsts']
  return _carried(
    equation.params['body_jaxpr'], signs[first:carry], signs[carry:]
  )


Rule = Callable[[ir.Program, ir.Equation, tuple[Sign, ...]], tuple[Sign, ...]]


def _of(function: Callable[..., Sign]) -> Rule:
  """The rule of one output, by a function of the inputs' signs."""
  return lambda program, equation, signs: (function(*signs),)


_FUNCTIONS = {
  # A selection, a sum, an odd increasing function.
  """add add_any asin asinh atan atanh broadcast_in_dim cbrt ceil concatenate
  copy copy_p cumsum erf erf_inv expand_dims expm1 floor layout_constraint log1p
  mesh_cast or pad reduce_max reduce_min reduce_precision reduce_sum reshape
  reshard rev round sharding_constraint sign sinh slice sqrt squeeze tanh
  transpose""": _any_of,
  # 0 at 0.
  """abs complex conj cummax cummin imag real sin square sub tan""": (
    lambda *signs: _zero_if(all(x == ZERO for x in signs))
  ),
  'and conv_general_dilated dot_general mul': (
    lambda *signs: _zero_if(ZERO in signs)
  ),
  'div rem': lambda x, y: _zero_if(x == ZERO),
  'select_n': lambda index, *cases: _any_of(*cases),
  'dynamic_slice': lambda x, *starts: x,
  'dynamic_update_slice': lambda x, update, *starts: _both(x, update),
  'clamp': lambda low, x, high: _min(_max(low, x), high),
  'max': _max,
  'min': _min,
  'neg': _negative,
}

_RULES: dict[str, Rule] = {
  name: _of(function)
  for names, function in _FUNCTIONS.items()
  for name in names.split()
} | {
  'cond': _branched,
  'convert_element_type': _converted,
  'device_put': lambda program, equation, signs: signs,
  'integer_pow': _power,
  'optimization_barrier': lambda program, equation, signs: signs,
  'scan': _scanned,
  'split': lambda program, equation, signs: signs * len(equation.outputs),
  'while': _looped,
}
