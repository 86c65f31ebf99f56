"""A step that is not the steepest of its norm, or one that underflows.

A failure here means a direction that another of its norm beats, momentum that
is not that of the gradients, or steps that end where the loss is 0 in numbers.
"""

import functools

import hypothesis
import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import logistic_oracles as oracles
import numpy as np
import optax
import pytest
from hypothesis import strategies as st
from methods_test import copies, iterates, make_data

from adaopt import logistic
from adaopt.logistic import geometry

NORMS = {
  'sum': (geometry.SUM, lambda x: np.linalg.norm(x.ravel(), 1)),
  'max': (geometry.MAX, lambda x: np.linalg.norm(x.ravel(), np.inf)),
  'euclidean': (geometry.EUCLIDEAN, np.linalg.norm),
  'spectral': (geometry.SPECTRAL, lambda x: np.linalg.norm(x, 2)),
}
DUAL = {
  'sum': NORMS['max'][1],
  'max': NORMS['sum'][1],
  'euclidean': np.linalg.norm,
  'spectral': lambda x: np.linalg.norm(x, 'nuc'),
}
every_norm = pytest.mark.parametrize('norm', NORMS)


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


@functools.cache
def compiled(norm):
  """‖x‖, ‖x‖_* and the direction of x."""
  return jax.jit(lambda x: [f(x) for f in NORMS[norm][0]])


MATRICES = hnp.arrays(np.float64, (3, 4), elements=st.integers(-3, 3))
SCALES = st.sampled_from([1e-200, 1e-30, 1.0, 1e30, 1e150])


@every_norm
@hypothesis.given(x=MATRICES, scale=SCALES)
@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
def test_the_direction_is_of_length_1_and_reaches_the_dual_norm(norm, x, scale):
  length, dual, direction = jax.device_get(compiled(norm)(scale * x))
  # Singular values of 3 by 4 integers: a few roundings. numpy squares them.
  np.testing.assert_allclose(length, scale * NORMS[norm][1](x), rtol=1e-12)
  np.testing.assert_allclose(dual, scale * DUAL[norm](x), rtol=1e-12)
  if not np.any(x):
    np.testing.assert_array_equal(direction, 0)
    return
  np.testing.assert_allclose(NORMS[norm][1](direction), 1, rtol=1e-12)
  reached = scale * np.sum(x * direction)
  np.testing.assert_allclose(reached, dual, rtol=1e-12)


def test_the_spectral_direction_leaves_the_null_space_alone():
  # Rows that add up to 0, as those of a gradient over classes do.
  rng = np.random.default_rng(0)
  x = rng.normal(size=[4, 6])
  x -= np.mean(x, 0)
  direction = geometry.SPECTRAL.direction(jnp.asarray(x))
  np.testing.assert_allclose(np.sum(direction, 0), 0, atol=1e-13)
  np.testing.assert_allclose(direction, oracles.polar(x), atol=1e-12)
  values = np.linalg.svd(direction, compute_uv=False)
  np.testing.assert_allclose(values, [1, 1, 1, 0], atol=1e-12)


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float32])
@every_norm
def test_directions_keep_the_type(norm, dtype):
  x = jnp.asarray([[3.0, 0.0], [0.0, -4.0]], dtype)
  assert [f(x).dtype for f in NORMS[norm][0]] == [dtype] * 3


MAKERS = {
  'max': logistic.sign_descent,
  'sum': logistic.coordinate_descent,
  'euclidean': logistic.normalized_gd,
}
every_maker = pytest.mark.parametrize('norm', MAKERS)


def inverse_root(t):
  """0.7 / √(t + 1)."""
  return 0.7 / (t + 1) ** 0.5


@every_maker
@pytest.mark.parametrize('beta', [0.0, 0.9])
def test_iterates_are_those_of_steepest_descent(norm, beta):
  data = make_data()
  problem = logistic.make_problem(*data[:2], weights=data[2])
  found, _ = iterates(MAKERS[norm](inverse_root, beta), problem, 25)
  expected = oracles.steepest_descent(
    copies(*data), 25, norm, inverse_root, beta
  )
  # A few roundings of 1e-16 a step; no entry is that near 0, or to another.
  np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@every_maker
def test_a_number_is_a_constant_schedule(norm):
  data = make_data()
  problem = logistic.make_problem(*data[:2], weights=data[2])
  number, _ = iterates(MAKERS[norm](0.3), problem, 5)
  schedule, _ = iterates(MAKERS[norm](optax.constant_schedule(0.3)), problem, 5)
  np.testing.assert_array_equal(number, schedule)


@every_maker
@pytest.mark.parametrize('beta', [0.0, 0.9])
def test_steps_keep_their_length_where_the_loss_underflows(norm, beta):
  with jax.enable_x64(False):
    problem = logistic.make_problem(
      jnp.array([[1.0, 0.5], [0.5, 1.0]]), jnp.array([1, 1])
    )
    method = MAKERS[norm](1.0, beta)
    state = method.init(problem)
    for _ in range(2):
      # Margins of 1e6: every p_i is 0 in float32.
      params = jnp.array([7e5, 7e5])
      state = state._replace(params=params, margins=problem.features @ params)
      state = method.step(state, problem)
      length = NORMS[norm][1](np.asarray(state.params - params))
      # A rounding of 7e5 in float32 is 1/16.
      np.testing.assert_allclose(length, 1, atol=0.1)


@pytest.mark.parametrize(('norm', 'order'), [('max', np.inf), ('sum', 1)])
def test_the_margin_tends_to_the_largest_of_the_norm(norm, order):
  """The best margin is that of the linear program, which nothing exceeds."""
  data = make_data()
  best = {
    np.inf: logistic.max_margin_linf,
    1: logistic.max_margin_l1,
  }[order](*data[:2], weights=data[2])
  problem = logistic.make_problem(*data[:2], weights=data[2])
  found, margins = iterates(MAKERS[norm](inverse_root), problem, 20_000)
  margins = np.min(margins[:, data[2] > 0], 1)
  ratio = margins / np.linalg.norm(found, order, 1) / best.margin
  assert np.all(ratio <= 1 + 1e-9)
  # Measured: see below for how far 20 000 steps go.
  assert ratio[-1] > 0.95
  # Another norm's method stays behind.
  other, margins = iterates(
    MAKERS['max' if norm == 'sum' else 'sum'](inverse_root), problem, 20_000
  )
  margins = np.min(margins[:, data[2] > 0], 1)
  assert (margins / np.linalg.norm(other, order, 1))[-1] < 0.9 * best.margin


@every_maker
@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (dict(step_size=0.0), 'step_size must be positive'),
    (dict(step_size=lambda t: 'a'), 'step_size must return a number'),
    (dict(step_size=1.0, momentum=1.0), 'momentum must be below 1'),
    (dict(step_size=1.0, momentum=-0.1), 'momentum must be finite'),
  ],
)
def test_arguments_out_of_range_are_refused(norm, arguments, message):
  with pytest.raises(ValueError, match=message):
    MAKERS[norm](**arguments)
