"""Growing steps under which the loss rises, or falls no sooner than without."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import datasets

from adaopt import logistic


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


def log_sum(kappa, t):
  """The root w of w³/3 + 2w = 0.9 (κt − 1), by numpy."""
  time = max(0.9 * (kappa * t - 1), 0)
  roots = np.roots([1 / 3, 0, 2, -time])
  return roots[np.argmin(abs(roots.imag))].real


@settings(deadline=None, max_examples=20)
@given(st.floats(0.02, 1.0))
def test_every_step_keeps_to_the_bound_that_proves_it_stable(ratio):
  kappa = ratio**2
  gamma = np.asarray(logistic.increasing_steps(ratio, 1.0)(jnp.arange(50_000)))
  assert np.all(np.diff(gamma) >= 0)
  before = np.cumsum(gamma) - gamma
  x = np.maximum(kappa * before, 1)
  bound = (1 + np.log(x) ** 2 / 2) / x  # on L, if κΓ ≥ 1
  loss = np.minimum(bound, math.log(2))
  # The sum of 50 000 terms is exact to 1e-11.
  assert np.all(gamma * loss <= 0.75 * (1 + 1e-9))


@pytest.mark.parametrize('kappa', [1.0, 0.2, 0.003])
@pytest.mark.parametrize('t', [0, 1, 17, 1000, 100_000])
def test_the_schedule_is_its_formula(kappa, t):
  radius = 3.0
  found = logistic.increasing_steps(radius * kappa**0.5, radius)(t)
  w = min(log_sum(kappa, t), 80)
  expected = max(1, 0.9 * math.exp(w) / (2 + w**2)) / radius**2
  np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_steps_stay_finite_for_ever():
  with jax.enable_x64(False):
    schedule = logistic.increasing_steps(1.0, 1.0)
    assert jnp.isfinite(schedule(jnp.array(2**31 - 1)))


@pytest.mark.slow
def test_the_loss_of_digits_falls_at_every_step_and_below_its_bound():
  images, digits = datasets.load_digits(return_X_y=True)
  chosen = np.isin(digits, (0, 1))
  features, labels = images[chosen] / 16, digits[chosen]
  found = logistic.max_margin(features, labels)
  schedule = logistic.increasing_steps(found.margin, found.radius)
  _, trajectory = logistic.record(
    logistic.lr_gd(schedule), features, labels, num_steps=3000
  )
  loss = np.asarray(trajectory.loss)
  assert np.all(np.diff(loss) < 0)
  kappa = float(found.margin / found.radius) ** 2
  for t in (300, 1000, 3000):
    w = log_sum(kappa, t - 1)
    assert loss[t] <= (1 + w**2 / 2) * math.exp(-w)


def test_growing_steps_leave_constant_ones_behind_on_a_hard_set():
  # R²/μ² = 5, and one example of 1000 against all others.
  features = np.array([[0.5, -1.0], [-0.5, -1.0]])
  labels, weights = np.array([1, -1]), np.array([1.0, 999.0])

  def losses(step_size):
    return logistic.record(
      logistic.lr_gd(step_size),
      features,
      labels,
      weights=weights,
      num_steps=4000,
    )[1].loss

  growing = losses(logistic.increasing_steps(0.5, 1.25**0.5))
  assert np.all(np.diff(growing) < 0)
  # The loss of constant steps falls as 1/t: by 4 between t and 4t.
  assert growing[1000] / growing[4000] > 100
  assert growing[4000] < 0.01 * losses(0.8)[4000]


def test_a_margin_beyond_the_radius_is_a_sentence():
  with pytest.raises(ValueError, match='exceeds radius'):
    logistic.increasing_steps(2.0, 1.0)
