"""Rules for gradients that need no contraction.

Those of biases are factors themselves, not larger than what they are computed
from. Shared ones differ by weights alone. Stacks come reduced.
"""

import functools

import jax
import jax.numpy as jnp

from adaopt._common import arithmetic, matrices
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
    signs=jnp.sum(common.signs(gradients), 0),
    matrix_squares=_matrix_squares(gradients),
  )


def _matrix_squares(gradients):
  """Σ_j g_j g_jᴴ of gradients [J, ...]; None unless they are matrices."""
  if gradients.ndim != 3:
    return None
  return matrices.sum_of_products(gradients, gradients)


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
  sum_of_squares = jnp.sum(squared_weights)
  return common.Sums(
    total=jnp.sum(weights) * gradient,
    weighted=jnp.sum(coefficients.astype(weights.dtype) * weights) * gradient,
    norms=squared_weights * jnp.sum(power),
    squares=sum_of_squares * power,
    signs=jnp.sum(common.signs(weights)) * common.signs(gradient),
    matrix_squares=_matrix_squares(jnp.sqrt(sum_of_squares) * gradient[None]),
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
  reduced = factors[stacked.source]
  sums, moved = reduced.sums, functools.partial(common.moved, stacked)
  return common.Sums(
    total=moved(sums.total),
    weighted=moved(sums.weighted),
    norms=sums.norms,
    squares=moved(sums.squares),
    signs=moved(sums.signs),
    matrix_squares=_matrix_squares(jax.vmap(moved)(reduced.each)),
  )


STACKED = common.Rule(
  applies=lambda tail: isinstance(tail, cut.Stacked),
  sums=_stacked_sums,
  products=lambda stacked, factors, _: factors[stacked.source].products,
)
