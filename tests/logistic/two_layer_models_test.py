"""Large steps on a model whose gradient, margin or start is another's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import sparse

from adaopt import logistic

XOR = np.array([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]])
XOR_LABELS = np.array([1, 1, -1, -1])
KEY = jax.random.key(1)
MODELS = {
  'two_layer': logistic.two_layer(5, KEY),
  'hadamard': logistic.hadamard(0.5),
}


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


def make_data():
  rng = np.random.default_rng(0)
  features = rng.normal(size=(7, 3))
  labels = np.array([1, -1, 1, 1, -1, -1, 1])
  weights = np.array([1, 2, 1, 3, 1, 1, 0.0])
  return features, labels, weights


def numpy_score(name, theta, row):
  """f(a; θ), unit by unit."""
  if name == 'hadamard':
    u, v = np.split(theta, 2)
    return sum(
      (u_j**2 - v_j**2) * a_j for u_j, v_j, a_j in zip(u, v, row, strict=True)
    )
  w, v = theta[:-5].reshape(3, 5), theta[-5:]
  return sum(v[j] * max(row @ w[:, j], 0) for j in range(5)) / np.sqrt(5)


def numpy_margins(name, theta, features, labels):
  rows = zip(features, labels, strict=True)
  return np.array([y * numpy_score(name, theta, a) for a, y in rows])


def slope(name, theta, features, labels):
  """∂m_i/∂θ by central differences, [n, p]."""
  shifts = 1e-6 * np.eye(len(theta))
  ahead, behind = (
    np.array(
      [
        numpy_margins(name, theta + sign * shift, features, labels)
        for shift in shifts
      ]
    )
    for sign in (1, -1)
  )
  return (ahead - behind).T / 2e-6


MOVES = {
  'lr_gd': (logistic.lr_gd(3.0), lambda p, w: 3 * w * p / np.sum(w)),
  'normalized_lr_gd': (
    logistic.normalized_lr_gd(3.0),
    lambda p, w: 3 * w * p / np.sum(w * p),
  ),
  'normalized_batch_perceptron': (
    logistic.normalized_batch_perceptron(),
    lambda p, w: w * (p >= 0.5) / np.sum(w * (p >= 0.5)),
  ),
}


@pytest.mark.slow
@pytest.mark.parametrize('move', MOVES)
@pytest.mark.parametrize('name', MODELS)
def test_a_step_pulls_along_the_gradients_of_the_margins(name, move):
  features, labels, weights = make_data()
  method, coefficients = MOVES[move]
  problem = logistic.make_problem(
    features, labels, weights=weights, model=MODELS[name]
  )
  first = method.init(problem)
  theta = np.asarray(first.params)
  # hadamard starts at f = 0, where no perceptron is torn by rounding.
  theta = theta + np.linspace(0.1, 0.3, theta.size)
  margins = numpy_margins(name, theta, features, labels)
  state = first._replace(
    params=jnp.asarray(theta), margins=jnp.asarray(margins)
  )
  found = method.step(state, problem)
  c = coefficients(1 / (1 + np.exp(margins)), weights)
  expected = theta + c @ slope(name, theta, features, labels)
  # Central differences err by about 1e-9.
  np.testing.assert_allclose(found.params, expected, rtol=1e-6, atol=1e-7)
  np.testing.assert_allclose(
    found.margins,
    numpy_margins(name, np.asarray(found.params), features, labels),
    rtol=1e-9,
    atol=1e-9,
  )


@pytest.mark.parametrize('name', MODELS)
def test_the_margin_does_not_change_with_the_length_of_theta(name):
  features, _, _ = make_data()
  model = MODELS[name]
  theta = model.start(jnp.asarray(features)) + 0.1
  degree = model.degree
  np.testing.assert_allclose(
    model.scores(3 * theta, features),
    3**degree * model.scores(theta, features),
    rtol=1e-12,
  )


def test_the_recorded_margin_is_over_the_norm_to_the_degree():
  model = MODELS['two_layer']
  found, trajectory = logistic.record(
    logistic.lr_gd(1.0), XOR, XOR_LABELS, num_steps=3, model=model
  )
  theta = np.asarray(found.params)
  least = np.min(XOR_LABELS * np.asarray(model.scores(theta, XOR)))
  np.testing.assert_allclose(
    trajectory.margin[-1], least / np.linalg.norm(theta) ** 2
  )


@pytest.mark.slow
def test_two_layers_solve_what_no_hyperplane_does():
  model = logistic.two_layer(16, KEY)
  found = logistic.sweep(
    logistic.normalized_lr_gd,
    jnp.array([0.1, 1.0]),
    XOR,
    XOR_LABELS,
    max_steps=1000,
    model=model,
  )
  alone = logistic.solve(
    logistic.normalized_lr_gd(1.0),
    XOR,
    XOR_LABELS,
    max_steps=1000,
    model=model,
  )
  assert np.all(found.solved)
  assert found.iterations[1] == alone.iterations
  with pytest.raises(ValueError, match='no θ separates the data'):
    logistic.max_margin(XOR, XOR_LABELS)


@pytest.mark.slow
def test_sparse_features_change_nothing():
  features, labels, weights = make_data()
  features = np.where(np.abs(features) < 0.5, 0, features)
  runs = [
    logistic.record(
      logistic.lr_gd(2.0),
      data,
      labels,
      weights=weights,
      num_steps=5,
      model=MODELS['two_layer'],
    )[0].params
    for data in (features, sparse.BCOO.fromdense(jnp.asarray(features)))
  ]
  np.testing.assert_allclose(runs[0], runs[1], rtol=1e-12)


@pytest.mark.parametrize(
  'method',
  [
    logistic.dual_momentum(),
    logistic.nesterov(),
    logistic.smooth_perceptron(),
  ],
)
def test_methods_for_linear_scores_refuse_a_model(method):
  with pytest.raises(ValueError, match='made for linear scores'):
    logistic.solve(
      method, XOR, XOR_LABELS, max_steps=3, model=MODELS['hadamard']
    )


def test_dead_units_are_a_fixed_point_and_no_solution():
  # All four examples have all pre-activations at most 0.
  model = logistic.two_layer(1, KEY)._replace(
    start=lambda features: jnp.array([0.0, 0.0, -1.0])
  )
  found = logistic.solve(
    logistic.lr_gd(1.0), XOR, XOR_LABELS, max_steps=1000, model=model
  )
  assert not found.solved
  assert (int(found.period), int(found.iterations)) == (1, 2)


def test_a_problem_with_a_model_passes_through_jit():
  problem = logistic.make_problem(XOR, XOR_LABELS, model=MODELS['hadamard'])
  method = logistic.lr_gd(1.0)
  state = method.init(problem)
  found = jax.jit(method.step)(state, problem)
  expected = method.step(state, problem)
  np.testing.assert_allclose(found.params, expected.params, rtol=1e-15)
