r"""Norms of ℝ^d and ℝ^{k×d}, their duals, and their steepest directions.

The steepest direction of x is argmax_{‖Δ‖ ≤ 1} ⟨x, Δ⟩; the maximum is the dual
norm of x. It is not scaled by x, and 0 where x = 0.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from adaopt._common import arithmetic


class Geometry(NamedTuple):
  """A norm, its dual, and the directions in which the norm is steepest."""

  norm: Callable[[jax.Array], jax.Array]
  dual_norm: Callable[[jax.Array], jax.Array]
  direction: Callable[[jax.Array], jax.Array]


def _sum(x):
  return jnp.sum(jnp.abs(x))


def _max(x):
  return jnp.max(jnp.abs(x))


def _scaled(x):
  """x with largest entry ±1, unless x = 0: its square is no underflow."""
  largest = _max(x)
  return x / jnp.where(largest == 0, 1, largest)


def _euclidean(x):
  return _max(x) * jnp.sqrt(jnp.sum(jnp.square(_scaled(x))))


def _singular_values(x):
  dtype = arithmetic.accumulator_dtype(x)
  return jnp.linalg.svd(x.astype(dtype), compute_uv=False).astype(x.dtype)


def _largest_entry(x):
  """The sign of the first largest |x_j| in its place, 0 elsewhere."""
  flat = x.ravel()
  place = jnp.argmax(jnp.abs(flat))
  one = jnp.zeros_like(flat).at[place].set(jnp.sign(flat[place]))
  return one.reshape(x.shape)


def _unit(x):
  x = _scaled(x)
  norm = jnp.sqrt(jnp.sum(jnp.square(x)))
  return x / jnp.where(norm == 0, 1, norm)


def _polar(x):
  """Σ u_j v_jᵀ over the singular values of x that are not 0, to rounding."""
  dtype = arithmetic.accumulator_dtype(x)
  u, s, v = jnp.linalg.svd(_scaled(x).astype(dtype), full_matrices=False)
  rounding = max(x.shape) * jnp.finfo(dtype).eps * s[0]
  kept = (s > rounding).astype(dtype)
  return ((u * kept[None, :]) @ v).astype(x.dtype)


SUM = Geometry(_sum, _max, _largest_entry)
MAX = Geometry(_max, _sum, jnp.sign)
EUCLIDEAN = Geometry(_euclidean, _euclidean, _unit)
SPECTRAL = Geometry(
  norm=lambda x: _singular_values(x)[0],
  dual_norm=lambda x: jnp.sum(_singular_values(x)),
  direction=_polar,
)
