"""A bound on the loss that a run of the method passes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from methods_test import digits

from adaopt import logistic
from adaopt.logistic import risks

STEPS = 3000
STEP_SIZES = (0.1, 10.0, 300.0)


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


def two_examples():
  """R²/μ² = 5, where LR+GD becomes stable within the run."""
  features = np.array([[0.5, -1.0], [-0.5, -1.0]])
  return features, np.array([1, -1])


@pytest.fixture(name='sets', scope='module')
def make_sets():
  """name → features, labels and the arguments of every bound."""
  with jax.enable_x64(True):
    sets = {'two': two_examples(), '0 v 1': digits(0, 1)}
    found = {}
    for name, data in sets.items():
      separation = logistic.max_margin(*data)
      found[name] = (
        data,
        dict(
          n=separation.num_examples,
          radius=separation.radius,
          margin=separation.margin,
        ),
      )
    return found


def losses_of(method, data):
  _, trajectory = logistic.record(method, *data, num_steps=STEPS)
  return np.asarray(trajectory.loss)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['two', '0 v 1'])
def test_lr_gd_keeps_to_its_bounds(sets, name):
  data, geometry = sets[name]
  run = jax.jit(
    jax.vmap(
      lambda step_size: (
        logistic.record(logistic.lr_gd(step_size), *data, num_steps=STEPS)[
          1
        ].loss
      )
    )
  )
  steps = np.arange(1, STEPS + 1)
  for step_size, loss in zip(
    STEP_SIZES, np.asarray(run(jnp.array(STEP_SIZES))), strict=True
  ):
    known = dict(geometry, step_size=step_size)
    means = np.cumsum(loss[:-1]) / steps
    assert np.all(means <= risks.mean_lr_gd(**known, num_steps=steps))
    assert np.all(loss[1:] <= risks.lr_gd(**known, num_steps=steps))
    stable = int(np.ceil(risks.phase_transition(**known)))
    if stable < STEPS:
      assert np.all(np.diff(loss[stable:]) <= 0)


def test_the_bound_of_the_last_iterate_is_met_while_it_says_something(sets):
  _, geometry = sets['two']
  known = dict(geometry, step_size=10.0)
  found = risks.lr_gd(**known, num_steps=np.array([1, STEPS]))
  assert found[0] == np.inf
  # 4 / (γ μ² t) is 5e-4 here; τ takes a part of the steps.
  assert found[1] < 2e-3


@pytest.mark.slow
@pytest.mark.parametrize('step_size', [0.1, 1.0, 5.0])
def test_the_averaged_iterate_keeps_to_its_bound(sets, step_size):
  data, geometry = sets['0 v 1']
  method = logistic.averaged(logistic.normalized_exponential_gd(step_size))
  loss = losses_of(method, data)[1:]
  steps = np.arange(1, STEPS + 1)
  bound = risks.averaged_exponential_gd(
    **geometry, step_size=step_size, num_steps=steps
  )
  assert np.all(loss <= bound)
  # Beyond R²/μ² it says that all are on their side.
  burn_in = np.square(geometry['radius'] / geometry['margin'])
  assert np.all(bound[steps > burn_in] < 1)


def test_a_step_in_proportion_to_the_budget_gains_a_square():
  # Doubling T and γ divides the bound by 4 once R²/γ is small beside n and γ.
  geometry = dict(n=2, radius=1.0, margin=0.5)
  found = [
    risks.lr_gd(**geometry, step_size=t / 1e4, num_steps=t)
    for t in (1e7, 2e7, 4e7)
  ]
  for larger, smaller in itertools.pairwise(found):
    # log(1/g) in τ grows by a tenth or so.
    np.testing.assert_allclose(larger / smaller, 4, rtol=0.05)


def test_the_formula_of_the_mean_by_hand():
  # s = 2 · 0.25 · 8 = 4, the reach log 4 + 2 · 1/2.
  found = risks.mean_lr_gd(
    n=3, radius=1.0, margin=0.5, step_size=2.0, num_steps=8
  )
  expected = np.log(1.25) + (np.log(4) + 1) ** 2 / 8
  np.testing.assert_allclose(found, expected)
