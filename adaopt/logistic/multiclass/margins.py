r"""The maximal margin of k classes, in the Frobenius and in the max norm.

With c ≠ y_i, max_{‖W‖ ≤ 1} min_{i, c} ⟨Δ_ic, W⟩ = min_q ‖Σ q_ic Δ_ic‖_* over
the simplex, with the dual norm. Of the n (k − 1) matrices Δ_ic only a few are
made, those that matter.
"""

import jax
import numpy as np
import scipy

from adaopt._common import checks
from adaopt.logistic import cutting_planes, polyhedral_margins
from adaopt.logistic import problem as two_classes
from adaopt.logistic.multiclass import problem as problems


def _rows(problem):
  """The Δ_ic as rows [kd], and the i and the c of each."""
  features = cutting_planes.on_host(problem.features)
  targets = np.asarray(problem.targets)
  counted = np.asarray(problem.weights)[:, None] > 0
  examples, rivals = np.nonzero(counted & ~targets)
  right = np.argmax(targets, 1)[examples]
  width = features.shape[1]
  shape = targets.shape[1], width

  def take(indices):
    chosen = scipy.sparse.coo_array(features[examples[indices]])
    row, column = chosen.coords
    entries = [
      right[indices][row] * width + column,
      rivals[indices][row] * width + column,
    ]
    return scipy.sparse.csr_array(
      (
        np.concatenate([chosen.data, -chosen.data]),
        (np.tile(row, 2), np.concatenate(entries)),
      ),
      (indices.size, targets.shape[1] * width),
    )

  def of_params(params):
    logits = features @ params.reshape(shape).T
    return logits[examples, right] - logits[examples, rivals]

  scale = np.sqrt(2) * float(problem.radius)
  rows = cutting_planes.Rows(examples.size, take, of_params, scale)
  return rows, examples, rivals


def _frobenius(rows):
  """θ of maximal margin over a few rows, the shortest point of their hull.

  min ‖Σ q_j r_j‖² + (Σ q_j − 1)² over q ≥ 0 differs from it by a factor of q.
  """
  dense = rows.toarray()
  # Of the same inner products, and no longer than there are rows.
  short = np.asarray(np.linalg.qr(dense.T, mode='r'))
  matrix = np.append(short, np.ones([1, short.shape[1]]), 0)
  q, _ = scipy.optimize.nnls(matrix, np.append(np.zeros(len(short)), 1))
  return dense.T @ q, q / np.sum(q)


def _max_margin(
  name, restricted, order, features, labels, weights, num_classes, tolerance
):
  """The maximal margin for W of norm at most 1."""
  cutting_planes.check_concrete(name, features, labels, weights)
  checks.check_positive(tolerance=tolerance)
  with jax.enable_x64(True):
    problem = problems.make_problem(
      features, labels, weights=weights, num_classes=num_classes
    )
    rows, examples, rivals = _rows(problem)
    found, few = cutting_planes.maximize(rows, order, restricted, tolerance)
  coefficients = np.zeros(problem.targets.shape)
  coefficients[examples[few], rivals[few]] = found.coefficients
  return found._replace(
    params=found.params.reshape(problem.targets.shape[1], -1),
    coefficients=coefficients,
  )


def max_margin(
  features: two_classes.Features,
  labels: jax.Array,
  *,
  weights: jax.Array | None = None,
  num_classes: int | None = None,
  tolerance: float = 1e-6,
) -> cutting_planes.CertifiedMargin:
  r"""max_{‖W‖_F ≤ 1} min_i m_i, with a certified gap.

  On the host, in float64, by least squares over q ≥ 0 of some of the Δ_ic. For
  two classes it is √2 times that of `logistic.max_margin`: ‖W‖_F = ‖θ‖/√2.

  Args:
    features: As in `make_problem`; concrete, not traced.
    labels: As in `make_problem`.
    weights: As in `make_problem`; only whether they are 0 matters.
    num_classes: As in `make_problem`.
    tolerance: The gap over the upper bound at which to end; 1e-6.

  Returns:
    The margin and the gap ‖Σ q_ic Δ_ic‖ − margin, W [k, d] and q [n, k], with 0
    at c = y_i.

  Raises:
    ValueError: As in `make_problem`; if tolerance is not positive; if data are
      traced or inseparable.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt.logistic import multiclass
    >>> found = multiclass.max_margin(2 * jnp.eye(3), jnp.arange(3))
    >>> print(f'{found.margin:.4f}')
    1.4142
    >>> print((found.params * 18**0.5).round(4))
    [[ 2. -1. -1.]
     [-1.  2. -1.]
     [-1. -1.  2.]]
  """
  return _max_margin(
    'max_margin',
    _frobenius,
    2,
    features,
    labels,
    weights,
    num_classes,
    tolerance,
  )


def max_margin_max(
  features: two_classes.Features,
  labels: jax.Array,
  *,
  weights: jax.Array | None = None,
  num_classes: int | None = None,
  tolerance: float = polyhedral_margins.TOLERANCE,
) -> cutting_planes.CertifiedMargin:
  r"""max_{|W_cj| ≤ 1} min_i m_i, with a certified gap.

  On the host, in float64, by linear programs of some of the Δ_ic. For two
  classes it is twice that of `logistic.max_margin_linf`.

  Args:
    features: As in `max_margin`.
    labels: As in `max_margin`.
    weights: As in `max_margin`.
    num_classes: As in `max_margin`.
    tolerance: As in `max_margin`.

  Returns:
    The margin and the gap, by the sum of |Σ q_ic Δ_ic|, W [k, d] and q [n, k].

  Raises:
    ValueError: As `max_margin`.
    RuntimeError: If HiGHS, the solver, fails.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt.logistic import multiclass
    >>> found = multiclass.max_margin_max(2 * jnp.eye(3), jnp.arange(3))
    >>> print(f'{found.margin:.4f}')
    4.0000
  """
  return _max_margin(
    'max_margin_max',
    polyhedral_margins.linf,
    np.inf,
    features,
    labels,
    weights,
    num_classes,
    tolerance,
  )
