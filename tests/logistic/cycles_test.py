"""A cycle that is missed, seen where there is none, or has another period."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaopt import logistic
from adaopt.logistic import methods


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


def rotating(tail, period, autonomous=True):
  """θ = 0, 1, …, tail, …, tail + period − 1, tail, …, and no solution."""

  def move(state, problem):
    following = state.params + 1
    end = following == tail + period
    return jnp.where(end, tail * jnp.ones(1), following), ()

  return methods.make_method(move, autonomous=autonomous)


NEVER = np.array([[1.0], [1.0]]), np.array([1, -1])


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60))
def test_brent_finds_the_period_soon(tail, period):
  found = logistic.solve(rotating(tail, period), *NEVER, max_steps=10_000)
  assert int(found.period) == period
  # The first power of two past both, and once around.
  power = 1
  while power < max(tail, period):
    power *= 2
  assert int(found.iterations) <= power + period


def test_a_method_that_depends_on_time_is_never_in_a_cycle():
  found = logistic.solve(
    rotating(3, 4, autonomous=False), *NEVER, max_steps=200
  )
  assert (int(found.period), int(found.iterations)) == (0, 200)
  for method in (
    logistic.averaged(logistic.perceptron()),
    logistic.sampled(logistic.perceptron(), 2, jax.random.key(0)),
    logistic.lr_gd(lambda count: 1.0 + count),
    logistic.dual_momentum(),
    logistic.nesterov(),
    logistic.smooth_perceptron(),
  ):
    assert not method.autonomous


def by_hand(rows, steps):
  """The first state of the perceptron that returns, and its period."""
  theta, seen = np.zeros(rows.shape[1]), {}
  for t in range(steps):
    if tuple(theta) in seen:
      return seen[tuple(theta)], t - seen[tuple(theta)]
    seen[tuple(theta)] = t
    wrong = [row for row in rows if row @ theta <= 0]
    theta = theta + wrong[0]
  raise AssertionError('no cycle')


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(4))
def test_the_perceptron_cycles_on_integers_that_nothing_separates(seed):
  rng = np.random.default_rng(seed)
  features = rng.integers(-3, 4, size=(6, 2)).astype(float)
  features[np.all(features == 0, 1)] = 1
  labels = np.array([1, -1, 1, -1, 1, -1])
  features[1] = features[0]  # the same example in both classes
  _, period = by_hand(labels[:, None] * features, 100_000)
  for run in (
    logistic.solve(logistic.perceptron(), features, labels, max_steps=100_000),
    jax.tree.map(
      lambda x: x[1],
      logistic.sweep(
        lambda _: logistic.perceptron(),
        jnp.arange(3.0),
        features,
        labels,
        max_steps=100_000,
      ),
    ),
  ):
    assert not run.solved
    assert int(run.period) == period
    assert int(run.iterations) < 100_000


def test_record_reports_the_cycle_and_goes_on():
  found, trajectory = logistic.record(
    logistic.perceptron(), *NEVER, num_steps=40
  )
  assert int(found.period) == 2
  assert trajectory.loss.shape == (41,)
  np.testing.assert_array_equal(trajectory.loss[10:30], trajectory.loss[12:32])


def test_large_steps_on_data_that_nothing_separates_can_cycle():
  # Many small examples of one class, a large one of the other.
  features, labels = np.array([[1.0], [6.0]]), np.array([1, -1])
  weights = np.array([15.0, 1.0])
  # The minimiser of the mean loss and its curvature there, by bisection.
  low, high = 0.0, 3.0
  for _ in range(80):
    theta = (low + high) / 2
    slope = -15 / (1 + np.exp(theta)) + 6 / (1 + np.exp(-6 * theta))
    low, high = (low, theta) if slope > 0 else (theta, high)
  p, q = 1 / (1 + np.exp(theta)), 1 / (1 + np.exp(-6 * theta))
  curvature = (15 * p * (1 - p) + 36 * q * (1 - q)) / 16
  outcomes = {
    share: logistic.settle(
      logistic.lr_gd(share * 2 / curvature),
      features,
      labels,
      weights=weights,
      tolerance=1e-12,
      max_steps=100_000,
    )
    for share in (0.5, 1.05)
  }
  assert outcomes[0.5].converged
  np.testing.assert_allclose(outcomes[0.5].params, theta, atol=1e-10)
  # Beyond 2 / curvature the minimiser repels.
  assert not outcomes[1.05].converged
  assert int(outcomes[1.05].period) == 2
