r"""The maximal margin in a norm, of rows that need not all be held at once.

max_{‖θ‖ ≤ 1} min_j ⟨r_j, θ⟩ = min_q ‖Σ q_j r_j‖_* over the simplex, with the
dual norm. A few rows give an upper bound by their q, and a θ whose margin over
all rows is a lower bound. Rows whose margin is less than that of the few join
them, until the bounds meet.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy

from adaopt._common import checks
from adaopt.logistic import problem as problems


class CertifiedMargin(NamedTuple):
  """A margin in some norm, on the host: margin ≤ the maximum ≤ margin + gap."""

  margin: np.floating  # that of params, []
  gap: np.floating  # the dual norm of the combination, less the margin, []
  params: np.ndarray  # of norm 1, [d] or [k, d]
  coefficients: np.ndarray  # q on the simplex, [n] or [n, k]


class Rows(NamedTuple):
  """r_j for j = 0, …, size − 1."""

  size: int
  take: Callable[[np.ndarray], Any]  # [m] → r_j, [m, D] dense or sparse
  margins: Callable[[np.ndarray], np.ndarray]  # θ [D] → ⟨r_j, θ⟩, [size]
  scale: float  # max ‖r_j‖_2, or more


Restricted = Callable[[Any], tuple[np.ndarray, np.ndarray]]
"""A few rows, divided by the scale → θ of maximal margin, and q."""

FEWEST = 128
"""Rows to start with."""

_DUAL = {1: np.inf, 2: 2, np.inf: 1}


def check_concrete(name: str, *data: Any) -> None:
  """Raises ValueError if data are traced."""
  if not checks.is_concrete(*jax.tree.leaves(data)):
    raise ValueError(
      f'features, labels and weights must be concrete: {name} works on the '
      'host, got a tracer; call it outside jit and vmap.'
    )


def check_separable(upper: float, tolerance: float, scale: float) -> None:
  """Raises ValueError if the maximal margin is at most tolerance · scale."""
  if upper <= tolerance * scale:
    raise ValueError(
      'no parameters separate the data: a convex combination of the rows has '
      f'dual norm {upper:.3g}, at rows of length {scale:.3g}. If the data need '
      'a bias, add a constant feature.'
    )


def on_host(features: problems.Features) -> Any:
  """Features in float64, dense of numpy or sparse of scipy."""
  if hasattr(features, 'indices'):
    places = np.asarray(features.indices).T
    values = np.asarray(features.data, np.float64)
    return scipy.sparse.csr_array((values, tuple(places)), features.shape)
  return np.asarray(features, np.float64)


def maximize(
  rows: Rows, order: float, restricted: Restricted, tolerance: float
) -> tuple[CertifiedMargin, np.ndarray]:
  """The maximal margin, with θ [D] and q of the few rows that matter.

  Args:
    rows: All rows.
    order: Of the norm of θ: 1, 2 or infinity.
    restricted: Solves for a few rows.
    tolerance: Ends at a gap of at most this part of the upper bound, or where
      no more rows are below.

  Returns:
    The margin, and which row each coefficient belongs to.

  Raises:
    ValueError: If the upper bound is at most tolerance times the scale.
  """
  few = np.unique(
    np.linspace(0, rows.size - 1, min(rows.size, FEWEST)).astype(int)
  )
  while True:
    taken = rows.take(few)
    params, coefficients = restricted(taken / rows.scale)
    upper = np.linalg.norm(taken.T @ coefficients, _DUAL[order])
    check_separable(upper, tolerance, rows.scale)
    params = params / np.linalg.norm(params, order)
    margins = rows.margins(params)
    lower = np.min(margins)
    found = CertifiedMargin(lower, upper - lower, params, coefficients)
    below = np.flatnonzero(margins < np.min(margins[few]))
    if found.gap <= tolerance * upper or not below.size:
      return found, few
    lowest = np.argsort(margins[below])[: few.size]
    few = np.union1d(few, below[lowest])
