"""The random numbers of a loss function, for checks of it."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.extend import random as extended_random

from adaopt.per_example.program import inlining, ir, scans


def _equal_bits(key: jax.Array, bit_width: int, shape: tuple) -> jax.Array:
  """A sixteenth of the range: any dropout but of 94 % and more keeps all."""
  del key
  return jnp.full(shape, 1 << (bit_width - 4), f'uint{bit_width}')


_EQUAL = extended_random.define_prng_impl(
  key_shape=(1,),
  seed=lambda seed: jnp.zeros((1,), jnp.uint32),
  split=lambda key, shape: jnp.broadcast_to(key, (*shape, 1)),
  random_bits=_equal_bits,
  fold_in=lambda key, data: key,
  name='equal',
  tag='equal',
)


def equal_key() -> jax.Array:
  """A random key of which all numbers drawn are equal.

  A loss function that draws from it does the same to every example, whether it
  is given one example or many.

  Example:
    >>> import jax
    >>> from adaopt.statistics import randomness
    >>> print(jax.random.uniform(randomness.equal_key(), 3))
    [0.0625 0.0625 0.0625]
  """
  return jax.random.key(0, impl=_EQUAL)


def draws_the_same(function: Any, fixed: Any, sample: Any) -> bool:
  """Whether a function draws random numbers that no sample changes.

  Args:
    function: (fixed, sample) → a pytree of arrays.
    fixed: What is the same for all samples.
    sample: A sample, or its shapes.

  Returns:
    Whether some random numbers depend on no leaf of the sample.

  Example:
    >>> import jax
    >>> from adaopt.statistics import randomness
    >>> drawn = lambda _, key: jax.random.normal(key)
    >>> key = jax.random.key(0)
    >>> print(randomness.draws_the_same(drawn, (), key))
    False
    >>> print(randomness.draws_the_same(lambda *_: drawn((), key), (), key))
    True
  """
  closed = jax.make_jaxpr(function)(fixed, sample)
  if 'random_bits' not in ir.names(closed):
    return False
  count = len(jax.tree.leaves(sample))
  fixed_inputs = len(closed.in_avals) - count
  return _traced(closed, (False,) * fixed_inputs + (True,) * count).shared


class _Traced(NamedTuple):
  """What a program does, given which of its inputs a sample changes."""

  shared: bool  # whether it draws numbers that no sample changes
  outputs: tuple[bool, ...]  # which outputs a sample changes


def _traced(closed: core.ClosedJaxpr, inputs: Iterable[bool]) -> _Traced:
  program = inlining.flatten(closed)
  own = dict(zip(program.inputs, inputs, strict=True))
  is_own = lambda value: isinstance(value, int) and own.get(value, False)
  shared = False
  for equation in ir.needed(program.equations, program.outputs):
    rule = _RULES.get(equation.name, _plain)
    found = rule(program, equation, tuple(map(is_own, equation.inputs)))
    shared |= found.shared
    own.update(zip(equation.outputs, found.outputs, strict=True))
  return _Traced(shared, tuple(map(is_own, program.outputs)))


def _plain(program, equation, own):
  del program
  draws = 'random_bits' in ir.names_in(equation)
  outputs = (any(own),) * len(equation.outputs)
  return _Traced(draws and not any(own), outputs)


def _branched(program, equation, own):
  del program
  found = [_traced(x, own[1:]) for x in equation.params['branches']]
  outputs = _any_of([x.outputs for x in found])
  return _Traced(
    any(x.shared for x in found), tuple(own[0] or x for x in outputs)
  )


def _carried(iteration, carry):
  """The iterations of a loop, until its carry repeats."""
  seen, found = [], []
  while carry not in seen:
    seen.append(carry)
    found.append(iteration(carry))
    carry = found[-1].outputs[: len(carry)]
  return _Traced(
    any(x.shared for x in found), _any_of([x.outputs for x in found])
  )


def _scanned(program, equation, own):
  body, c, n = scans.parts(program, equation)
  return _carried(
    lambda carry: _traced(body, (*own[:c], *carry, *own[c + n :])),
    own[c : c + n],
  )


def _looped(program, equation, own):
  del program
  first = equation.params['cond_nconsts']
  start = first + equation.params['body_nconsts']

  def goes_on(carry):
    return _traced(equation.params['cond_jaxpr'], (*own[:first], *carry))

  def iteration(carry):
    inputs = (*own[first:start], *carry)
    found = _traced(equation.params['body_jaxpr'], inputs)
    return found._replace(shared=found.shared or goes_on(carry).shared)

  found = _carried(iteration, own[start:])
  carry = _any_of([own[start:], found.outputs])
  counted = any(goes_on(carry).outputs)  # A sample says how often.
  return found._replace(outputs=tuple(counted or x for x in carry))


def _any_of(flags):
  return tuple(map(any, zip(*flags, strict=True)))


_RULES = {'cond': _branched, 'scan': _scanned, 'while': _looped}
