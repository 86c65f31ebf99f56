"""A method whose iterates differ from its paper's, on any form of the data.

A failure here means a wrong update formula, weights or padding that do not act
as copies of examples, sparse features that give other results than dense ones,
or a NaN where margins are huge or every example is classified.
"""

import functools

import jax
import jax.numpy as jnp
import logistic_oracles as oracles
import numpy as np
import pytest
import scipy.sparse
from jax.experimental import sparse
from sklearn import datasets

from adaopt import logistic

RATES = (0.3, 2.0, 50.0)

WITH_RATE = {
  'lr_gd': (logistic.lr_gd, oracles.lr_gd),
  'normalized_lr_gd': (logistic.normalized_lr_gd, oracles.normalized_lr_gd),
  'normalized_exponential_gd': (
    logistic.normalized_exponential_gd,
    oracles.normalized_exponential_gd,
  ),
  'averaged': (
    lambda rate: logistic.averaged(logistic.normalized_exponential_gd(rate)),
    lambda *args: oracles.averages(oracles.normalized_exponential_gd(*args)),
  ),
}

WITHOUT_RATE = {
  'perceptron': (logistic.perceptron, oracles.perceptron),
  'batch_perceptron': (logistic.batch_perceptron, oracles.batch_perceptron),
  'normalized_batch_perceptron': (
    logistic.normalized_batch_perceptron,
    oracles.normalized_batch_perceptron,
  ),
  'dual_momentum': (logistic.dual_momentum, oracles.dual_momentum),
  'nesterov': (logistic.nesterov, oracles.nesterov),
  'smooth_perceptron': (
    logistic.smooth_perceptron,
    lambda *args: oracles.smooth_perceptron(*args)[0],
  ),
}

CASES = {
  f'{name}{rate}': (functools.partial(make, rate), oracle, (rate,))
  for name, (make, oracle) in WITH_RATE.items()
  for rate in RATES
} | {name: (*pair, ()) for name, pair in WITHOUT_RATE.items()}

every_case = pytest.mark.parametrize(
  ('make', 'oracle', 'rate'), CASES.values(), ids=CASES
)
METHODS = [make(2.0) for make, _ in WITH_RATE.values()]
METHODS += [make() for make, _ in WITHOUT_RATE.values()]
METHODS += [logistic.adaptive_gd(2.0)]
every_method = pytest.mark.parametrize(
  'method', METHODS, ids=[*WITH_RATE, *WITHOUT_RATE, 'adaptive_gd']
)


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


def make_data(n=9, d=4, seed=0, margin=0.05):
  """Separable a_i, y_i and w_i, the last row of them padding."""
  rng = np.random.default_rng(seed)
  direction = rng.normal(size=d)
  features = rng.normal(size=(n, d))
  labels = np.where(features @ direction > 0, 1, -1)
  features += margin * labels[:, None] * direction
  features[-1] = 0
  weights = np.array([1, 3, 1, 1, 2, 1, 1, 1, 0.0][:n])
  return features, labels, weights


def copies(features, labels, weights):
  """A, each row as often as its weight says."""
  return np.repeat(labels[:, None] * features, weights.astype(int), 0)


def iterates(method, problem, steps):
  """θ_1, …, θ_T and the margins of each."""

  def advance(state, _):
    state = method.step(state, problem)
    return state, (state.params, state.margins)

  run = lambda: jax.lax.scan(advance, method.init(problem), length=steps)[1]
  return jax.jit(run)()


@pytest.mark.slow
@every_case
def test_iterates_are_those_of_the_paper(make, oracle, rate):
  features, labels, weights = make_data()
  problem = logistic.make_problem(features, labels, weights=weights)
  found, margins = iterates(make(), problem, 25)
  # A few roundings of 1e-16 a step, at the worst doubled by each; no margin
  # comes within 1e-9 of 0, where a perceptron would go another way.
  expected = oracle(copies(features, labels, weights), 25, *rate)
  np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8)
  rows = labels[:, None] * features
  np.testing.assert_allclose(margins, found @ rows.T, rtol=1e-9, atol=1e-9)


def test_adaptive_gd_descends_on_the_margin_of_the_mean_loss():
  features, labels, weights = make_data()
  problem = logistic.make_problem(features, labels, weights=weights)
  found, _ = iterates(logistic.adaptive_gd(0.4), problem, 12)
  expected = oracles.adaptive_gd(copies(features, labels, weights), 12, 0.4)
  # Central differences over 2e-5: errors of 1e-10 and of 1e-16 / 1e-5 a step.
  np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
  'method', [logistic.normalized_lr_gd(2.0), logistic.smooth_perceptron()]
)
def test_sparse_features_labels_of_0_and_1_and_jit_change_nothing(method):
  features, labels, weights = make_data()
  features = np.where(np.abs(features) < 0.5, 0, features)
  dense = logistic.make_problem(features, labels, weights=weights)
  build = jax.jit(lambda f, y, w: logistic.make_problem(f, y, weights=w))
  other = build(
    sparse.BCOO.fromdense(jnp.asarray(features)), labels > 0, weights
  )
  np.testing.assert_allclose(other.radius, dense.radius, rtol=1e-14)
  for a, b in zip(
    iterates(method, dense, 10), iterates(method, other, 10), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


@every_method
def test_solved_float32_data_stay_finite_at_any_length(method):
  with jax.enable_x64(False):
    problem = logistic.make_problem(
      jnp.array([[1.0, 2.0], [3.0, 1.0]]), jnp.array([1, 1])
    )
    state = method.init(problem)
    # Margins of 1e6: every p_i underflows.
    params = jnp.array([4e5, 3e5])
    state = state._replace(
      params=params, margins=problem.features @ params, count=jnp.int32(5)
    )
    state = method.step(state, problem)
  assert state.params.dtype == jnp.float32
  assert np.all(np.isfinite(state.params))


@pytest.mark.parametrize(
  'make', [logistic.normalized_lr_gd, logistic.adaptive_gd]
)
def test_steps_keep_their_length_where_every_residual_underflows(make):
  # Two margins of 1000: p underflows even in float64, the shares do not. Nor
  # does padding count, whose margin is far below.
  features = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
  problem = logistic.make_problem(
    features, np.ones(3), weights=np.array([1.0, 1.0, 0.0])
  )
  state = make(2.0).init(problem)
  params = jnp.array([1000.0, 1000.0])
  margins = jnp.array([1000.0, 1000.0, 0.0])
  state = state._replace(params=params, margins=margins)
  # Half of the pull on each row, times the step of 2.
  np.testing.assert_allclose(
    make(2.0).step(state, problem).params, [1001, 1001], rtol=1e-12
  )


def test_a_first_step_by_hand():
  # A = (1, 0), (0, 3), the second twice; p = 1/2; n = 3.
  problem = logistic.make_problem(
    np.array([[1.0, 0.0], [0.0, -3.0]]), np.array([1, -1]), weights=[1.0, 2.0]
  )
  first = lambda method: method.step(method.init(problem), problem).params
  found = {
    'lr_gd': first(logistic.lr_gd(6.0)),
    'normalized_lr_gd': first(logistic.normalized_lr_gd(6.0)),
    'perceptron': first(logistic.perceptron()),
    'batch_perceptron': first(logistic.batch_perceptron()),
    'normalized_batch_perceptron': first(
      logistic.normalized_batch_perceptron()
    ),
    'normalized_exponential_gd': first(logistic.normalized_exponential_gd(3.0)),
    # L = log 2 and 1 − e^{−L} = 1/2: twice the step of lr_gd.
    'adaptive_gd': first(logistic.adaptive_gd(6.0)),
  }
  expected = {
    'lr_gd': [1, 6],
    'normalized_lr_gd': [2, 12],
    'perceptron': [1, 0],
    'batch_perceptron': [1 / 6, 1],
    'normalized_batch_perceptron': [1 / 3, 2],
    'normalized_exponential_gd': [1, 6],
    'adaptive_gd': [2, 12],
  }
  for name, value in expected.items():
    np.testing.assert_allclose(found[name], value, rtol=1e-14, err_msg=name)


def digits(first, second):
  """Two digits, pixels in [0, 1]: features and labels."""
  images, labels = datasets.load_digits(return_X_y=True)
  chosen = (labels == first) | (labels == second)
  return images[chosen] / 16, np.where(labels[chosen] == first, 1, -1)


def deviation(make, step_size, limit, problem, steps):
  """max_t ‖θ_t / γ − limit_t‖ / ‖limit_t‖."""
  found = iterates(make(step_size), problem, steps)[0] / step_size
  return np.max(
    np.linalg.norm(found - limit, axis=1) / np.linalg.norm(limit, axis=1)
  )


def test_large_steps_of_lr_gd_tend_to_the_batch_perceptron():
  problem = logistic.make_problem(*digits(1, 8))
  limit, _ = iterates(logistic.batch_perceptron(), problem, 293)
  found = [
    deviation(logistic.lr_gd, step_size, limit, problem, 293)
    for step_size in (1.0, 1e2, 1e4, 1e6, 1e8)
  ]
  # Those of the oracle, to the digits given; at 1e8 it is rounding alone.
  np.testing.assert_allclose(found[:4], [2.06, 0.073, 0.026, 1.6e-5], rtol=0.02)
  assert found[4] < 1e-13


def test_large_steps_of_normalized_lr_gd_tend_to_the_normalized_perceptron():
  problem = logistic.make_problem(*digits(1, 8))
  limit, _ = iterates(logistic.normalized_batch_perceptron(), problem, 201)
  found = [
    deviation(logistic.normalized_lr_gd, step_size, limit, problem, 201)
    for step_size in (1.0, 1e4, 1e6)
  ]
  # Some margin on the way is of the order of 1e-4, none of 1e-6.
  assert found[0] > 1
  assert 0.1 < found[1] < 0.3
  assert found[2] < 1e-13


def test_the_smooth_perceptron_keeps_its_excessive_gap():
  for seed in range(5):
    features, labels, weights = make_data(seed=seed)
    _, gaps = oracles.smooth_perceptron(
      copies(features, labels, weights), steps=30
    )
    assert np.all(gaps >= -1e-14)


@pytest.mark.parametrize('step_size', [0.0, -1.0, np.nan, np.inf])
@pytest.mark.parametrize(
  'make',
  [
    logistic.lr_gd,
    logistic.normalized_lr_gd,
    logistic.normalized_exponential_gd,
    logistic.adaptive_gd,
  ],
)
def test_a_step_size_that_is_not_positive_is_refused(make, step_size):
  with pytest.raises(ValueError, match=f'step_size must be .* got {step_size}'):
    make(step_size)


BAD = {
  'labels 1 and 8': (
    dict(labels=np.array([1, 8])),
    'must be ±1 or {0, 1}, got 1, 8; .* labels == positive_class',
  ),
  'mixed labels': (dict(labels=np.array([0, -1])), 'must be ±1 or {0, 1}'),
  'labels of another length': (
    dict(labels=np.ones(3)),
    r'labels must be \[n\] = \[2\] .* got \[3\]',
  ),
  'weights of another length': (
    dict(weights=np.ones([2, 1])),
    r'weights must be \[n\] = \[2\] .* got \[2, 1\]',
  ),
  'negative weight': (
    dict(weights=np.array([1, -1.0])),
    'weights must be finite and at least 0',
  ),
  'no weight': (dict(weights=np.zeros(2)), 'all weights are 0'),
  'zero row': (
    dict(features=np.array([[1.0, 2.0], [0, 0]])),
    r'row 1 of features is zero, .* \(1 such rows\); drop it',
  ),
  'not finite': (
    dict(features=np.array([[np.nan, 2.0], [1, 0]])),
    'row 0 of features is not finite',
  ),
  'integers': (dict(features=np.eye(2, dtype=int)), 'must be floating'),
  'one axis': (dict(features=np.ones(2)), r'must be \[n, d\] .* got \[2\]'),
  'no rows': (dict(features=np.ones([0, 2])), r'n, d ≥ 1, got \[0, 2\]'),
  'strings': (dict(labels=np.array(['cat', 'dog'])), 'labels must be real'),
  'complex weights': (dict(weights=1j * np.ones(2)), 'weights must be real'),
  'objects': (
    dict(features=np.array([[1, None]] * 2)),
    r'features must be an array \[n, d\] .* got object\[2, 2\]',
  ),
}


@pytest.mark.parametrize(('arguments', 'message'), BAD.values(), ids=BAD)
def test_data_that_do_not_fit_are_refused(arguments, message):
  good = dict(features=np.eye(2), labels=np.array([1, -1]))
  with pytest.raises(ValueError, match=message):
    logistic.make_problem(**(good | arguments))


SPARSE = np.array([[3.0, 0, 4], [0, 2, 0]])


@pytest.mark.slow
@pytest.mark.parametrize(
  'features',
  [
    scipy.sparse.csr_array(SPARSE),
    scipy.sparse.csc_matrix(SPARSE),
    sparse.BCSR.fromdense(SPARSE),
    # Entries of one place add up: 1 + 2 is 3.
    sparse.BCOO(
      (
        jnp.array([1.0, 2, 4, 2]),
        jnp.array([[0, 0], [0, 0], [0, 2], [1, 1]]),
      ),
      shape=SPARSE.shape,
    ),
  ],
  ids=['csr', 'csc', 'BCSR', 'BCOO with duplicates'],
)
def test_sparse_features_of_any_kind_are_those_of_the_matrix(features):
  labels = np.array([1, -1])
  problem = logistic.make_problem(features, labels)
  assert problem.radius == 5
  found, expected = (
    logistic.solve(logistic.lr_gd(1.0), x, labels, max_steps=9)
    for x in (features, SPARSE)
  )
  np.testing.assert_allclose(found.params, expected.params, 1e-6)


def test_padding_may_be_zero_and_have_any_label():
  problem = logistic.make_problem(
    np.array([[3.0, 4.0], [0, 0]]), np.array([-1, 0]), weights=[1.0, 0.0]
  )
  assert problem.radius == 5
