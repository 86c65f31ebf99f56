"""Rules for sums of outer products, g_j = Σ_t x_jt δ_jtᵀ: dense layers."""

import math

import jax
import jax.numpy as jnp

from adaopt import statistics
from adaopt.per_example import cut, materialised, rule


def _contracted(tail: cut.Tail) -> tuple[int, int, int]:
  """T, I, O of Σ_t x_t δ_tᵀ with t < T, x_t [I] and δ_t [O]."""
  (equation,) = tail.contractions
  ((summed, _), _) = equation.params['dimension_numbers']
  x, cotangent = map(tail.shape, equation.inputs)
  length = math.prod(x[axis] for axis in summed)
  return length, math.prod(x) // length, math.prod(cotangent) // length


def _is_dense(tail):
  if not rule.only(tail, 'dot_general'):
    return False
  _, (batched, _) = tail.contractions[0].params['dimension_numbers']
  return not batched and tail.shape(tail.output) != ()


def _matrices(tail, factors):
  """X [J, T, I] and Δ [J, T, O]."""
  (equation,) = tail.contractions
  (contracted, _) = equation.params['dimension_numbers']
  length, *widths = _contracted(tail)
  for value, summed, width in zip(
    equation.inputs, contracted, widths, strict=True
  ):
    x = factors[value]
    kept = [d for d in range(x.ndim - 1) if d not in summed]
    x = jnp.transpose(x, [0, *(d + 1 for d in (*summed, *kept))])
    yield x.reshape(x.shape[0], length, width)


def _outer_sum(tail, x, cotangent):
  """Σ_j Σ_t x_jt δ_jtᵀ, where the gradient is."""
  dtype = statistics.accumulator_dtype(x)
  flat = lambda a: a.reshape(-1, a.shape[-1])
  total = jax.lax.dot_general(
    flat(x),
    flat(cotangent),
    (((0,), (0,)), ((), ())),
    preferred_element_type=dtype,
  )
  shape = tail.shape(tail.contractions[0].outputs[0])
  return rule.move(tail, total.reshape(shape))


def _outer_norms(tail, factors):
  """‖x δᵀ‖² = ‖x‖² ‖δ‖²."""
  x, cotangent = _matrices(tail, factors)
  norms = rule.rowwise(statistics.abs_sq(x))
  return _outer_sum(tail, x, cotangent), norms * rule.rowwise(
    statistics.abs_sq(cotangent)
  )


def _outer_squares(tail, factors):
  """|x_i δ_o|² = |x_i|² |δ_o|²."""
  x, cotangent = _matrices(tail, factors)
  squares = map(statistics.abs_sq, (x, cotangent))
  return _outer_sum(tail, x, cotangent), _outer_sum(tail, *squares)


OUTER = rule.Rule(
  applies=lambda tail: _is_dense(tail) and _contracted(tail)[0] == 1,
  norms=_outer_norms,
  squares=_outer_squares,
)


def _gram_norms(tail, factors):
  """‖X Δᵀ‖² = Σ_ts ⟨x_t, x_s⟩ ⟨δ_t, δ_s⟩."""
  x, cotangent = _matrices(tail, factors)
  gram = lambda a: jnp.einsum('jti,jsi->jts', rule.widen(a), rule.widen(a))
  return _outer_sum(tail, x, cotangent), rule.rowwise(gram(x) * gram(cotangent))


def _prefers_gram(tail):
  """Whether Gram matrices cost less than a pass over the gradient."""
  length, rows, columns = _contracted(tail)
  return length**2 * (rows + columns) < 4 * rows * columns


GRAM = rule.Rule(
  applies=lambda tail: _is_dense(tail) and _prefers_gram(tail),
  norms=_gram_norms,
  squares=materialised.MATERIALISED.squares,
)
