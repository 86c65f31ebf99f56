"""A penalised minimum that is not one, or a batch that is not a sample."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from methods_test import digits, iterates
from scipy import optimize

from adaopt import logistic
from adaopt.logistic import sampling


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


def objective(rows, weights, penalty):
  """The objective and its gradient in numpy."""

  def at(theta):
    m = rows @ theta
    value = weights @ np.logaddexp(0, -m) / weights.sum()
    pull = (weights / (1 + np.exp(m))) @ rows / weights.sum()
    return value + penalty / 2 * theta @ theta, penalty * theta - pull

  return at


def test_it_settles_at_the_minimiser():
  features, labels = digits(8, 9)
  weights = np.linspace(0, 2, len(labels))
  expected = optimize.minimize(
    objective(labels[:, None] * features, weights, 0.01),
    np.zeros(64),
    jac=True,
    method='L-BFGS-B',
    options=dict(gtol=1e-12, ftol=0, maxiter=10_000),
  ).x
  for step_size in (0.2, 1.0):
    found = logistic.settle(
      logistic.regularized_lr_gd(step_size, 0.01),
      features,
      labels,
      weights=weights,
      tolerance=1e-10,
      max_steps=100_000,
    )
    assert found.converged
    assert found.step_norm <= 1e-10
    # Within the gradient over the strong convexity: L-BFGS stops at 1e-8 or so.
    np.testing.assert_allclose(found.params, expected, atol=1e-5)


def test_a_large_step_saves_iterations_though_the_objective_rises():
  features, labels = digits(8, 9)
  penalty = 1e-3
  problem = logistic.make_problem(features, labels)
  curvature = np.linalg.norm(features, 2) ** 2 / (4 * len(labels)) + penalty
  counts, rises = {}, {}
  at = objective(labels[:, None] * features, np.ones(len(labels)), penalty)
  for name, step_size in {'small': 1 / curvature, 'large': 5.4}.items():
    method = logistic.regularized_lr_gd(step_size, penalty)
    values = [at(theta)[0] for theta in iterates(method, problem, 50)[0]]
    rises[name] = np.any(np.diff(values) > 0)
    found = logistic.settle(
      method,
      features,
      labels,
      tolerance=1e-6 * step_size,  # a gradient of norm 1e-6
      max_steps=100_000,
    )
    assert found.converged
    counts[name] = int(found.iterations)
  assert rises == {'small': False, 'large': True}
  assert counts['large'] < counts['small'] / 10


def test_too_large_a_step_is_a_sentence():
  with pytest.raises(ValueError, match=r'below 2, got 300.0 · 0.01 = 3.0'):
    logistic.regularized_lr_gd(300.0, 0.01)


def test_an_unsettled_run_ends_at_max_steps():
  found = logistic.settle(
    logistic.lr_gd(1.0),
    np.array([[1.0]]),
    np.array([1]),
    tolerance=1e-9,
    max_steps=17,
  )
  assert not found.converged
  assert (int(found.iterations), int(found.period)) == (17, 0)


def test_draws_are_in_proportion_to_the_weights():
  weights = jnp.array([0.0, 1.0, 3.0, 0.0, 4.0, 0.0])
  counts = sampling.draw(jax.random.key(0), weights, 80_000)
  assert counts.sum() == 80_000
  np.testing.assert_array_equal(counts[weights == 0], 0)
  # Deviations of a share are below √(1/4 / 80000) = 0.0018; five of them.
  np.testing.assert_allclose(counts / 80_000, weights / 8, atol=0.009)


def test_a_step_is_that_of_the_method_on_the_drawn_copies():
  features, labels = digits(0, 1)
  problem = logistic.make_problem(features, labels)
  key = jax.random.key(3)
  method = logistic.sampled(logistic.lr_gd(2.0), 16, key)
  state = method.init(problem)
  for _ in range(3):
    now, key = jax.random.split(key)
    counts = sampling.draw(now, problem.weights, 16)
    batch = np.repeat(np.arange(len(labels)), np.asarray(counts).astype(int))
    rows = labels[batch, None] * features[batch]
    theta = np.asarray(state.params)
    expected = theta + 2 / 16 * (1 / (1 + np.exp(rows @ theta))) @ rows
    state = method.step(state, problem)
    np.testing.assert_allclose(state.params, expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(
      state.margins,
      labels * (features @ np.asarray(state.params)),
      atol=1e-10,
    )


@pytest.mark.slow
@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_narrow_features_count_in_wide_numbers(dtype):
  counts = sampling.draw(jax.random.key(0), jnp.ones(1000, dtype), 2000)
  # Each is left out with probability e^{−2}; 5 deviations of 11.
  assert abs(np.sum(counts > 0) - 865) < 55
  problem = logistic.make_problem(
    jnp.ones([70_000, 1], dtype), jnp.ones(70_000, int)
  )
  state = logistic.lr_gd(4.0).init(problem)
  moved = logistic.lr_gd(4.0).step(state, problem)
  # 70 000 equal pulls of 1/2: 2, but for sums in the narrow dtype.
  np.testing.assert_allclose(float(moved.params[0]), 2, rtol=0.05)


def test_a_row_that_is_not_finite_is_a_sentence_whatever_its_weight():
  features = np.array([[1.0], [np.nan]])
  with pytest.raises(ValueError, match='drop it, even if its weight is 0'):
    logistic.make_problem(
      features, np.array([1, -1]), weights=np.array([1.0, 0.0])
    )
