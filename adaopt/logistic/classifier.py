r"""A linear classifier for scikit-learn, trained by large steps.

It is the one class of the toolkit with behaviour: scikit-learn's protocol is
one of classes. scikit-learn is optional, so this module is imported by its own
name.

With an intercept, dense features are centred and a constant feature is added;
features are then divided by R = max ‖a_i‖, so that a step size means the same
at any scale: the bound of `normalized_lr_gd` is R²/μ² (1 + 2 log(2n − 1) / γ).
Sparse features would not remain sparse if they were centred.
"""
# ruff: noqa: N803, N806

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
import numpy as np
from jax.experimental import sparse

from adaopt._common import checks, functions
from adaopt.logistic import descent, hyperplanes, methods
from adaopt.logistic import problem as problems

try:
  import scipy.sparse
  from sklearn import base, exceptions, preprocessing
  from sklearn.utils import class_weight as class_weights
  from sklearn.utils import extmath, multiclass, validation
except ImportError as error:
  raise ImportError(
    'adaopt.logistic.classifier needs scikit-learn: pip install scikit-learn.'
  ) from error


class _Scaled(NamedTuple):
  """Features for a method."""

  features: problems.Features  # (a_i − ā) / R and CONSTANT, [n, d + 1]
  center: np.ndarray  # ā, [d]; 0 for sparse features or without intercept
  radius: float  # R = max ‖a_i − ā‖


# A larger one makes the intercept oscillate, a smaller one makes it slow.
CONSTANT = 0.3


def _scaled(X, weights, fit_intercept):
  """Features with a constant one, if there is an intercept."""
  is_sparse = scipy.sparse.issparse(X)
  center = np.zeros(X.shape[1], X.dtype)
  if fit_intercept and not is_sparse:
    center = np.average(X, axis=0, weights=weights).astype(X.dtype)
    X = X - center
  radius = extmath.row_norms(X)[weights > 0].max() or 1
  if not np.isfinite(radius):
    raise ValueError('the norm of a row of X overflows; scale the features.')
  constant = np.full((X.shape[0], int(fit_intercept)), CONSTANT, X.dtype)
  if not is_sparse:
    return _Scaled(np.hstack([X / radius, constant]), center, radius)
  features = scipy.sparse.hstack([X / radius, constant], format='csr')
  features.sum_duplicates()
  rows, columns = features.nonzero()
  indices = np.column_stack([rows, columns])
  features = sparse.BCOO(
    (features.data, indices.astype(np.int32)),
    shape=features.shape,
    indices_sorted=True,
    unique_indices=True,
  )
  return _Scaled(features, center, radius)


class LargeStepClassifier(base.ClassifierMixin, base.BaseEstimator):
  r"""A linear classifier trained by large steps, for scikit-learn.

  Stops as soon as a hyperplane separates the classes. If that is not reached,
  it takes the mean of all iterates; the last one of large steps may be far off.
  Of more than two classes, each is separated from the rest, and the largest
  score is predicted.

  `coef_` has norm 1: scores are signed distances to the hyperplane, in the unit
  of the features. There is no `predict_proba`, since the length of θ is that of
  the steps and says nothing about probabilities; for those, put
  `sklearn.calibration.CalibratedClassifierCV` around the classifier.

  Args:
    method: A function that makes the method of a step size. To be pickled, and
      to compile once for all fits of one shape, it must be that of a module.
    step_size: γ, for features divided by R; None for a method without, such as
      `logistic.perceptron`.
    min_iter: Iterations to make although the classes are separated before; the
      iterate of the largest margin is kept. For methods that maximise it, such
      as `logistic.nesterov` or `logistic.dual_momentum`.
    max_iter: Iterations at most.
    fit_intercept: Whether the hyperplane may miss 0. If not, examples that are
      0 are left out.
    class_weight: None; 'balanced', so that all classes count the same; or
      weights by class. They multiply those of the examples.

  Attributes:
    coef_: [1, d] for two classes, else [classes, d]; each row of norm 1.
    intercept_: [1] or [classes].
    classes_: The labels, sorted.
    n_iter_: Iterations made; the most of any class against the rest.
    converged_: Whether each class is separated from the rest: whether all
      examples of positive weight are on their side of the hyperplane.
    margin_: The least distance to it, negative on the wrong side; the smallest
      of any class against the rest.
    n_features_in_: d.
    feature_names_in_: The names of the columns, if X had names.

  Example:
    >>> from adaopt.logistic.classifier import LargeStepClassifier
    >>> from sklearn.datasets import load_iris
    >>> flowers, species = load_iris(return_X_y=True)
    >>> is_setosa = species == 0
    >>> classifier = LargeStepClassifier().fit(flowers, is_setosa)
    >>> print(classifier.converged_, classifier.score(flowers, is_setosa))
    True 1.0

  References:
    Tyurin, `From Logistic Regression to the Perceptron Algorithm
    <https://arxiv.org/abs/2412.08424>`_, 2025
  """

  def __init__(
    self,
    method: Callable[..., methods.Method] = descent.normalized_lr_gd,
    *,
    step_size: float | None = 30.0,
    min_iter: int = 0,
    max_iter: int = 1000,
    fit_intercept: bool = True,
    class_weight: dict | str | None = None,
  ):
    self.method = method
    self.step_size = step_size
    self.min_iter = min_iter
    self.max_iter = max_iter
    self.fit_intercept = fit_intercept
    self.class_weight = class_weight

  def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
    """Finds the hyperplanes.

    Args:
      X: Features a_i, [n, d]: an array, a data frame or a sparse matrix.
        float32 is computed in float32, all else in float64.
      y: Labels, [n]: strings, integers or booleans.
      sample_weight: How often each example counts, [n] ≥ 0. Default: 1.

    Returns:
      The classifier itself.

    Raises:
      ValueError: If a parameter is invalid, there is one class only, all
        weights are 0, or the norm of a row overflows.
    """
    arguments = self._arguments()
    X, y = validation.validate_data(
      self, X, y, accept_sparse='csr', dtype=[np.float64, np.float32]
    )
    multiclass.check_classification_targets(y)
    encoder = preprocessing.LabelEncoder().fit(y)
    self.classes_ = encoder.classes_
    if len(self.classes_) < 2:
      raise ValueError(
        f'y must hold at least 2 classes, got 1 class: {self.classes_[0]}.'
      )
    weights = self._weights(X, y, sample_weight)
    labels = preprocessing.label_binarize(y, classes=self.classes_).T
    with jax.enable_x64(X.dtype == np.float64):
      scaled = _scaled(X, weights, self.fit_intercept)
      params, separated, counts = jax.device_get(
        hyperplanes.find(
          self.method,
          arguments,
          scaled.features,
          labels,
          weights,
          num_features=X.shape[1],
          min_iter=self.min_iter,
          max_iter=self.max_iter,
        )
      )
    coef, intercept = np.split(params, X.shape[1:], axis=1)
    norms = np.linalg.norm(coef, axis=1, keepdims=True)
    norms[norms == 0] = 1
    self.coef_ = coef / norms
    self.intercept_ = (
      CONSTANT * scaled.radius * np.sum(intercept / norms, axis=1)
      - self.coef_ @ scaled.center
    )
    self.n_iter_ = int(counts.max())
    scores = np.where(labels.T == 1, 1, -1) * self._scores(X)
    margins = scores[weights > 0].min(axis=0)
    self.margin_ = float(margins.min())
    self.converged_ = bool(separated.all())
    if not self.converged_:
      warnings.warn(
        f'{np.sum(~separated)} of {margins.size} hyperplanes do not separate '
        f'their classes after {self.n_iter_} iterations; they are the mean of '
        'all iterates. Unless the classes overlap, increase max_iter.',
        exceptions.ConvergenceWarning,
        stacklevel=2,
      )
    return self

  def decision_function(self, X: Any) -> np.ndarray:
    """Signed distances to the hyperplanes: [n] for two classes, [n, classes].

    Positive for `classes_[1]`, or for the class of the column.
    """
    validation.check_is_fitted(self)
    X = validation.validate_data(
      self, X, accept_sparse='csr', dtype=[np.float64, np.float32], reset=False
    )
    scores = self._scores(X)
    return scores[:, 0] if scores.shape[1] == 1 else scores

  def predict(self, X: Any) -> np.ndarray:
    """The class of the largest score. [n]."""
    scores = self.decision_function(X)
    binary = scores.ndim == 1
    indices = (scores > 0).astype(int) if binary else scores.argmax(axis=1)
    return self.classes_[indices]

  def _arguments(self):
    """The arguments of `method`: a step size, or none; checks parameters."""
    checks.check_callable('that makes a method', method=self.method)
    checks.check_hashable(method=self.method)
    checks.check_integer(0, min_iter=self.min_iter)
    checks.check_integer(1, max_iter=self.max_iter)
    checks.check_flag(fit_intercept=self.fit_intercept)
    arguments = () if self.step_size is None else (self.step_size,)
    if not functions.takes(self.method, *arguments):
      raise ValueError(
        f'{functions.described(self.method)} cannot be called with '
        f'step_size={self.step_size}; pass None to a method that has no step '
        'size, and a number to one that has.'
      )
    methods.check_method(self.method(*arguments), 'method must return')
    return arguments

  def _weights(self, X, y, sample_weight):
    """Weights of examples times those of their classes, not all 0. [n]."""
    weights = validation._check_sample_weight(
      sample_weight, X, dtype=X.dtype, ensure_non_negative=True, copy=True
    )
    counted = weights > 0
    if np.any(counted):
      classes, codes = np.unique(y[counted], return_inverse=True)
      factors = class_weights.compute_class_weight(
        self.class_weight,
        classes=classes,
        y=y[counted],
        # pyrefly: ignore[unexpected-keyword]
        sample_weight=weights[counted],
      )
      weights[counted] *= factors[codes]
    if not self.fit_intercept:  # No hyperplane through 0 has 0 on a side.
      weights[extmath.row_norms(X) == 0] = 0
    valid = np.isfinite(weights) & (weights >= 0)
    if not (np.all(valid) and np.any(weights > 0)):
      raise ValueError(
        'weights of examples, times those of their classes, must be finite, at '
        f'least 0 and not all zero, got {weights}.'
      )
    return weights

  def _scores(self, X):
    """Signed distances, [n, hyperplanes]."""
    products = extmath.safe_sparse_dot(X, self.coef_.T, dense_output=True)
    return products + self.intercept_

  def __sklearn_tags__(self):
    tags = super().__sklearn_tags__()
    tags.input_tags.sparse = True
    return tags
