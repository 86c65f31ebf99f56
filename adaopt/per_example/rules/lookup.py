"""The rule for rows added to a table, g_j = Σ_t e(k_jt) δ_jtᵀ: embeddings.

Rows of one sample with equal keys k_jt are merged after a sort by key, so that
no table is made for every sample.
"""

import math

import jax
import jax.numpy as jnp

from adaopt._common import arithmetic, matrices
from adaopt.per_example.rules import common, materialised


def _adds_rows(tail):
  if not common.only(tail, 'scatter-add'):
    return False
  (equation,) = tail.contractions
  table, keys, rows = (tail.shape(value) for value in equation.inputs)
  dims = equation.params['dimension_numbers']
  first = len(rows) - len(table) + 1
  return (
    equation.inputs[2] in tail.factors
    and dims.update_window_dims == tuple(range(first, len(rows)))
    and dims.inserted_window_dims == (0,)
    and dims.scatter_dims_to_operand_dims == (0,)
    and not dims.operand_batching_dims
    and rows[first:] == table[1:]
    and len(keys) == first + 1
  )


def _keys_and_rows(tail, factors):
  """Keys [J, T], at most the size of the table, and rows [J, T, ...]."""
  (equation,) = tail.contractions
  table, keys, updates = equation.inputs
  rows = factors[updates]
  keys = factors[keys] if keys in tail.factors else factors[keys][None]
  size, *width = tail.shape(table)
  # Wide enough to hold the size of the table.
  keys = keys.astype(jnp.promote_types(keys.dtype, jnp.int32))
  keys = keys.reshape(len(keys), -1)
  if equation.params['mode'] == jax.lax.GatherScatterMode.CLIP:
    keys = jnp.clip(keys, 0, size - 1)
  keys = jnp.where((keys >= 0) & (keys < size), keys, size)
  keys = jnp.broadcast_to(keys, (len(rows), keys.shape[1]))
  return keys, common.widen(rows).reshape(*keys.shape, *width)


def _added(tail, keys, rows):
  """Adds rows [J, T, ...] to one table, like the gradient."""
  (equation,) = tail.contractions
  shape = tail.shape(equation.inputs[0])
  table = jnp.zeros(shape, rows.dtype).at[keys].add(rows, mode='drop')
  return common.moved(tail, table)


def _merged(tail, keys, rows):
  """Keys [J, T] and rows [J, T, ...], merged to one row per key, and zeros."""
  (equation,) = tail.contractions
  size = tail.shape(equation.inputs[0])[0]

  def merge(keys, rows):
    order = jnp.argsort(keys)
    keys, rows = keys[order], rows[order]
    segments = jnp.cumsum(jnp.diff(keys, prepend=keys[:1]) != 0)
    inside = (keys < size).reshape(-1, *[1] * (rows.ndim - 1))
    rows = jnp.where(inside, rows, 0)
    return (
      jnp.full_like(keys, size).at[segments].set(keys),
      jax.ops.segment_sum(rows, segments, len(keys)),
    )

  return jax.vmap(merge)(keys, rows)


def _sums(tail, factors, coefficients):
  """‖g‖² = Σ_k |Σ_t [k_t = k] δ_t|²."""
  keys, rows = _keys_and_rows(tail, factors)
  merged_keys, merged = _merged(tail, keys, rows)
  power = arithmetic.abs_sq(merged)
  return common.Sums(
    total=_added(tail, keys, rows),
    weighted=_added(tail, keys, common.scaled(coefficients, rows)),
    norms=common.rowwise(power),
    squares=_added(tail, merged_keys, power),
    signs=_added(tail, merged_keys, common.signs(merged)),
    matrix_squares=_matrix_squares(tail, factors, coefficients),
  )


def _matrix_squares(tail, factors, coefficients):
  """Of rows Σ_ts e(k_t) e(k_s)ᵀ ⟨δ_t, δ_s⟩, or of columns Σ_k δ_k δ_kᴴ."""
  (equation,) = tail.contractions
  shape = tail.shape(equation.inputs[0])
  axis = common.squared_axis(tail, shape) if len(shape) == 2 else None
  if axis is None:
    found = materialised.MATERIALISED.sums(tail, factors, coefficients)
    return found.matrix_squares
  keys, rows = _keys_and_rows(tail, factors)
  if axis == 1:
    _, rows = _merged(tail, keys, rows)
    return matrices.contracted('jtd,jte->de', rows, rows)
  size, _ = shape
  products = matrices.contracted('jtd,jsd->jts', rows, rows)
  square = jnp.zeros([size, size], products.dtype)
  return square.at[keys[:, :, None], keys[:, None]].add(products, mode='drop')


def _products(tail, factors, direction):
  """⟨g, U⟩ = Σ_t ⟨δ_t, u(k_t)⟩."""
  keys, rows = _keys_and_rows(tail, factors)
  table = common.moved_back(tail, direction)
  u = table.at[keys].get(mode='fill', fill_value=0)
  return common.rowwise(jnp.real(rows * u))


def _is_large(tail):
  """Whether the table is much larger than the rows of one sample."""
  (equation,) = tail.contractions
  table, _, rows = (math.prod(tail.shape(value)) for value in equation.inputs)
  return table > 2 * rows


LOOKUP = common.Rule(
  applies=lambda tail: _adds_rows(tail) and _is_large(tail),
  sums=_sums,
  products=_products,
)
