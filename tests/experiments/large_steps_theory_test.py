"""A lower bound that a method passes, or a table of another quantity."""

import jax
import numpy as np
import pandas as pd
import pytest

from adaopt import logistic
from adaopt.experiments import rates as theory
from adaopt.experiments.large_steps import (
  choosing,
  losses,
  rates,
  regularized,
  separable,
)


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


@pytest.mark.slow
@pytest.mark.parametrize('k', [3, 9])
def test_every_method_takes_as_many_iterations_as_the_chain_is_long(k):
  examples = separable.chain(k)
  known = logistic.max_margin(
    examples.features, examples.labels, weights=examples.weights
  )
  assert np.square(known.radius / known.margin) <= 5 * k
  for method in (
    logistic.lr_gd(1e4),
    logistic.normalized_lr_gd(100.0),
    logistic.adaptive_gd(10.0),
    logistic.batch_perceptron(),
    logistic.normalized_batch_perceptron(),
  ):
    found = logistic.solve(
      method,
      examples.features,
      examples.labels,
      weights=examples.weights,
      max_steps=100,
    )
    assert found.solved
    assert found.iterations == k


@pytest.mark.slow
def test_each_gradient_brings_one_direction_of_the_chain():
  examples = separable.chain(5)
  problem = logistic.make_problem(
    examples.features, examples.labels, weights=examples.weights
  )
  method = logistic.lr_gd(10.0)
  state = method.init(problem)
  for t in range(1, 6):
    state = method.step(state, problem)
    np.testing.assert_array_equal(
      np.asarray(state.params) != 0, np.arange(5) >= 5 - t
    )


def test_the_plane_has_its_margin():
  examples = separable.plane(40, 0.03)
  found = logistic.max_margin(
    examples.features, examples.labels, weights=examples.weights
  )
  np.testing.assert_allclose(
    [found.margin, found.radius, found.num_examples], [0.03, 1, 40]
  )


def test_a_loss_has_settled_after_its_last_rise():
  assert rates.settled(np.array([3.0, 2.0, 2.0, 1.0])) == 0
  assert rates.settled(np.array([3.0, 4.0, 2.0, 2.5, 1.0])) == 3


def test_the_slope_is_the_power():
  x = np.array([1.0, 10.0, 30.0])
  np.testing.assert_allclose(theory.slope(x, 5 * x**-2), -2)


def test_the_mean_loss_of_a_run_is_recorded():
  examples = separable.hard_set(3)
  examples = examples._replace(weights=np.ones(2))
  loss = losses.LOSSES['squared_hinge']
  found, values = losses.trajectories(loss, examples, 4)
  assert values.shape == (len(losses.STEP_SIZES), 5)
  np.testing.assert_allclose(values[:, 0], 0.5)  # (1 − 0)² / 2
  rows = losses.summarise(
    'squared_hinge',
    found,
    np.asarray(values),
    logistic.max_margin(examples.features, examples.labels),
  )
  last = np.asarray(values[0])
  assert rows.rises[0] == np.sum(np.diff(last) > 0)
  # Of an unbounded residual nothing is promised.
  assert rows.bound[0] == np.inf


def test_the_classical_step_size_converges_in_about_kappa_iterations():
  examples = separable.digits_pair((0, 1))
  row = regularized.penalised(examples, 0.1, max_steps=2000)
  # κ log(gradient at 0 / 10⁻⁶) = 14 κ at the most.
  assert row.classical < 14 * row.condition
  assert row.best <= row.classical < 2000
  assert row.largest >= 1


def test_the_curvature_is_that_at_the_minimum():
  # At θ = 0 both sides balance: (1 + 1) / 4 / 2.
  found = regularized.curvature_at_minimum(np.ones(2), np.ones(2))
  np.testing.assert_allclose(found, 0.25)


def test_outcomes_are_told_apart():
  found = pd.DataFrame({'converged': [True, False, False], 'period': [0, 4, 0]})
  assert [regularized.outcome(row) for row in found.itertuples()] == [
    'rests',
    'cycle of 4',
    'neither',
  ]


@pytest.mark.slow
@pytest.mark.parametrize('name', choosing.KINDS)
def test_the_kinds_of_data_are_what_they_say(name):
  kind = choosing.KINDS[name]
  train, new = choosing.draw(kind)
  assert train.features.shape == new.features.shape == (kind.n, kind.d)
  np.testing.assert_allclose(
    np.max(np.linalg.norm(train.features, axis=1)), 1, rtol=1e-12
  )
  # Four deviations of a share.
  deviation = 2 / np.sqrt(kind.n)
  assert abs(np.mean(new.labels == 1) - kind.positive) < deviation
  # The direction of the hyperplane separates new examples with its margin; so
  # the least-squares classifier on many of them errs on few.
  fit = np.linalg.lstsq(new.features, new.labels, rcond=None)[0]
  wrong = np.mean(train.labels * (train.features @ fit) <= 0)
  if kind.n > 4 * kind.d:
    assert abs(wrong - kind.flipped) < 0.12


def test_the_tables_have_a_row_for_every_method():
  rows = pd.DataFrame(
    {
      'kind': 'separable',
      'method': list(choosing.METHODS),
      'iterations': 7,
      'solved': True,
      'share': 0.5,
      'accuracy': 0.987,
    }
  )
  text = choosing.tables(rows)
  assert text.count('\n') + 1 == 3 * (len(choosing.METHODS) + 2) + 2
  assert '0.500' in text
  assert '98.7' in text
