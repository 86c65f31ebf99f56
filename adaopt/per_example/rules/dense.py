"""Rules for sums of outer products, g_j = Σ_t x_jt δ_jtᵀ: dense layers.

The batch dimensions of the contraction count as L separate layers l < L.
"""

import math

import jax
import jax.numpy as jnp

from adaopt._common import arithmetic, matrices
from adaopt.per_example import cut
from adaopt.per_example.rules import common, materialised

PASS = 16
"""The number of multiplications of a contraction that take as long as it takes
to materialise, square and add one coordinate of a gradient. Measured on a CPU.
"""


def _lengths(tail: cut.Tail) -> tuple[int, int, int, int]:
  """L, T, I, O of Σ_t x_lt δ_ltᵀ, with x_lt [I] and δ_lt [O]."""
  (equation,) = tail.contractions
  (summed, _), (batched, _) = equation.params['dimension_numbers']
  x, cotangent = map(tail.shape, equation.inputs)
  layers = math.prod(x[axis] for axis in batched)
  length = math.prod(x[axis] for axis in summed)
  widths = (math.prod(a) // (layers * length) for a in (x, cotangent))
  return layers, length, *widths


def _precision(tail):
  return tail.contractions[0].params['precision']


def _is_dense(tail):
  return (
    common.only(tail, 'dot_general')
    and not tail.shared
    and math.prod(tail.shape(tail.output)) > 1
  )


def _matrices(tail, factors):
  """X [J, L, T, I] and Δ [J, L, T, O], without the axes L and T of length 1."""
  (equation,) = tail.contractions
  layers, length, *widths = _lengths(tail)
  lengths = [n for n in (layers, length) if n > 1]
  for value, summed, batched, width in zip(
    equation.inputs, *equation.params['dimension_numbers'], widths, strict=True
  ):
    x = factors[value]
    kept = [d for d in range(x.ndim - 1) if d not in (*summed, *batched)]
    x = jnp.transpose(x, [0, *(d + 1 for d in (*batched, *summed, *kept))])
    yield x.reshape(len(x), *lengths, width)


def _axes(tail, x):
  """The axes of L, and the axes of J and T."""
  layers, length, *_ = _lengths(tail)
  batched = (1,) if layers > 1 else ()
  return batched, (0, x.ndim - 2) if length > 1 else (0,)


def _restore(tail):
  """Moves [L, I, O] to the layout of the gradient."""
  shape = tail.shape(tail.contractions[0].outputs[0])
  return lambda x: common.moved(tail, x.reshape(shape))


def _outer_sum(tail, x, cotangent):
  """Σ_j Σ_t x_jt δ_jtᵀ, like the gradient."""
  batched, summed = _axes(tail, x)
  if jax.default_backend() == 'cpu':
    # As XLA does itself, but for a transposed sum of bfloat16 over two axes,
    # which its CPU backend then cannot run.
    x, cotangent = common.widen(x), common.widen(cotangent)
  total = jax.lax.dot_general(
    x,
    cotangent,
    ((summed, summed), (batched, batched)),
    precision=_precision(tail),
    preferred_element_type=arithmetic.accumulator_dtype(x),
  )
  return _restore(tail)(total)


def _weighted_sum(tail, x, cotangent, coefficients):
  """Σ_j c_j Σ_t x_jt δ_jtᵀ, like the gradient."""
  scaled = common.scaled(coefficients, common.widen(cotangent))
  return _outer_sum(tail, common.widen(x), scaled)


def _outer_sums(tail, factors, coefficients):
  """‖x δᵀ‖² = ‖x‖² ‖δ‖²; squares and signs of x_i δ_o are products of such."""
  x, cotangent = _matrices(tail, factors)
  square = lambda a: common.squared_rows(common.widen(a))
  return common.Sums(
    total=_outer_sum(tail, x, cotangent),
    weighted=_weighted_sum(tail, x, cotangent, coefficients),
    norms=common.rowwise(square(x) * square(cotangent)),
    squares=_outer_sum(tail, *map(arithmetic.abs_sq, (x, cotangent))),
    signs=_outer_sum(tail, *map(common.signs, (x, cotangent))),
    matrix_squares=_outer_squares(tail, factors, coefficients),
  )


def _squared_axis(tail):
  """Whether the square of a gradient is of x (0) or of δ (1); None: neither."""
  layers, _, *widths = _lengths(tail)
  return common.squared_axis(tail, tuple(widths)) if layers == 1 else None


def _outer_squares(tail, factors, coefficients):
  """(x δᵀ) (x δᵀ)ᴴ = ‖δ‖² x xᴴ."""
  axis = _squared_axis(tail)
  if axis is None:
    found = materialised.MATERIALISED.sums(tail, factors, coefficients)
    return found.matrix_squares
  both = [common.widen(a) for a in _matrices(tail, factors)]
  rows, others = both[axis], both[1 - axis]
  scaled = common.scaled(common.squared_rows(others), rows)
  return matrices.contracted('ji,jk->ik', scaled, rows)


def _products(tail, factors, direction):
  """⟨Σ_t x_t δ_tᵀ, U⟩ = Σ_t x_tᵀ U δ_t."""
  x, cotangent = map(common.widen, _matrices(tail, factors))
  batched, _ = _axes(tail, x)
  layers, _, *widths = _lengths(tail)
  u = common.moved_back(tail, direction)
  u = u.reshape(*[layers] * len(batched), *widths)
  rows = len(batched)
  contracted = jax.lax.dot_general(
    x,
    u,
    (((x.ndim - 1,), (rows,)), (batched, tuple(range(rows)))),
    precision=_precision(tail),
  )  # [L, J, T, O]
  contracted = jnp.moveaxis(contracted, 0, rows)
  return common.rowwise(jnp.real(contracted * cotangent))


OUTER = common.Rule(
  applies=lambda tail: _is_dense(tail) and _lengths(tail)[1] == 1,
  sums=_outer_sums,
  products=_products,
)


def _recipe(tail, factors):
  x, cotangent = _matrices(tail, factors)

  def gradient_of(sample):
    x, cotangent = sample
    return jnp.einsum(
      '...ti,...to->...io',
      x,
      cotangent,
      precision=_precision(tail),
      preferred_element_type=arithmetic.accumulator_dtype(x),
    )

  return materialised.Recipe((x, cotangent), gradient_of, _restore(tail))


_BY_CHUNKS = materialised.by_chunks(_is_dense, _recipe)


def _squares_from_factors(tail):
  """Whether G Gᴴ costs less from Gram matrices than from materialised G."""
  if _squared_axis(tail) is None:
    return False
  _, length, *widths = _lengths(tail)
  smaller, larger = sorted(widths)
  of_grams = length**2 * (smaller + larger) + length * smaller**2
  return of_grams < smaller**2 * larger


def _matrix_squares(tail, factors, found):
  """(Xᵀ Δ) (Xᵀ Δ)ᴴ = Xᵀ (Δ Δᴴ) X̄, unless those found cost less."""
  if not _squares_from_factors(tail):
    return found.matrix_squares
  axis, both = _squared_axis(tail), [*_matrices(tail, factors)]
  rows, others = both[axis], both[1 - axis]
  grams = matrices.contracted('jto,jso->jts', others, others)
  mixed = matrices.contracted('jts,jti->jsi', grams, jnp.conj(rows))
  return matrices.contracted('jsi,jsk->ik', mixed, rows)


def _sequence_sums(tail, factors, coefficients):
  found = _BY_CHUNKS.sums(tail, factors, coefficients)
  return found._replace(matrix_squares=_matrix_squares(tail, factors, found))


SEQUENCE = common.Rule(_is_dense, _sequence_sums, _products)


def _gram_sums(tail, factors, coefficients):
  """‖X Δᵀ‖² = Σ_ts ⟨x_t, x_s⟩ ⟨δ_t, δ_s⟩."""
  x, cotangent = _matrices(tail, factors)
  gram = lambda a: jnp.einsum(
    'j...ti,j...si->j...ts',
    common.widen(a),
    jnp.conj(common.widen(a)),
    precision=_precision(tail),
  )
  norms = common.rowwise(jnp.real(gram(x) * gram(cotangent)))
  found = SEQUENCE.sums(tail, factors, coefficients)
  return common.Sums(
    total=_outer_sum(tail, x, cotangent),
    weighted=_weighted_sum(tail, x, cotangent, coefficients),
    norms=jnp.maximum(norms, 0),  # the sum may round to less than 0
    squares=found.squares,
    signs=found.signs,
    matrix_squares=found.matrix_squares,
  )


def _prefers_gram(tail):
  """Whether Gram matrices cost less than to materialise the gradient."""
  _, length, rows, columns = _lengths(tail)
  return length**2 * (rows + columns) < PASS * rows * columns


GRAM = common.Rule(
  applies=lambda tail: _is_dense(tail) and _prefers_gram(tail),
  sums=_gram_sums,
  products=_products,
)


FACTORED = GRAM._replace(
  applies=lambda tail: _is_dense(tail) and _squares_from_factors(tail)
)
