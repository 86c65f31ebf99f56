"""A classifier that breaks a promise of scikit-learn's, or one of its own."""

import importlib
import pickle
import sys

import jax
import numpy as np
import pytest
import scipy.sparse
from sklearn import base, datasets, exceptions, linear_model
from sklearn.utils import estimator_checks

from adaopt import logistic
from adaopt.logistic import hyperplanes
from adaopt.logistic.classifier import LargeStepClassifier

overlapping = pytest.mark.filterwarnings(
  'ignore::sklearn.exceptions.ConvergenceWarning'
)


@pytest.mark.slow
@overlapping
@estimator_checks.parametrize_with_checks([LargeStepClassifier()])
def test_it_is_an_estimator_of_scikit_learn(estimator, check):
  check(estimator)


def make_separable(dtype=np.float64, offset=2.0):
  """Two classes at a distance of at least 1 from 0.6 x_0 + 0.8 x_1 = offset."""
  rng = np.random.default_rng(0)
  normal = np.array([0.6, 0.8, 0])
  features = rng.normal(size=[40, 3]) + offset * normal
  distances = features @ normal - offset
  labels = np.where(distances > 0, 'far', 'near')
  features += np.sign(distances)[:, None] * normal
  return features.astype(dtype), labels


def distances(fitted, features, labels):
  """The definition of a margin, in float64."""
  scores = features.astype(np.float64) @ fitted.coef_[0] + fitted.intercept_[0]
  signs = np.where(labels == fitted.classes_[1], 1, -1)
  return signs * scores / np.linalg.norm(fitted.coef_[0])


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_two_classes_are_separated_in_their_dtype(dtype):
  features, labels = make_separable(dtype)
  fitted = LargeStepClassifier().fit(features, labels)
  assert fitted.converged_
  assert fitted.score(features, labels) == 1
  assert fitted.classes_.tolist() == ['far', 'near']
  assert fitted.coef_.dtype == fitted.intercept_.dtype == dtype
  assert fitted.decision_function(features).dtype == dtype
  assert fitted.n_iter_ < fitted.max_iter
  np.testing.assert_allclose(
    fitted.margin_,
    distances(fitted, features, labels).min(),
    rtol=1e-9 if dtype == np.float64 else 1e-3,  # a difference of larger ones
  )
  assert not jax.config.jax_enable_x64


def test_more_iterations_come_near_the_maximal_margin():
  features, labels = make_separable(offset=0.0)
  with jax.enable_x64(True):
    best = jax.device_get(logistic.max_margin(features, labels == 'near'))
  margins = [
    LargeStepClassifier(
      logistic.nesterov,
      step_size=None,
      min_iter=min_iter,
      max_iter=2000,
      fit_intercept=False,
    )
    .fit(features, labels)
    .margin_
    for min_iter in (0, 2000)
  ]
  assert 0 < margins[0] < margins[1] <= best.margin + best.gap
  np.testing.assert_allclose(margins[1], best.margin, rtol=1e-3)


def test_without_an_intercept_it_is_the_method_on_features_over_their_radius():
  features, labels = make_separable(offset=0.0)
  fitted = LargeStepClassifier(step_size=2.0, fit_intercept=False).fit(
    features, labels
  )
  radius = np.linalg.norm(features, axis=1).max()
  with jax.enable_x64(True):
    found = logistic.solve(
      logistic.normalized_lr_gd(2.0),
      features / radius,
      labels == 'near',
      max_steps=1000,
    )
  assert fitted.n_iter_ == found.iterations
  params = np.asarray(found.params)
  expected = params / np.linalg.norm(params)
  np.testing.assert_allclose(fitted.coef_[0], expected, rtol=1e-9)


def test_a_shift_and_a_scale_of_the_features_change_nothing():
  features, labels = make_separable()
  fitted = LargeStepClassifier().fit(features, labels)
  moved = LargeStepClassifier().fit(1e3 * features - [5, 0, 1e4], labels)
  assert moved.n_iter_ == fitted.n_iter_
  np.testing.assert_allclose(moved.coef_, fitted.coef_, rtol=1e-6)
  np.testing.assert_allclose(moved.margin_, 1e3 * fitted.margin_, rtol=1e-6)


@overlapping
def test_each_class_is_held_against_the_rest():
  flowers, species = datasets.load_iris(return_X_y=True)
  species = np.array(['setosa', 'versicolor', 'virginica'])[species]
  fitted = LargeStepClassifier(max_iter=100).fit(flowers, species)
  assert fitted.coef_.shape == (3, 4)
  assert not fitted.converged_  # versicolor lies between the others
  assert fitted.margin_ < 0
  assert fitted.n_iter_ == 100
  assert fitted.score(flowers, species) > 0.8
  for label, coef, intercept in zip(
    fitted.classes_, fitted.coef_, fitted.intercept_, strict=True
  ):
    alone = LargeStepClassifier(max_iter=100).fit(flowers, species == label)
    # Products with a matrix and with a vector round differently.
    np.testing.assert_allclose(alone.coef_[0], coef, rtol=1e-6)
    np.testing.assert_allclose(alone.intercept_[0], intercept, rtol=1e-6)


def test_where_classes_overlap_it_is_the_mean_of_the_iterates():
  features = np.array([[1.0, 2.0], [2.0, -1.0], [1.5, 3.0], [1.0, 2.0]])
  labels = np.array([0, 1, 1, 1])
  classifier = LargeStepClassifier(
    logistic.normalized_batch_perceptron,
    step_size=None,
    max_iter=7,
    fit_intercept=False,
  )
  with pytest.warns(exceptions.ConvergenceWarning, match='1 of 1 hyperplanes'):
    fitted = classifier.fit(features, labels)
  theta, total = np.zeros(2), np.zeros(2)
  rows = np.where(labels == 1, 1, -1)[:, None] * features
  for _ in range(7):
    theta = theta + rows[rows @ theta <= 0].mean(axis=0)
    total += theta
  np.testing.assert_allclose(
    fitted.coef_[0], total / np.linalg.norm(total), rtol=1e-12
  )
  assert fitted.margin_ < 0


def test_sparse_features_are_those_written_out():
  features, labels = make_separable(offset=0.0)
  features[np.abs(features) < 0.3] = 0
  classifier = LargeStepClassifier(fit_intercept=False, max_iter=5000)
  dense = base.clone(classifier).fit(features, labels)
  for kind in (scipy.sparse.csr_array, scipy.sparse.coo_matrix):
    fitted = classifier.fit(kind(features), labels)
    assert fitted.n_iter_ == dense.n_iter_
    np.testing.assert_allclose(fitted.coef_, dense.coef_, rtol=1e-9)
    np.testing.assert_allclose(
      fitted.decision_function(kind(features)),
      dense.decision_function(features),
      rtol=1e-9,
      atol=1e-9,
    )
  with_intercept = LargeStepClassifier().fit(kind(features), labels)
  assert with_intercept.converged_


def test_data_frames_give_names_to_the_features():
  pandas = pytest.importorskip('pandas')
  features, labels = make_separable()
  frame = pandas.DataFrame(features, columns=['a', 'b', 'c'])
  fitted = LargeStepClassifier().fit(frame, pandas.Series(labels))
  assert fitted.feature_names_in_.tolist() == ['a', 'b', 'c']
  assert fitted.score(frame, labels) == 1


@overlapping
def test_weights_of_classes_multiply_those_of_examples():
  features, labels = make_separable()
  labels[::5] = 'far'  # which makes them overlap
  weights = 1.0 + np.arange(40) % 3
  fit = lambda class_weight, weights: (
    LargeStepClassifier(max_iter=50, class_weight=class_weight)
    .fit(features, labels, sample_weight=weights)
    .coef_
  )
  by_hand = weights * np.where(labels == 'far', 1, 7)
  np.testing.assert_allclose(
    fit({'far': 1, 'near': 7}, weights), fit(None, by_hand), rtol=1e-9
  )
  totals = {x: weights[labels == x].sum() for x in ('far', 'near')}
  balanced = weights / np.vectorize(totals.get)(labels)
  np.testing.assert_allclose(
    fit('balanced', weights), fit(None, balanced), rtol=1e-9
  )


def test_examples_at_0_are_left_out_without_an_intercept():
  features, labels = make_separable(offset=0.0)
  fitted = LargeStepClassifier(fit_intercept=False).fit(features, labels)
  more = LargeStepClassifier(fit_intercept=False).fit(
    np.vstack([np.zeros([2, 3]), features]), ['far', 'near', *labels]
  )
  assert more.converged_
  np.testing.assert_allclose(more.coef_, fitted.coef_, rtol=1e-9)


def test_one_class_that_counts_is_on_one_side():
  features, labels = make_separable()
  fitted = LargeStepClassifier().fit(
    features, labels, sample_weight=labels == 'far'
  )
  assert set(fitted.predict(features)) == {'far'}
  assert fitted.converged_


def test_fits_of_one_shape_compile_once():
  features, labels = make_separable()
  classifier = LargeStepClassifier(max_iter=900, step_size=3.0)
  classifier.fit(features, labels)
  programs = hyperplanes.find._cache_size()
  for step_size, min_iter in ((3.0, 0), (5.0, 0), (7.0, 3)):
    classifier.set_params(step_size=step_size, min_iter=min_iter)
    base.clone(classifier).fit(features[::-1], labels[::-1])
  assert hyperplanes.find._cache_size() == programs


def test_parameters_survive_pickling():
  features, labels = make_separable()
  classifier = LargeStepClassifier(logistic.lr_gd, step_size=100.0)
  fitted = pickle.loads(pickle.dumps(classifier.fit(features, labels)))
  assert fitted.get_params() == classifier.get_params()
  np.testing.assert_array_equal(fitted.coef_, classifier.coef_)
  assert fitted.method is logistic.lr_gd
  assert 'step_size=100.0' in repr(fitted)


@pytest.mark.parametrize(
  ('wrong', 'message'),
  [
    (dict(method='lr_gd'), 'method must be a function that makes a method'),
    (dict(method=logistic.lr_gd(1.0)), 'method must be a function'),
    (dict(method=logistic.nesterov), r'nesterov\(\) -> .* cannot be called'),
    (dict(step_size=None), r'normalized_lr_gd\(.*step_size=None; pass None to'),
    (dict(method=abs), 'method must return a Method'),
    (dict(step_size=-1.0), 'step_size must be positive and finite, got -1'),
    (dict(max_iter=0), 'max_iter must be an integer of at least 1'),
    (dict(min_iter=0.5), 'min_iter must be an integer of at least 0'),
    (dict(fit_intercept='no'), "fit_intercept must be True or False, got 'no'"),
    (dict(class_weight={'far': -1}), 'must be finite, at least 0 and not all'),
    (dict(class_weight={'far': 0, 'near': 0}), 'at least 0 and not all zero'),
  ],
)
def test_a_wrong_parameter_is_a_sentence(wrong, message):
  with pytest.raises(ValueError, match=message):
    LargeStepClassifier(**wrong).fit(*make_separable())


def test_wrong_data_are_a_sentence():
  features, labels = make_separable()
  with pytest.raises(ValueError, match='at least 2 classes, got 1 class: far'):
    LargeStepClassifier().fit(features, ['far'] * 40)
  with pytest.raises(ValueError, match='overflows; scale the features'):
    LargeStepClassifier().fit(1e200 * features, labels)


def test_without_scikit_learn_it_says_what_it_needs(monkeypatch):
  name = 'adaopt.logistic.classifier'
  monkeypatch.delitem(sys.modules, name)
  monkeypatch.setitem(sys.modules, 'sklearn', None)
  with pytest.raises(ImportError, match='pip install scikit-learn'):
    importlib.import_module(name)


def test_separable_digits_are_separated_as_by_logistic_regression():
  images, digits = datasets.load_digits(n_class=2, return_X_y=True)
  for classifier in (
    LargeStepClassifier(),
    linear_model.LogisticRegression(C=1e8),
  ):
    assert classifier.fit(images, digits).score(images, digits) == 1
