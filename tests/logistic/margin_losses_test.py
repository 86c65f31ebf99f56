"""A loss that is not that of its entropy, or a bound that it breaks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from methods_test import digits, iterates
from scipy import optimize

from adaopt import logistic
from adaopt.logistic import losses


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


def tsallis_entropy(p, q):
  return (p**q + (1 - p) ** q - 1) / (q * (q - 1))


def renyi_entropy(p, q):
  return np.log(p**q + (1 - p) ** q) / (q - 1)


FAMILIES = {
  'tsallis': (losses.tsallis, tsallis_entropy, (1.2, 1.5, 2.0, 3.0)),
  'renyi': (losses.renyi, renyi_entropy, (1.2, 1.5, 2.0)),
}
CASES = [
  (family, q) for family, (*_, orders) in FAMILIES.items() for q in orders
]
MARGINS = np.linspace(-8, 8, 65)


@pytest.mark.slow
@pytest.mark.parametrize(('family', 'q'), CASES)
def test_the_loss_is_the_largest_over_the_probabilities(family, q):
  make, entropy, _ = FAMILIES[family]
  loss = make(q)
  values = loss.value(jnp.asarray(MARGINS))
  residuals = loss.residual(jnp.asarray(MARGINS))
  for m, value, residual in zip(MARGINS, values, residuals, strict=True):
    best = optimize.minimize_scalar(
      lambda p, m=m: m * p + entropy(p, q),
      bounds=(0, 1),
      method='bounded',
      options=dict(xatol=1e-12),
    )
    # Flat at the best p: its value is known to 1e-10, p itself to 1e-5.
    np.testing.assert_allclose(value, max(-best.fun, 0), atol=1e-9)
    np.testing.assert_allclose(residual, best.x, atol=1e-5)


EVERY = {
  'logistic': losses.logistic(),
  'exponential': losses.exponential(),
  'hinge': losses.hinge(),
  'squared_hinge': losses.squared_hinge(),
  **{f'{family}({q})': FAMILIES[family][0](q) for family, q in CASES},
}


@pytest.mark.parametrize('name', EVERY)
def test_the_residual_is_minus_the_slope(name):
  loss, h = EVERY[name], 1e-5
  m = MARGINS + 0.0123  # off the kinks
  slopes = (loss.value(m + h) - loss.value(m - h)) / (2 * h)
  # Curvatures reach e^8, and 1/√h at the end of Rényi's.
  np.testing.assert_allclose(loss.residual(m), -slopes, rtol=1e-6, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize('name', EVERY)
def test_nothing_pulls_beyond_the_separation(name):
  loss = EVERY[name]
  if loss.separation == np.inf:
    assert np.all(loss.residual(jnp.array([1.0, 30.0])) > 0)
    return
  beyond = loss.separation + jnp.array([0.0, 1e-9, 1.0, 1e6, jnp.inf])
  np.testing.assert_array_equal(loss.value(beyond), 0)
  np.testing.assert_array_equal(loss.residual(beyond), 0)
  assert loss.residual(jnp.array(loss.separation - 0.01)) > 0


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(st.floats(-1e4, 1e4), st.sampled_from(CASES))
def test_symmetric_losses(m, case):
  family, q = case
  loss = FAMILIES[family][0](q)
  m = jnp.asarray(m)
  # The label is the only difference between both sides: ℓ(m) − ℓ(−m) = −m.
  np.testing.assert_allclose(
    loss.value(m) - loss.value(-m), -m, rtol=1e-12, atol=1e-12
  )
  total = loss.residual(m) + loss.residual(-m)
  np.testing.assert_allclose(total, 1, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(('family', 'q'), CASES)
def test_the_derivative_of_the_residual_is_that_of_the_entropy(family, q):
  loss = FAMILIES[family][0](q)
  m, h = jnp.linspace(-0.9, 0.9, 7) * min(loss.separation, 3), 1e-6
  found = jax.vmap(jax.grad(loss.residual))(m)
  slopes = (loss.residual(m + h) - loss.residual(m - h)) / (2 * h)
  np.testing.assert_allclose(found, slopes, rtol=1e-5, atol=1e-8)
  assert np.all(np.isfinite(jax.vmap(jax.grad(loss.value))(m)))


def test_a_margin_that_is_nan_stays_nan():
  assert np.isnan(losses.tsallis(2.0).residual(jnp.array(np.nan)))
  assert np.isnan(losses.renyi(2.0).value(jnp.array(np.nan)))


def test_small_orders_tend_to_the_logistic_loss():
  m = jnp.linspace(-4, 4, 9)
  for make in (losses.tsallis, losses.renyi):
    found = make(1.0001).value(m)
    np.testing.assert_allclose(found, losses.logistic().value(m), atol=1e-3)


def test_float32_is_kept():
  loss = losses.tsallis(1.5)
  m = jnp.array([-1.0, 0.5], jnp.float32)
  assert loss.value(m).dtype == loss.residual(m).dtype == jnp.float32


@pytest.mark.parametrize('step_size', [0.1, 10.0, 1e6])
@pytest.mark.parametrize('family', FAMILIES)
def test_any_step_size_solves_within_the_bound(family, step_size):
  features, labels = digits(0, 1)
  loss = FAMILIES[family][0](2.0)
  separation = logistic.max_margin(features, labels)
  found = logistic.solve(
    logistic.gd(loss, step_size), features, labels, max_steps=10_000
  )
  assert found.solved
  assert found.iterations <= logistic.bounds.gd(
    *separation[:3], step_size=step_size, separation=loss.separation
  )


def test_lr_gd_is_gd_on_the_logistic_loss():
  problem = logistic.make_problem(*digits(0, 1))
  found = iterates(logistic.gd(losses.logistic(), 2.0), problem, 10)[0]
  np.testing.assert_array_equal(
    found, iterates(logistic.lr_gd(2.0), problem, 10)[0]
  )


def test_a_schedule_is_a_step_size_for_each_iteration():
  problem = logistic.make_problem(*digits(0, 1))
  sizes = jnp.array([2.0, 5.0, 1.0])
  method = logistic.lr_gd(lambda count: sizes[count])
  assert not method.autonomous
  state = method.init(problem)
  for size in sizes:
    expected = logistic.lr_gd(size).step(state, problem)
    state = method.step(state, problem)
    np.testing.assert_array_equal(state.params, expected.params)
