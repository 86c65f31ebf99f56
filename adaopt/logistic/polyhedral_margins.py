r"""The maximal margin over the cross-polytope and the cube: linear programs.

max_{‖θ‖_1 ≤ 1} min_i ⟨A_i, θ⟩ = min_q ‖Aᵀq‖_∞ over the simplex, and the same
with the two norms exchanged. Solved by HiGHS for a few rows, which others join.
"""

import jax
import numpy as np
import scipy

from adaopt._common import checks
from adaopt.logistic import cutting_planes
from adaopt.logistic import problem as problems

TOLERANCE = 1e-6
# The least that HiGHS takes.
_OPTIONS = {
  'primal_feasibility_tolerance': 1e-10,
  'dual_feasibility_tolerance': 1e-10,
}


def _solve(blocks, limits, bounds):
  """max t of x = (…, t) within linear constraints, the rows' t ≤ r_j θ first.

  Returns:
    x, and the multipliers of the constraints.

  Raises:
    RuntimeError: If HiGHS fails.
  """
  constraints = scipy.sparse.block_array(
    [[scipy.sparse.csr_array(block) for block in line] for line in blocks],
    format='csr',
  )
  cost = np.zeros(constraints.shape[1])
  cost[-1] = -1
  done = scipy.optimize.linprog(
    cost, constraints, limits, bounds=bounds, options=_OPTIONS
  )
  if done.status != 0:
    raise RuntimeError(
      f'HiGHS did not solve a linear program of {constraints.shape[0]} rows: '
      f'{done.message}; change the scale of single features.'
    )
  return done.x, -done.ineqlin.marginals


def _on_simplex(q):
  """q ≥ 0 of sum 1, from multipliers that are so but for rounding."""
  q = np.maximum(q, 0)
  return q / np.sum(q)


def l1(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """θ with ‖θ‖_1 ≤ 1 of maximal margin over rows [m, d], and q [m]."""
  size, width = rows.shape
  ones = np.ones([size, 1])
  # θ is the difference of two vectors ≥ 0, of sum 1 together.
  lengths = np.ones([1, width])
  x, multipliers = _solve(
    [[-rows, rows, ones], [lengths, lengths, np.zeros([1, 1])]],
    limits=np.append(np.zeros(size), 1),
    bounds=[(0, None)] * (2 * width) + [(None, None)],
  )
  return x[:width] - x[width:-1], _on_simplex(multipliers[:size])


def linf(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """θ with ‖θ‖_∞ ≤ 1 of maximal margin over rows [m, d], and q [m]."""
  size, width = rows.shape
  x, multipliers = _solve(
    [[-rows, np.ones([size, 1])]],
    limits=np.zeros(size),
    bounds=[(-1, 1)] * width + [(None, None)],
  )
  return x[:-1], _on_simplex(multipliers)


def _max_margin(name, restricted, order, features, labels, weights, tolerance):
  """The maximal margin for θ of norm at most 1."""
  cutting_planes.check_concrete(name, features, labels, weights)
  checks.check_positive(tolerance=tolerance)
  with jax.enable_x64(True):
    problem = problems.make_problem(features, labels, weights=weights)
  counted = np.flatnonzero(np.asarray(problem.weights) > 0)
  signs = np.asarray(problem.signs, np.float64)[counted]
  rows = cutting_planes.on_host(problem.features)[counted]
  rows = (rows.T * signs).T
  found, few = cutting_planes.maximize(
    cutting_planes.Rows(
      size=counted.size,
      take=lambda indices: rows[indices],
      margins=lambda params: rows @ params,
      scale=float(problem.radius),
    ),
    order,
    restricted,
    tolerance,
  )
  coefficients = np.zeros(problem.weights.size)
  coefficients[counted[few]] = found.coefficients
  return found._replace(coefficients=coefficients)


def max_margin_l1(
  features: problems.Features,
  labels: jax.Array,
  *,
  weights: jax.Array | None = None,
  tolerance: float = TOLERANCE,
) -> cutting_planes.CertifiedMargin:
  r"""max_{‖θ‖_1 ≤ 1} min_i ⟨A_i, θ⟩, with a certified gap.

  This is the margin that boosting maximises. Its θ has few entries that are not
  0. It is found on the host, in float64, by linear programs of some of the
  rows.

  Args:
    features: As in `make_problem`; concrete, not traced.
    labels: As in `make_problem`.
    weights: As in `make_problem`; only whether they are 0 matters.
    tolerance: The gap over the upper bound at which to end; 1e-6.

  Returns:
    The margin and the gap ‖Aᵀq‖_∞ − margin, θ [d] and q [n].

  Raises:
    ValueError: As in `make_problem`; if tolerance is not positive; if data are
      traced; if ‖Aᵀq‖_∞ ≤ tolerance · R: the data are inseparable or nearly so.
    RuntimeError: If HiGHS, the solver, fails.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt import logistic
    >>> features = jnp.array([[3.0, 1.0], [-2.0, 1.0], [0.0, -9.0]])
    >>> found = logistic.max_margin_l1(features, jnp.array([1, 1, -1]))
    >>> print(f'{found.margin:.4f}', found.params.round(4) + 0)
    1.0000 [0. 1.]
  """
  return _max_margin(
    'max_margin_l1', l1, 1, features, labels, weights, tolerance
  )


def max_margin_linf(
  features: problems.Features,
  labels: jax.Array,
  *,
  weights: jax.Array | None = None,
  tolerance: float = TOLERANCE,
) -> cutting_planes.CertifiedMargin:
  r"""max_{‖θ‖_∞ ≤ 1} min_i ⟨A_i, θ⟩, with a certified gap.

  This is the margin that sign descent maximises, and Adam in the end. Many
  entries of its θ are ±1. It is found on the host, in float64, by linear
  programs of some of the rows.

  Args:
    features: As in `max_margin_l1`.
    labels: As in `max_margin_l1`.
    weights: As in `max_margin_l1`.
    tolerance: As in `max_margin_l1`.

  Returns:
    The margin and the gap ‖Aᵀq‖_1 − margin, θ [d] and q [n].

  Raises:
    ValueError: As `max_margin_l1`, of ‖Aᵀq‖_1.
    RuntimeError: If HiGHS, the solver, fails.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt import logistic
    >>> features = jnp.array([[3.0, 1.0], [-2.0, 1.0], [0.0, -9.0]])
    >>> found = logistic.max_margin_linf(features, jnp.array([1, 1, -1]))
    >>> print(f'{found.margin:.4f}', found.params.round(4) + 0)
    1.0000 [0. 1.]
  """
  return _max_margin(
    'max_margin_linf', linf, np.inf, features, labels, weights, tolerance
  )
