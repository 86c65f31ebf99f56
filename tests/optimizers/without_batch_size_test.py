"""If these fail, AdaGrad or Normalized LR+GD takes another rate than given."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adaopt


def _updates(optimizer, steps, **extra_args):
  """The updates for a gradient of 1."""
  gradient = jnp.ones(1)
  state = optimizer.init(gradient)
  found = []
  for _ in range(steps):
    updates, state = optimizer.update(gradient, state, **extra_args)
    found.append(float(updates[0]))
  return found


@pytest.mark.parametrize('make', [adaopt.adagrad, adaopt.adagrad_norm])
def test_schedules_of_adagrad_count_steps(make):
  schedule = optax.linear_schedule(1.0, 0.0, transition_steps=4)
  found = _updates(make(schedule), 3)
  # The rate over the root of the number of gradients, all of them 1.
  expected = [-1, -0.75 / np.sqrt(2), -0.5 / np.sqrt(3)]
  np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_schedules_of_normalized_lr_gd_count_steps():
  optimizer = adaopt.normalized_lr_gd(optax.linear_schedule(1.0, 0.0, 4))
  found = _updates(optimizer, 5, mean_residual=0.5)
  np.testing.assert_allclose(found, [-2, -1.5, -1, -0.5, 0], rtol=1e-6)


@pytest.mark.parametrize('make', [adaopt.adagrad, adaopt.adagrad_norm])
def test_steps_are_those_of_the_formula(make):
  gradients = np.random.default_rng(0).normal(size=(5, 3))
  optimizer = make(0.3, initial_accumulator_value=0.25, eps=0.1)
  state = optimizer.init(jnp.zeros(3))
  sums = 0.25
  for gradient in gradients:
    updates, state = optimizer.update(jnp.asarray(gradient), state)
    squares = gradient**2
    sums = sums + (squares.sum() if make is adaopt.adagrad_norm else squares)
    expected = -0.3 * gradient / (np.sqrt(sums) + 0.1)
    np.testing.assert_allclose(updates, expected, rtol=1e-5)


@pytest.mark.parametrize(
  ('make', 'bad'),
  [
    (adaopt.adagrad, dict(eps=-1.0)),
    (adaopt.adagrad, dict(eps_root=-1.0)),
    (adaopt.adagrad, dict(initial_accumulator_value=-1.0)),
    (adaopt.adagrad_norm, dict(eps=-1.0)),
    (adaopt.adagrad_norm, dict(initial_accumulator_value=-1.0)),
  ],
)
def test_negative_constants_are_refused_at_construction(make, bad):
  (name,) = bad
  with pytest.raises(ValueError, match=rf'{name} must be .* got -1\.0'):
    make(0.1, **bad)


MAKERS = [adaopt.adagrad, adaopt.adagrad_norm, adaopt.normalized_lr_gd]


@pytest.mark.parametrize('make', MAKERS)
@pytest.mark.parametrize(
  ('rate', 'sentence'),
  [
    (np.nan, 'learning_rate must be finite, got nan'),
    (-0.1, 'learning_rate must be at least 0, got -0.1: updates descend'),
    (-np.inf, 'learning_rate must be finite, got -inf'),
    (None, 'learning_rate must be a number, got None'),
    ('0.5', "learning_rate must be a number, got '0.5'"),
    ([0.1], r'learning_rate must be a number, got \[0\.1\]'),
    (1j, 'learning_rate must be a number, got 1j'),
  ],
  ids=['nan', 'negative', 'inf', 'none', 'string', 'list', 'complex'],
)
def test_what_is_not_a_learning_rate_is_refused(make, rate, sentence):
  with pytest.raises(ValueError, match=sentence):
    make(rate)


@pytest.mark.parametrize('make', MAKERS)
def test_a_learning_rate_may_be_an_array_or_traced(make):
  first = lambda rate: make(rate).update(
    jnp.ones(1), make(rate).init(jnp.ones(1)), mean_residual=1.0
  )[0]
  for rate in (
    0.5,
    np.float32(0.5),
    jnp.array(0.5),
    optax.constant_schedule(0.5),
  ):
    np.testing.assert_allclose(first(rate), [-0.5], rtol=1e-6)
  np.testing.assert_allclose(jax.jit(first)(0.5), [-0.5], rtol=1e-6)
