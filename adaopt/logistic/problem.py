"""Two-class data, and the two products with it that every method uses.

A_i = y_i a_i is never stored: margins are y_i ⟨a_i, θ⟩ and combinations
Σ_i (c_i y_i) a_i, so that many labellings share one array of features.
"""

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import sparse

from adaopt._common import arithmetic, arrays, checks
from adaopt.logistic import models
from adaopt.transforms import residuals

Features: TypeAlias = models.Features


class Problem(NamedTuple):
  """Examples a_i of two classes, y_i = ±1, each counted w_i times."""

  features: Features  # a_i, [n, d]
  signs: jax.Array  # y_i, [n]
  weights: jax.Array  # w_i, [n]; 0 for padding
  radius: jax.Array  # R = max ‖a_i‖ over w_i > 0, []
  columns: Features | None = None  # features transposed, [d, n]
  model: models.Model | None = None  # a_i → f(a_i; θ); None: ⟨a_i, θ⟩


def squared_norms(features: Features) -> jax.Array:
  """‖a_i‖². [n]."""
  if isinstance(features, sparse.BCOO):
    squares = sparse.BCOO(
      (jnp.square(features.data), features.indices), shape=features.shape
    )
    return squares @ jnp.ones(features.shape[1], features.dtype)
  return jnp.sum(jnp.square(features), 1)


def _features(features):
  """Features as an array or BCOO without duplicate indices."""
  if callable(getattr(features, 'tocoo', None)):  # Of scipy.sparse.
    features = sparse.BCOO.from_scipy_sparse(features)
  if isinstance(features, sparse.BCSR):
    features = features.to_bcoo()
  if not isinstance(features, sparse.BCOO):
    return arrays.array_of(
      'an array [n, d] of numbers, or a sparse matrix', features=features
    )
  if checks.is_concrete(features.indices):
    indices = np.asarray(features.indices)
    if len(np.unique(indices, axis=0)) < len(indices):
      return features.sum_duplicates()  # ‖a_i‖² squares every entry once.
  return features


def _check_numbers(labels, weights):
  """Raises ValueError unless labels and weights are real numbers."""
  for name, x, remedy in (
    ('labels', labels, 'turn two classes into labels == positive_class'),
    ('weights', weights, 'pass how often each example counts'),
  ):
    kind = x.dtype if hasattr(x, 'dtype') else np.asarray(x).dtype
    real = jnp.floating, jnp.integer, jnp.bool_
    if not any(jnp.issubdtype(kind, each) for each in real):
      raise ValueError(f'{name} must be real numbers, got {kind}; {remedy}.')


def _check_features(features):
  """Raises ValueError unless shape and dtype are valid."""
  shape = features.shape
  if len(shape) != 2 or 0 in shape:
    raise ValueError(
      f'features must be [n, d] with n, d ≥ 1, got {list(shape)}.'
    )
  if not jnp.issubdtype(features.dtype, jnp.floating):
    raise ValueError(
      f'features must be floating, got {features.dtype}; convert them first.'
    )


def _check_rows_of(features, labels, weights):
  """Raises ValueError unless labels and weights are of the rows."""
  shape = features.shape
  for name, x in (('labels', labels), ('weights', weights)):
    if x.shape != shape[:1]:
      raise ValueError(
        f'{name} must be [n] = {list(shape[:1])} to match the rows of '
        f'features, got {list(x.shape)}.'
      )


def make_problem(
  features: Features,
  labels: jax.Array,
  *,
  weights: jax.Array | None = None,
  model: models.Model | None = None,
) -> Problem:
  """Checks data and puts them in the form that the methods take.

  Args:
    features: a_i, [n, d] floating: dense, BCOO or BCSR of JAX, or a sparse
      matrix of scipy. Entries with equal indices are added up. No bias is
      added.
    labels: [n], ±1 or {0, 1}.
    weights: How often each example counts, [n] ≥ 0. A row of weight 0 is
      padding, so that data sets of unequal n run in one program. Default: 1.
    model: The scores f(a_i; θ), such as `two_layer(16, key)`. Default: linear,
      ⟨a_i, θ⟩.

  Returns:
    The problem, in the dtype of features.

  Raises:
    ValueError: If a shape or dtype is invalid; for concrete (not traced)
      values, if a label is invalid, a weight is negative, all are 0, a row is
      not finite, or one of positive weight is zero; or if it is not a model.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt import logistic
    >>> features = jnp.array([[3.0, 4.0], [0.0, 1.0], [0.0, 0.0]])
    >>> problem = logistic.make_problem(
    ...   features, jnp.array([0, 1, 0]), weights=jnp.array([1.0, 2.0, 0.0]))
    >>> print(problem.signs, problem.radius)
    [-1.  1. -1.] 5.0
  """
  models.check_model(model)
  features = _features(features)
  _check_features(features)
  if weights is None:
    weights = jnp.ones(features.shape[:1], features.dtype)
  _check_numbers(labels, weights)
  labels = jnp.asarray(labels)
  weights = jnp.asarray(weights)
  _check_rows_of(features, labels, weights)
  counted = weights > 0
  if checks.is_concrete(labels, weights):
    residuals.signs(np.asarray(labels)[np.asarray(counted)], features.dtype)
  squares = squared_norms(features)
  if checks.is_concrete(squares, weights):
    _check_rows(np.asarray(squares), np.asarray(weights))
  return Problem(
    features=features,
    signs=jnp.where(labels > 0, 1, -1).astype(features.dtype),
    weights=weights.astype(features.dtype),
    radius=jnp.sqrt(jnp.max(jnp.where(counted, squares, 0))),
    model=model,
  )


def _check_rows(squares, weights):
  """Raises ValueError for an invalid weight or row of positive weight."""
  if not (np.all(np.isfinite(weights)) and np.all(weights >= 0)):
    row = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))[0]
    raise ValueError(
      'weights must be finite and at least 0, got '
      f'{weights[row]} for row {row}.'
    )
  if not np.any(weights > 0):
    raise ValueError('all weights are 0; at least one must be positive.')
  for what, bad, remedy in (
    (
      'zero, or its squared norm underflows',
      (squares == 0) & (weights > 0),
      'drop it or set its weight to 0',
    ),
    # 0 times it would be NaN.
    (
      'not finite, or its squared norm overflows',
      ~np.isfinite(squares),
      'drop it, even if its weight is 0',
    ),
  ):
    rows = np.flatnonzero(bad)
    if len(rows):
      raise ValueError(
        f'row {rows[0]} of features is {what} ({len(rows)} such rows); '
        f'{remedy}.'
      )


def total_weight(problem: Problem) -> jax.Array:
  """n = Σ w_i, at least in float32. []."""
  dtype = arithmetic.accumulator_dtype(problem.weights)
  return jnp.sum(problem.weights, dtype=dtype)


def mean_weights(problem: Problem) -> jax.Array:
  """w_i / n. [n]."""
  return (problem.weights / total_weight(problem)).astype(problem.weights.dtype)


def _scores(problem, params):
  """⟨a_i, θ⟩ or f(a_i; θ). [n].

  Rows of features are fastest for one θ; `columns`, if the problem has them,
  for many θ under `jax.vmap`.
  """
  if problem.model is not None:
    return problem.model.scores(params, problem.features)
  if problem.columns is None:
    return problem.features @ params
  return params @ problem.columns


def margins(problem: Problem, params: jax.Array) -> jax.Array:
  """m_i = y_i f(a_i; θ), ⟨A_i, θ⟩ for linear scores. [n]."""
  return problem.signs * _scores(problem, params)


def check_linear(problem: Problem) -> None:
  """Raises ValueError unless the scores are linear."""
  if problem.model is not None:
    raise ValueError(
      'this method is made for linear scores ⟨a_i, θ⟩ and takes no model; '
      'gradient descent and the perceptrons take one.'
    )


def combination(problem: Problem, coefficients: jax.Array) -> jax.Array:
  """Σ c_i A_i for c [n], of linear scores. [d]."""
  check_linear(problem)
  return (problem.signs * coefficients) @ problem.features


def pull(
  problem: Problem, params: jax.Array, coefficients: jax.Array
) -> jax.Array:
  """Σ c_i ∇m_i at θ, Σ c_i A_i for linear scores. Like θ."""
  if problem.model is None:
    return combination(problem, coefficients)
  _, transposed = jax.vjp(lambda params: margins(problem, params), params)
  return transposed(coefficients)[0]


def softmin(problem: Problem, margins: jax.Array) -> jax.Array:
  """w_i e^{−m_i} / Σ w_j e^{−m_j}. [n]."""
  return jax.nn.softmax(jnp.log(problem.weights) - margins)


def separates(problem: Problem, margins: jax.Array) -> jax.Array:
  """Whether m_i > 0 for all examples of positive weight. [] bool."""
  return jnp.all((margins > 0) | (problem.weights == 0))


def min_margin(problem: Problem, margins: jax.Array) -> jax.Array:
  """min m_i over the examples of positive weight. []."""
  return jnp.min(jnp.where(problem.weights > 0, margins, jnp.inf))
