"""Rules for gradients that need no contraction.

Those of biases are factors themselves, not larger than what they are computed
from. Shared ones differ by weights alone. Stacks come reduced.
"""

import jax.numpy as jnp

from adaopt._common import arithmetic
from adaopt.per_example import cut
from adaopt.per_example.rules import common


def _sums(tail, factors, coefficients):
  gradients = common.widen(factors[tail.output])
  power = arithmetic.abs_sq(gradients)
  return common.Sums(
    total=jnp.sum(gradients, 0),
    weighted=jnp.sum(common.scaled(coefficients, gradients), 0),
    norms=common.rowwise(power),
    squares=jnp.sum(power, 0),
  )


def _products(tail, factors, direction):
  gradients = common.widen(factors[tail.output])
  return common.rowwise(jnp.real(gradients * direction[None]))


DIRECT = common.Rule(
  applies=lambda tail: not tail.equations,
  sums=_sums,
  products=_products,
)


def _shared_sums(shared, factors, coefficients):
  gradient = common.widen(shared.gradient)
  weights = shared.weights.astype(gradient.dtype)
  power = arithmetic.abs_sq(gradient)
  squared_weights = arithmetic.abs_sq(weights)
  return common.Sums(
    total=jnp.sum(weights) * gradient,
    weighted=jnp.sum(coefficients.astype(weights.dtype) * weights) * gradient,
    norms=squared_weights * jnp.sum(power),
    squares=jnp.sum(squared_weights) * power,
  )


def _shared_products(shared, factors, direction):
  gradient = common.widen(shared.gradient)
  weights = shared.weights.astype(gradient.dtype)
  return jnp.real(weights * jnp.sum(gradient * direction))


SHARED = common.Rule(
  applies=lambda tail: isinstance(tail, common.Shared),
  sums=_shared_sums,
  products=_shared_products,
)


def _stacked_sums(stacked, factors, coefficients):
  del coefficients  # The scan knew them.
  total, weighted, norms, squares = factors[stacked.source].sums
  total, weighted, squares = (
    common.moved(stacked, x) for x in (total, weighted, squares)
  )
  return common.Sums(total, weighted, norms, squares)


STACKED = common.Rule(
  applies=lambda tail: isinstance(tail, cut.Stacked),
  sums=_stacked_sums,
  products=lambda stacked, factors, _: factors[stacked.source].products,
)
