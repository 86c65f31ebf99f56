"""Data of k classes, and the products with it that every method uses.

W [k, d] classifies example i if ⟨Δ_ic, W⟩ > 0 for every class c ≠ y_i, where
Δ_ic = (e_{y_i} − e_c) h_iᵀ. These n (k − 1) matrices, in the place of the A_i
of two classes, are never stored: what they make of W are differences of logits.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adaopt._common import checks
from adaopt.logistic import problem as problems


class Problem(NamedTuple):
  """Examples h_i of classes y_i = 0, …, k − 1, each counted w_i times."""

  features: problems.Features  # h_i, [n, d]
  targets: jax.Array  # whether c = y_i, [n, k] bool
  weights: jax.Array  # w_i, [n]; 0 for padding
  radius: jax.Array  # R = max ‖h_i‖ over w_i > 0, []
  model: None = None  # logits are linear


REMEDY = 'sklearn.preprocessing.LabelEncoder turns labels of any kind into them'


def _check_labels(labels):
  """Raises ValueError unless labels are integers."""
  kind = labels.dtype if hasattr(labels, 'dtype') else None
  if kind is None:
    try:
      kind = np.asarray(labels).dtype
    except ValueError:  # Lists of different lengths.
      kind = np.dtype(object)
  if not jnp.issubdtype(kind, jnp.integer):
    raise ValueError(
      f'labels must be integers 0, …, k − 1, got {kind}; {REMEDY}.'
    )


def _count_classes(labels, weights, num_classes):
  """k, for labels that are right.

  Raises:
    ValueError: If k is unknown, or a label of positive weight is not below it.
  """
  if num_classes is not None:
    checks.check_integer(2, num_classes=num_classes)
    if not checks.is_concrete(num_classes):
      raise ValueError(
        'num_classes must be an integer when the program is traced, got '
        f'{num_classes}: it is the number of rows of W.'
      )
  if not checks.is_concrete(labels, weights):
    if num_classes is None:
      raise ValueError(
        f'num_classes must be given where labels are traced, got {num_classes}:'
        ' it is the number of rows of W.'
      )
    return int(num_classes)
  present = np.unique(np.asarray(labels)[np.asarray(weights) > 0])
  count = len(present) if num_classes is None else int(num_classes)
  wrong = present[(present < 0) | (present >= count)]
  if count < 2 or len(wrong):
    shown = ', '.join(map(str, present[:5])) + ', …' * (len(present) > 5)
    raise ValueError(
      f'labels must be 0, …, k − 1 for k ≥ 2 classes, got {shown}; {REMEDY}, '
      'and num_classes= counts classes without examples.'
    )
  return count


def make_problem(
  features: problems.Features,
  labels: jax.Array,
  *,
  weights: jax.Array | None = None,
  num_classes: int | None = None,
) -> Problem:
  """Checks data and puts them in the form that the methods take.

  Args:
    features: h_i, [n, d] floating, dense or sparse, as in
      `logistic.make_problem`. No bias is added.
    labels: y_i = 0, …, k − 1, [n].
    weights: How often each example counts, [n] ≥ 0. A row of weight 0 is
      padding. Default: 1.
    num_classes: k. Default: the number of different labels; needed where labels
      are traced.

  Returns:
    The problem, in the dtype of features.

  Raises:
    ValueError: As in `logistic.make_problem`; if labels are not integers; for
      concrete labels, if they are not 0, …, k − 1.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt.logistic import multiclass
    >>> features = jnp.array([[3.0, 4.0], [0.0, 1.0], [1.0, 0.0]])
    >>> problem = multiclass.make_problem(features, jnp.array([0, 1, 2]))
    >>> print(problem.targets.shape, problem.radius)
    (3, 3) 5.0
  """
  _check_labels(labels)
  labels = jnp.asarray(labels)
  two_classes = problems.make_problem(
    features, jnp.ones_like(labels), weights=weights
  )
  count = _count_classes(labels, two_classes.weights, num_classes)
  return Problem(
    features=two_classes.features,
    targets=labels[:, None] == jnp.arange(count)[None, :],
    weights=two_classes.weights,
    radius=two_classes.radius,
  )


def logits(problem: Problem, params: jax.Array) -> jax.Array:
  """z_ic = ⟨w_c, h_i⟩ for W [k, d]. [n, k]."""
  return problem.features @ params.T


def margins(problem: Problem, logits: jax.Array) -> jax.Array:
  """m_i = min_{c ≠ y_i} (z_{i y_i} − z_ic). [n]."""
  right = jnp.sum(jnp.where(problem.targets, logits, 0), 1)
  return right - jnp.max(jnp.where(problem.targets, -jnp.inf, logits), 1)


def combination(problem: Problem, coefficients: jax.Array) -> jax.Array:
  """Σ q_ic Δ_ic over c ≠ y_i, for q [n, k]. [k, d]."""
  wrong = jnp.where(problem.targets, 0, coefficients)
  right = jnp.sum(wrong, 1, keepdims=True)
  return jnp.where(problem.targets, right, -wrong).T @ problem.features


def log_pulls(problem: Problem, logits: jax.Array) -> jax.Array:
  """log(w_i p_ic) for c ≠ y_i, p = softmax(z); −∞ at c = y_i. [n, k]."""
  log_probabilities = jax.nn.log_softmax(logits, 1)
  log_weights = jnp.log(problem.weights)[:, None]
  return jnp.where(problem.targets, -jnp.inf, log_weights + log_probabilities)
