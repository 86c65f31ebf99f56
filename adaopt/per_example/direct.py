"""Rules for gradients that are made for every sample: biases and scales.

Such a gradient is no larger than something that it is made of.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from adaopt._common import arithmetic
from adaopt.per_example import rule


def _with(square: Callable) -> Callable:
  def reduce(tail, factors):
    gradients = rule.widen(factors[tail.output])
    return jnp.sum(gradients, 0), square(arithmetic.abs_sq(gradients))

  return reduce


def _products(tail, factors, direction):
  gradients = rule.widen(factors[tail.output])
  return rule.rowwise(jnp.real(gradients * direction[None]))


DIRECT = rule.Rule(
  applies=lambda tail: not tail.equations,
  norms=_with(rule.rowwise),
  squares=_with(lambda squares: jnp.sum(squares, 0)),
  products=_products,
)


def constant(weights: jax.Array, gradient: jax.Array) -> rule.Rule:
  """The rule for a gradient that is the same for every sample; mostly zero."""
  gradient = rule.widen(gradient)
  weights = weights.astype(gradient.dtype)
  power = arithmetic.abs_sq(gradient)
  squares = arithmetic.abs_sq(weights)
  total = jnp.sum(weights) * gradient

  def products(tail, factors, direction):
    return jnp.real(weights * jnp.sum(gradient * direction))

  return rule.Rule(
    applies=lambda tail: tail is None,
    norms=lambda tail, factors: (total, squares * jnp.sum(power)),
    squares=lambda tail, factors: (total, jnp.sum(squares) * power),
    products=products,
  )
