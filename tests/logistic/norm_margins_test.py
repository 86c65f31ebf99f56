"""A margin in some norm without its certificate.

Only numpy checks it: any θ gives a lower bound on the maximal margin, and any
convex combination an upper bound, by the dual norm.
"""

import hypothesis
import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import logistic_oracles as oracles
import numpy as np
import pytest
import scipy.sparse
from hypothesis import strategies as st
from jax.experimental import sparse
from methods_test import digits
from multiclass_test import make_data

from adaopt import logistic
from adaopt.logistic import multiclass

DUAL = {1: np.inf, np.inf: 1, 2: 2}
OF_TWO = {1: logistic.max_margin_l1, np.inf: logistic.max_margin_linf}
every_order = pytest.mark.parametrize('order', OF_TWO)


def assert_certified(found, rows, order, rtol=2e-6):
  """The maximal margin of the rows lies between two numbers that agree."""
  theta, q = found.params.ravel(), found.coefficients
  np.testing.assert_allclose(np.linalg.norm(theta, order), 1, rtol=1e-9)
  assert np.all(q >= 0)
  np.testing.assert_allclose(np.sum(q), 1, rtol=1e-9)
  lower = np.min(rows @ theta)
  upper = np.linalg.norm(rows.T @ q.ravel(), DUAL[order])
  np.testing.assert_allclose(found.margin, lower, rtol=1e-9)
  np.testing.assert_allclose(found.gap, upper - lower, atol=1e-9 * upper)
  assert upper - lower <= rtol * upper


def of_pairs(coefficients, labels):
  """q_ic at c ≠ y_i, in the order of the rows."""
  k = coefficients.shape[1]
  return coefficients[np.arange(k)[None, :] != labels[:, None]]


@every_order
def test_two_digits(order):
  features, labels = digits(3, 9)
  rows = labels[:, None] * features
  found = OF_TWO[order](features, labels)
  assert_certified(found, rows, order)
  # More rows than to start with, and few of them on the margin.
  assert len(rows) > 300
  assert 10 < np.sum(found.coefficients > 0) < 40
  other = OF_TWO[order](scipy.sparse.csr_array(features), labels)
  assert_certified(other, rows, order)
  np.testing.assert_allclose(other.margin, found.margin, rtol=1e-5)


SMALL = hnp.arrays(np.float64, (6, 3), elements=st.integers(-3, 3))


@every_order
@hypothesis.given(
  features=SMALL,
  direction=hnp.arrays(np.float64, 3, elements=st.integers(-3, 3)),
)
@hypothesis.settings(max_examples=20, deadline=None, derandomize=True)
def test_data_of_integers(order, features, direction):
  products = features @ direction
  hypothesis.assume(np.any(products != 0))
  labels = np.where(products > 0, 1, -1)
  counts = products != 0  # What lies on its plane becomes padding.
  found = OF_TWO[order](features, labels, weights=counts)
  rows = (labels[:, None] * features)[counts]
  kept = found.coefficients[counts]
  assert np.sum(kept) == np.sum(found.coefficients)
  assert_certified(found._replace(coefficients=kept), rows, order)


@every_order
@pytest.mark.parametrize('scale', [1e-9, 1e9])
def test_the_unit_of_the_features_does_not_matter(order, scale):
  features, labels = digits(0, 1)
  found = OF_TWO[order](scale * features, labels)
  assert_certified(found, scale * labels[:, None] * features, order)


def test_margins_by_hand():
  # (3, 1) and (1, 3): θ = (1, 1) in the cube, and (1/2, 1/2) or the like in the
  # cross-polytope, where q = (1/2, 1/2) shows that 2 is the most.
  features, labels = np.array([[3.0, 1.0], [-1.0, -3.0]]), np.array([1, -1])
  cube = logistic.max_margin_linf(features, labels)
  np.testing.assert_allclose([cube.margin, *cube.params], [4, 1, 1])
  cross = logistic.max_margin_l1(features, labels)
  np.testing.assert_allclose([cross.margin, *cross.params], [2, 0.5, 0.5])
  np.testing.assert_allclose(cross.coefficients, 0.5)


@every_order
@pytest.mark.parametrize(
  ('features', 'labels'),
  [
    (np.array([[1.0, 0], [1, 0]]), [1, -1]),
    (np.array([[1.0, 0], [-1, 1], [-1, -1]]), [1, 1, 1]),
    (np.array([[1.0], [2]]), [-1, 1]),
  ],
)
def test_data_that_nothing_separates_are_refused(order, features, labels):
  with pytest.raises(ValueError, match='no parameters separate the data'):
    OF_TWO[order](features, np.array(labels))


def classes_that_nothing_separates():
  """One example in two classes."""
  return np.array([[1.0, 2], [1, 2], [3, 0]]), np.array([0, 1, 2])


OF_CLASSES = {2: multiclass.max_margin, np.inf: multiclass.max_margin_max}


@pytest.mark.parametrize('seed', [0, 3, 4])
@pytest.mark.parametrize('order', OF_CLASSES)
def test_classes_are_certified_on_their_differences(order, seed):
  features, labels, weights = make_data(seed=seed)
  found = OF_CLASSES[order](features, labels, weights=weights)
  rows = oracles.class_differences(features[:-1], labels[:-1], 3)
  assert np.all(found.coefficients[-1] == 0)
  q = of_pairs(found.coefficients[:-1], labels[:-1])
  assert_certified(found._replace(coefficients=q), rows, order)
  other = OF_CLASSES[order](
    sparse.BCOO.fromdense(jnp.asarray(features, jnp.float32)),
    labels,
    weights=weights,
    num_classes=3,
  )
  # The features are rounded to float32.
  np.testing.assert_allclose(other.margin, found.margin, rtol=1e-5)


@pytest.mark.slow
def test_classes_have_the_margin_of_two_on_their_differences():
  features, labels, weights = make_data()
  rows = oracles.class_differences(features[:-1], labels[:-1], 3)
  ones = np.ones(len(rows))
  with jax.enable_x64(True):
    euclidean = float(logistic.max_margin(rows, ones).margin)
  data = dict(features=features, labels=labels, weights=weights)
  np.testing.assert_allclose(
    multiclass.max_margin(**data).margin, euclidean, rtol=1e-6
  )
  np.testing.assert_allclose(
    multiclass.max_margin_max(**data).margin,
    logistic.max_margin_linf(rows, ones).margin,
    rtol=1e-6,
  )


def test_two_classes_have_a_multiple_of_their_margin():
  features, labels = digits(3, 9)
  classes = (1 - labels) // 2
  with jax.enable_x64(True):
    euclidean = float(logistic.max_margin(features, labels).margin)
  # θ = w_0 − w_1 = 2 w_0; the norm of W is that of θ over √2, or over 2.
  np.testing.assert_allclose(
    multiclass.max_margin(features, classes).margin,
    2**0.5 * euclidean,
    rtol=1e-6,
  )
  np.testing.assert_allclose(
    multiclass.max_margin_max(features, classes).margin,
    2 * logistic.max_margin_linf(features, labels).margin,
    rtol=1e-5,
  )


def test_the_spectral_margin_lies_between_its_bounds():
  features, labels, weights = make_data()
  found = multiclass.max_margin_spectral(
    features, labels, weights=weights, tolerance=0.02
  )
  rows = oracles.class_differences(features[:-1], labels[:-1], 3)
  np.testing.assert_allclose(np.linalg.norm(found.params, 2), 1, rtol=1e-9)
  q = of_pairs(found.coefficients[:-1], labels[:-1])
  np.testing.assert_allclose(np.sum(q), 1, rtol=1e-9)
  lower = np.min(rows @ found.params.ravel())
  upper = np.linalg.norm((q @ rows).reshape(3, 4), 'nuc')
  np.testing.assert_allclose(found.margin, lower, rtol=1e-9)
  np.testing.assert_allclose(found.gap, upper - lower, rtol=1e-6)
  assert 0 < upper - lower < 0.02 * upper
  # The Frobenius norm is the larger one, and at most √2 times as large where
  # the rank is 2: rows of W add up to 0.
  euclidean = multiclass.max_margin(features, labels, weights=weights).margin
  assert euclidean <= upper
  assert lower <= 2**0.5 * euclidean * (1 + 1e-6)


def test_two_classes_have_the_spectral_margin_of_the_frobenius_norm():
  # W = (θ, −θ)/2 has rank 1.
  features, labels = digits(0, 1)
  classes = (1 - labels) // 2
  found = multiclass.max_margin_spectral(features, classes, tolerance=0.05)
  exact = multiclass.max_margin(features, classes).margin
  assert found.margin <= exact <= found.margin + found.gap
  assert found.gap < 0.05 * exact * 1.1


@pytest.mark.parametrize(
  'find', [*OF_CLASSES.values(), multiclass.max_margin_spectral]
)
def test_classes_that_nothing_separates_are_refused(find):
  with pytest.raises(ValueError, match='no parameters separate the data'):
    find(*classes_that_nothing_separates())


@pytest.mark.parametrize(
  'find',
  [*OF_TWO.values(), *OF_CLASSES.values(), multiclass.max_margin_spectral],
)
def test_traced_data_are_refused(find):
  with pytest.raises(ValueError, match=f'{find.__name__} works on the host'):
    jax.jit(lambda x: find(x, np.array([0, 1])).margin)(np.eye(2))
