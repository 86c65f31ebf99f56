"""Progressive rescaling that is not the paper's method, or has not its rate."""

import functools

import jax
import logistic_oracles as oracles
import numpy as np
import pytest
from methods_test import copies, iterates, make_data
from solving_test import HARD, HARD_LABELS

from adaopt import logistic


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


@pytest.mark.slow
@pytest.mark.parametrize('growth', [1.1, 2.0])
@pytest.mark.parametrize('every', [1, 4, 30])
def test_iterates_are_those_of_the_oracle(growth, every):
  features, labels, weights = make_data()
  problem = logistic.make_problem(features, labels, weights=weights)
  method = logistic.progressive_rescaling(0.3, growth=growth, every=every)
  found, margins = iterates(method, problem, 25)
  rows = copies(features, labels, weights)
  expected = oracles.progressive_rescaling(rows, 25, 0.3, growth, every)
  # θ grows up to 2²⁵-fold, and its few roundings of 1e-16 a step with it.
  np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8)
  rows = labels[:, None] * features
  np.testing.assert_allclose(margins, found @ rows.T, rtol=1e-9, atol=1e-9)


def test_norms_are_those_of_the_schedule():
  features, labels, weights = make_data()
  problem = logistic.make_problem(features, labels, weights=weights)
  method = logistic.progressive_rescaling(0.3, growth=1.5, every=5)
  found, _ = iterates(method, problem, 25)
  plain, _ = iterates(logistic.normalized_exponential_gd(0.3), problem, 5)
  np.testing.assert_allclose(found[:5], plain, rtol=1e-14)  # fused anew
  # The data are separated after 5 steps: a step then leaves the ball, and its
  # projection is on the sphere.
  norms = np.linalg.norm(found, axis=1)
  radii = norms[4] * 1.5 ** np.repeat(np.arange(1, 5), 5)
  np.testing.assert_allclose(norms[5:], radii, rtol=1e-14)


WEIGHTS = np.array([1.0, 999.0])
MU = 0.5  # A = (0.5, −1), (0.5, 1): attained by θ = (1, 0)


def gaps(method, steps):
  """μ less the margin of θ_1, …, θ_T on the hard set."""
  _, trajectory = logistic.record(
    method, HARD, HARD_LABELS, weights=WEIGHTS, num_steps=steps
  )
  return np.asarray(MU - trajectory.margin[1:])


def test_the_gap_falls_exponentially_where_both_examples_are_on_the_margin():
  """log gap falls by log(growth) a phase; that of normalised GD, by log t."""
  growth, every = 1.5, 10
  rescaled = gaps(
    logistic.progressive_rescaling(0.8, growth=growth, every=every), 500
  )
  plain = gaps(logistic.normalized_exponential_gd(0.8), 500)
  # Ends of phases, above the rounding of margins of 1e-16 R_k.
  t = np.arange(100, 500, every)
  slope, offset = np.polyfit(t, np.log(rescaled[t - 1]), 1)
  # On the sphere the two margins differ by O(1): m_1 − m_2 = −log 999 at the
  # minimum of the loss, and the gap is log(999) / (2 R_k).
  np.testing.assert_allclose(slope, -np.log(growth) / every, rtol=0.02)
  residual = np.log(rescaled[t - 1]) - slope * t - offset
  assert np.max(np.abs(residual)) < 0.5
  power, _ = np.polyfit(np.log(t), np.log(plain[t - 1]), 1)
  assert -1.1 < power < -0.9  # log 999 / (2 ‖θ‖), and ‖θ‖ ≈ η μ t
  assert rescaled[499] < 1e-6 * plain[499]


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_norms_stay_finite_and_margins_right_after_many_phases(dtype):
  method = logistic.progressive_rescaling(0.5, growth=10.0, every=3)
  record = functools.partial(logistic.record, method, num_steps=400)
  solution, _ = record(HARD.astype(dtype), HARD_LABELS)
  norm = np.linalg.norm(solution.params)
  radius = np.sqrt(1.25)
  np.testing.assert_allclose(
    norm, 0.01 / np.finfo(dtype).eps / radius, rtol=1e-5
  )


def test_data_that_cancel_leave_theta_at_0():
  method = logistic.progressive_rescaling(1.0, every=1)
  features = np.array([[1.0, 2.0], [1.0, 2.0]])
  solution, _ = logistic.record(
    method, features, np.array([1, -1]), num_steps=3
  )
  np.testing.assert_array_equal(solution.params, 0)


@pytest.mark.parametrize('growth', [1.0, 0.5])
def test_a_growth_that_does_not_grow_is_refused(growth):
  with pytest.raises(ValueError, match=r'growth must be above 1, got'):
    logistic.progressive_rescaling(1.0, growth=growth)
