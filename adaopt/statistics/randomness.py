"""The random numbers of a loss function, for checks of it."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import random as extended_random

from adaopt.per_example.program import inlining, ir


def _equal_bits(key: jax.Array, bit_width: int, shape: tuple) -> jax.Array:
  """A quarter of the range: uniform draws are 1/4, normal ones -0.67."""
  del key
  return jnp.full(shape, 1 << (bit_width - 2), f'uint{bit_width}')


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
    [0.25 0.25 0.25]
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
  flat = inlining.flatten(closed)
  count = len(jax.tree.leaves(sample))
  own = ir.dependents(flat.equations, flat.inputs[len(flat.inputs) - count :])

  def sources(equation):
    inputs = ir.numbers(equation.inputs)
    is_key = lambda v: jnp.issubdtype(flat.avals[v].dtype, jax.dtypes.prng_key)
    return list(filter(is_key, inputs)) or inputs

  return any(
    not own.intersection(sources(equation))
    for equation in flat.equations
    if 'random_bits' in ir.names_in(equation)
  )
