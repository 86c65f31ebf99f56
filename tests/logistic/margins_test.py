"""A margin without its certificate, or a method slower than its bound.

Only numpy checks the certificate: any θ gives a lower bound on the maximal
margin, and any convex combination an upper bound.
"""

import functools
import math

import hypothesis
import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax.experimental import sparse
from methods_test import digits
from solving_test import HARD, HARD_LABELS, PAIRS, padded_pairs

from adaopt import logistic

max_margin = jax.jit(logistic.max_margin, static_argnames='max_steps')


def assert_certified(found, rows, rtol):
  """The maximal margin of the rows lies between two numbers that agree."""
  theta, q = np.asarray(found.params), np.asarray(found.coefficients)
  np.testing.assert_allclose(np.linalg.norm(theta), 1, rtol=rtol)
  assert np.all(q >= 0)
  np.testing.assert_allclose(np.sum(q), 1, rtol=rtol)
  lower, upper = np.min(rows @ theta), np.linalg.norm(rows.T @ q)
  np.testing.assert_allclose(upper, lower, rtol=2 * rtol)
  np.testing.assert_allclose(found.margin, lower, rtol=rtol)
  np.testing.assert_allclose(found.gap, upper - lower, atol=2 * rtol * upper)
  assert found.converged


@pytest.fixture(name='separation', scope='module')
def solve_pairs():
  """The separations of the four pairs of digits, in one program."""
  with jax.enable_x64(True):
    find = lambda x, y, w: logistic.max_margin(x, y, weights=w)
    return jax.device_get(jax.jit(jax.vmap(find))(*padded_pairs()))


@pytest.mark.slow
def test_pairs_of_digits_have_their_known_difficulty(separation):
  difficulty = np.square(separation.radius / separation.margin)
  np.testing.assert_array_equal(np.round(difficulty), [68, 2018, 641, 894])
  for k, pair in enumerate(PAIRS):
    features, labels = digits(*pair)
    found = jax.tree.map(lambda x, k=k: x[k], separation)
    assert found.num_examples == len(labels)
    coefficients = found.coefficients[: len(labels)]
    assert_certified(
      found._replace(coefficients=coefficients),
      labels[:, None] * features,
      rtol=1e-7,
    )


@pytest.mark.slow
def test_float32_and_sparse_features_reach_float32_precision():
  features, labels = digits(0, 1)
  features = features.astype(np.float32)
  for data in (features, sparse.BCOO.fromdense(jnp.asarray(features))):
    found = max_margin(data, labels)
    assert found.margin.dtype == jnp.float32
    assert_certified(found, labels[:, None] * features, rtol=4e-4)


def planted(n, d, seed=0):
  """Normal rows, a margin of 0.1 at least apart."""
  rng = np.random.default_rng(seed)
  features, direction = rng.normal(size=(n, d)), rng.normal(size=d)
  direction /= np.linalg.norm(direction)
  labels = np.where(features @ direction > 0, 1, -1)
  return features + 0.1 * labels[:, None] * direction, labels


@pytest.mark.slow
@pytest.mark.parametrize(
  'form', [jnp.asarray, sparse.BCOO.fromdense], ids=['dense', 'sparse']
)
@pytest.mark.parametrize('shape', [(20, 150), (600, 20)])
def test_few_examples_and_many(shape, form):
  features, labels = planted(*shape)
  with jax.enable_x64(True):
    found = max_margin(form(features), labels)
  assert_certified(found, labels[:, None] * features, rtol=1e-7)


def test_a_search_ends_where_rounding_allows_no_smaller_gap():
  features, labels = planted(600, 20)
  features = features.astype(np.float32)
  found = max_margin(features, labels, tolerance=1e-12)
  assert not found.converged
  assert found.iterations < 200
  rows = labels[:, None] * features
  lower = np.min(rows @ np.asarray(found.params))
  upper = np.linalg.norm(rows.T @ np.asarray(found.coefficients))
  # float32 margins of up to R = 8: to 1e-6.
  np.testing.assert_allclose(
    [found.margin, found.gap], [lower, upper - lower], atol=5e-6
  )
  assert 0 <= upper - lower < 1e-2 * upper


def test_margins_by_hand():
  with jax.enable_x64(True):
    hard = logistic.max_margin(HARD, HARD_LABELS)
    # One row: θ along it. Two: the foot of 0 on the line through them.
    one = logistic.max_margin(np.array([[3.0, 4.0]]), np.array([-1]))
    two = logistic.max_margin(np.array([[2.0, 0], [0, 2]]), np.array([1, 1]))
  np.testing.assert_allclose(np.square(hard.radius / hard.margin), 5)
  np.testing.assert_allclose(one.params, [-0.6, -0.8])
  np.testing.assert_allclose([one.margin, one.radius], 5)
  np.testing.assert_allclose(two.margin, np.sqrt(2))
  np.testing.assert_allclose(two.coefficients, 0.5)


@pytest.mark.parametrize('scale', [1e-12, 1e12])
def test_the_unit_of_the_features_does_not_matter(scale):
  features, labels = digits(0, 1)
  with jax.enable_x64(True):
    found = max_margin(features * scale, labels)
  assert_certified(found, scale * labels[:, None] * features, rtol=1e-7)


INSEPARABLE = {
  'opposite': (np.array([[1.0, 0], [1, 0]]), [1, -1]),
  'triangle around 0': (np.array([[1.0, 0], [-1, 1], [-1, -1]]), [1, 1, 1]),
  'needs a bias': (np.array([[1.0], [2]]), [-1, 1]),
}


@pytest.mark.slow
@pytest.mark.parametrize(
  ('features', 'labels'), INSEPARABLE.values(), ids=INSEPARABLE
)
def test_data_that_nothing_separates_are_refused(features, labels):
  with (
    jax.enable_x64(True),
    pytest.raises(ValueError, match='no θ separates the data'),
  ):
    logistic.max_margin(features, np.array(labels))
  traced = max_margin(features, np.array(labels))
  assert traced.margin <= 0
  assert traced.margin + traced.gap < 1e-3


def test_too_few_steps_are_not_called_converged():
  features, labels = digits(3, 9)
  with jax.enable_x64(True):
    found = max_margin(features, labels, max_steps=5)
  assert not found.converged
  assert int(found.iterations) == 5
  rows = labels[:, None] * features
  lower = np.min(rows @ np.asarray(found.params))
  upper = np.linalg.norm(rows.T @ np.asarray(found.coefficients))
  np.testing.assert_allclose([found.margin, found.gap], [lower, upper - lower])


def test_half_precision_is_refused():
  with pytest.raises(ValueError, match=r'float32 or float64; got .* bfloat16'):
    logistic.max_margin(jnp.asarray(HARD, jnp.bfloat16), HARD_LABELS)


@pytest.mark.parametrize('tolerance', [0.0, -1e-3, np.nan])
def test_a_tolerance_that_is_not_positive_is_refused(tolerance):
  with pytest.raises(ValueError, match='tolerance must be positive'):
    logistic.max_margin(HARD, HARD_LABELS, tolerance=tolerance)


RATES = np.array([0.3, 3.0, 100.0])
WITHOUT_RATE = {
  'perceptron': (logistic.perceptron, logistic.bounds.perceptron),
  'batch_perceptron': (
    logistic.batch_perceptron,
    logistic.bounds.batch_perceptron,
  ),
  'normalized_batch_perceptron': (
    logistic.normalized_batch_perceptron,
    logistic.bounds.normalized_batch_perceptron,
  ),
  'nesterov': (logistic.nesterov, logistic.bounds.nesterov),
  'smooth_perceptron': (
    logistic.smooth_perceptron,
    logistic.bounds.smooth_perceptron,
  ),
}
WITH_RATE = {
  'lr_gd': (logistic.lr_gd, logistic.bounds.lr_gd),
  'normalized_lr_gd': (
    logistic.normalized_lr_gd,
    logistic.bounds.normalized_lr_gd,
  ),
  'normalized_exponential_gd': (
    logistic.normalized_exponential_gd,
    logistic.bounds.normalized_exponential_gd,
  ),
  'averaged': (
    lambda rate: logistic.averaged(logistic.normalized_exponential_gd(rate)),
    logistic.bounds.normalized_exponential_gd,
  ),
}


@functools.cache
def runs():
  """(features, labels, weights) → the separation and {method: (t, bound)}."""

  def run(features, labels, weights):
    separation = logistic.max_margin(features, labels, weights=weights)
    geometry = separation.num_examples, separation.radius, separation.margin

    def solve(method):
      return logistic.solve(
        method, features, labels, weights=weights, max_steps=1_000_000
      ).iterations

    counts = {
      name: (solve(make()), bound(*geometry))
      for name, (make, bound) in WITHOUT_RATE.items()
    } | {
      name: jax.vmap(lambda r, m=make, b=bound: (solve(m(r)), b(*geometry, r)))(
        RATES
      )
      for name, (make, bound) in WITH_RATE.items()
    }
    return separation, counts

  return jax.jit(run)


def assert_within_bounds(features, labels, weights):
  with jax.enable_x64(True):
    separation, counts = jax.device_get(runs()(features, labels, weights))
  rows = (labels[:, None] * features)[weights > 0]
  kept = separation.coefficients[weights > 0]
  assert_certified(separation._replace(coefficients=kept), rows, rtol=1e-7)
  for name, (iterations, bound) in counts.items():
    # The margin is right to 1e-7, and so is what is made of its square.
    assert np.all(iterations <= np.ceil(bound * (1 + 1e-6))), (
      name,
      iterations,
      bound,
    )


N, D = 8, 3
VECTORS = hnp.arrays(np.float64, D, elements=st.integers(-3, 3))


@pytest.mark.slow
@hypothesis.given(
  features=hnp.arrays(np.float64, (N, D), elements=st.integers(-3, 3)),
  direction=VECTORS,
  weights=hnp.arrays(np.float64, N, elements=st.integers(1, 6)),
)
@hypothesis.settings(max_examples=200, deadline=None, derandomize=True)
def test_no_bound_is_violated(features, direction, weights):
  # Integers that a direction of integers separates: margins of 1 / ‖θ‖ at
  # least. What lies on its plane becomes padding.
  products = features @ direction
  hypothesis.assume(np.any(products != 0))
  labels = np.where(products > 0, 1, -1)
  assert_within_bounds(features, labels, np.where(products == 0, 0, weights))


@pytest.mark.slow
@pytest.mark.parametrize('copies', [1.0, 10.0, 1000.0])
@pytest.mark.parametrize('tilt', [0.5, 0.1, 0.02])
def test_no_bound_is_violated_where_classes_nearly_cancel(tilt, copies):
  """Rows on a narrow cone around a direction, all of them across it."""
  angles = 2 * np.pi * np.arange(N) / N
  features = np.stack([np.cos(angles), np.sin(angles), np.full(N, tilt)], 1)
  labels = np.where(np.arange(N) % 2, 1, -1)
  features *= labels[:, None]
  weights = np.where(np.arange(N) == 0, copies, 1.0)
  assert_within_bounds(features, labels, weights)


def test_bounds_of_the_hard_set_by_hand():
  geometry = dict(n=1000, radius=math.sqrt(1.25), margin=0.5)
  with jax.enable_x64(True):
    found = {
      'perceptron': logistic.bounds.perceptron(**geometry),
      'normalized_batch_perceptron': (
        logistic.bounds.normalized_batch_perceptron(**geometry)
      ),
      'batch_perceptron': logistic.bounds.batch_perceptron(**geometry),
      'normalized_lr_gd': logistic.bounds.normalized_lr_gd(
        **geometry, step_size=2.0
      ),
      'lr_gd': logistic.bounds.lr_gd(**geometry, step_size=2.0),
    }
  expected = {
    'perceptron': 5,
    'normalized_batch_perceptron': 5,
    'batch_perceptron': 5000,
    'normalized_lr_gd': 5 + 4 * math.log(1999),
    'lr_gd': 2000 * (5 + 4 * math.log(1999)),
  }
  for name, value in expected.items():
    np.testing.assert_allclose(found[name], value, rtol=1e-14, err_msg=name)


def test_bounds_of_many_data_sets_and_step_sizes_at_once(separation):
  rates = np.array([[0.1], [10.0]])
  found = logistic.bounds.normalized_lr_gd(
    *(x[None] for x in separation[:3]), rates
  )
  assert found.shape == (2, 4)
  alone = logistic.bounds.normalized_lr_gd(
    *(x[2] for x in separation[:3]), rates[1, 0]
  )
  np.testing.assert_allclose(found[1, 2], alone, rtol=1e-6)


def test_accelerated_margins_are_within_their_rates(separation):
  """On 3 v 9, against μ: the rates for A divided by R."""
  features, labels = digits(3, 9)
  mu = separation.margin[2] / separation.radius[2]
  log_n = math.log(len(labels))
  t = np.arange(1, 1001)
  with jax.enable_x64(True):
    margins = {}
    for name, method in {
      'nesterov': logistic.nesterov(),
      'dual_momentum': logistic.dual_momentum(),
    }.items():
      run = lambda m=method: logistic.record(
        m, features, labels, num_steps=1000
      )
      margin = np.asarray(jax.jit(run)()[1].margin[1:])
      margins[name] = margin / separation.radius[2]
  for name, margin in margins.items():
    assert np.all(margin <= mu * (1 + 1e-9)), name
  lower = mu - (8 * log_n + 0.25) / (mu * t * (t + 1))
  assert np.all(margins['nesterov'] >= lower)
  # No constant is known of the other: from 250 steps to 1000 its distance
  # falls by nearly 16.
  distance = mu - margins['dual_momentum']
  assert distance[999] < distance[249] / 10
  assert distance[999] < 0.05 * mu


@pytest.mark.parametrize('step_size', [0.1, 1.0])
def test_the_exponential_loss_maximises_the_margin(step_size, separation):
  """μ − (log n + 1) / (μ η t), for A divided by R."""
  features, labels = digits(0, 1)
  mu = separation.margin[0] / separation.radius[0]
  with jax.enable_x64(True):
    _, trajectory = jax.jit(
      lambda: logistic.record(
        logistic.normalized_exponential_gd(step_size),
        features / separation.radius[0],
        labels,
        num_steps=1500,
      )
    )()
  t, margin = np.arange(1, 1501), np.asarray(trajectory.margin[1:])
  lower = mu - (math.log(len(labels)) + 1) / (mu * step_size * t)
  assert np.all(margin >= lower)
  assert np.all(margin <= mu * (1 + 1e-9))


@pytest.mark.parametrize('bad', [0.0, -2.0, np.nan, 'a', None])
@pytest.mark.parametrize('wrong', ['n', 'radius', 'margin', 'step_size'])
def test_bounds_refuse_what_is_not_positive(wrong, bad):
  good = dict(n=10, radius=1.0, margin=0.5)
  bounds = [bound for _, bound in WITH_RATE.values()]
  if wrong != 'step_size':
    bounds = [bound for _, bound in WITHOUT_RATE.values()] + [
      functools.partial(bound, step_size=1.0) for bound in bounds
    ]
  for bound in bounds:
    with pytest.raises(ValueError, match=f'{wrong} must be'):
      bound(**good | {wrong: bad})
