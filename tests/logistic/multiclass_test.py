"""k classes: iterates that are not their formulas', or two that are not two.

A failure here means a wrong update, weights or padding that do not act as
copies of examples, or two classes that go another way than in `logistic`.
"""

import functools

import jax
import jax.numpy as jnp
import logistic_oracles as oracles
import numpy as np
import pytest
from jax.experimental import sparse
from methods_test import digits, iterates
from methods_test import make_data as make_two_classes

from adaopt import logistic
from adaopt.logistic import multiclass

K = 3


def inverse_root(t):
  """0.7 / √(t + 1)."""
  return 0.7 / (t + 1) ** 0.5


def steepest(norm, beta):
  """The oracle of a norm with momentum."""
  return functools.partial(
    oracles.class_steepest_descent,
    norm=norm,
    schedule=inverse_root,
    beta=beta,
  )


GEOMETRIES = {
  'max': multiclass.sign_descent,
  'euclidean': multiclass.normalized_gd,
  'spectral': multiclass.spectral_descent,
}
CASES = {
  'lr_gd': (
    multiclass.lr_gd(2.0),
    functools.partial(oracles.class_lr_gd, gamma=2.0),
  ),
  'normalized_lr_gd': (
    multiclass.normalized_lr_gd(2.0),
    functools.partial(oracles.class_normalized_lr_gd, gamma=2.0),
  ),
  'perceptron': (multiclass.perceptron(), oracles.class_perceptron),
  'batch_perceptron': (
    multiclass.batch_perceptron(),
    oracles.class_batch_perceptron,
  ),
} | {
  f'{norm}, {beta}': (make(inverse_root, beta), steepest(norm, beta))
  for norm, make in GEOMETRIES.items()
  for beta in (0.0, 0.9)
}
every_case = pytest.mark.parametrize(
  ('method', 'oracle'), CASES.values(), ids=CASES
)


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


def make_data(d=4, seed=0):
  """Three separable h_i of each class, and w_i; the last row is padding."""
  rng = np.random.default_rng(seed)
  directions = rng.normal(size=[K, d])
  pool = rng.normal(size=(100, d))
  classes = np.argmax(pool @ directions.T, 1)
  chosen = [np.flatnonzero(classes == c)[:3] for c in range(K)]
  rows = rng.permutation(np.concatenate(chosen))
  features, labels = (
    pool[rows] + 0.02 * directions[classes[rows]],
    classes[rows],
  )
  features[-1] = 0
  return features, labels, np.array([1, 3, 1, 1, 2, 1, 1, 1, 0.0])


def make_copies(features, labels, weights):
  """Each example as often as its weight says."""
  times = weights.astype(int)
  return np.repeat(features, times, 0), np.repeat(labels, times)


def run(method, data, steps, num_classes=None):
  """W_1, …, W_T and the margins of each."""
  problem = multiclass.make_problem(
    *data[:2], weights=data[2], num_classes=num_classes
  )
  return iterates(method, problem, steps)


@pytest.mark.slow
@every_case
def test_iterates_are_those_of_the_formulas(method, oracle):
  data = make_data()
  found, margins = run(method, data, 25)
  features, labels = make_copies(*data)
  expected = oracle(features, labels, K, 25)
  # A few roundings of 1e-16 a step, at the worst doubled by each; no logits of
  # two classes come within 1e-9, where a perceptron would go another way.
  np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8)
  rows = oracles.class_differences(*data[:2], K).reshape(
    -1, K - 1, found[0].size
  )
  products = np.einsum('icj,tj->tic', rows, expected.reshape(len(found), -1))
  np.testing.assert_allclose(margins, np.min(products, 2), rtol=1e-8, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize(
  'method', [multiclass.normalized_lr_gd(2.0), multiclass.perceptron()]
)
def test_sparse_features_and_jit_change_nothing(method):
  features, labels, weights = make_data()
  features = np.where(np.abs(features) < 0.5, 0, features)
  build = jax.jit(
    lambda x, y, w: multiclass.make_problem(x, y, weights=w, num_classes=K)
  )
  other = build(sparse.BCOO.fromdense(jnp.asarray(features)), labels, weights)
  for a, b in zip(
    run(method, (features, labels, weights), 10),
    iterates(method, other, 10),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
  ('of_classes', 'of_two'),
  [
    (multiclass.lr_gd(2.0), logistic.lr_gd(4.0)),
    (multiclass.normalized_lr_gd(2.0), logistic.normalized_lr_gd(4.0)),
    (multiclass.sign_descent(0.5, 0.9), logistic.sign_descent(1.0, 0.9)),
    # ‖(g, −g)‖ is √2 ‖g‖ in the Frobenius norm, and in the spectral norm.
    (multiclass.normalized_gd(0.5), logistic.normalized_gd(2**0.5 / 2)),
    (multiclass.spectral_descent(0.5), logistic.normalized_gd(2**0.5 / 2)),
  ],
)
def test_two_classes_are_those_of_logistic_with_another_step_size(
  of_classes, of_two
):
  features, signs, weights = make_two_classes()
  # Class 0 is the positive one: θ = w_0 − w_1.
  found, margins = run(of_classes, (features, (1 - signs) // 2, weights), 20)
  problem = logistic.make_problem(features, signs, weights=weights)
  expected, of_theta = iterates(of_two, problem, 20)
  np.testing.assert_allclose(found[:, 0], expected / 2, rtol=1e-9, atol=1e-10)
  np.testing.assert_allclose(found[:, 1], -expected / 2, rtol=1e-9, atol=1e-10)
  np.testing.assert_allclose(margins, of_theta, rtol=1e-9, atol=1e-10)


def test_two_classes_of_the_perceptrons_are_those_of_logistic():
  features, signs, weights = make_two_classes()
  problem = logistic.make_problem(features, signs, weights=weights)
  for name in ('perceptron', 'batch_perceptron'):
    method = getattr(multiclass, name)()
    found, _ = run(method, (features, (1 - signs) // 2, weights), 20)
    expected, _ = iterates(getattr(logistic, name)(), problem, 20)
    np.testing.assert_allclose(found[:, 0] - found[:, 1], 2 * expected)


def test_large_steps_tend_to_the_batch_perceptron():
  data = make_data(seed=8)  # Takes some steps.
  limit, _ = run(multiclass.batch_perceptron(), data, 15)
  deviations = []
  for step_size in (1e2, 1e5, 1e9):
    found, _ = run(multiclass.lr_gd(step_size), data, 15)
    deviations.append(np.max(np.abs(found / step_size - limit)))
  assert deviations[0] > 1e-4
  assert deviations[2] < 1e-13


def test_the_perceptron_keeps_to_its_bound():
  for seed in range(3, 6):
    data = make_data(seed=seed)
    found = multiclass.solve(
      multiclass.perceptron(), *data[:2], weights=data[2], max_steps=100_000
    )
    best = multiclass.max_margin(*data[:2], weights=data[2])
    radius = np.max(np.linalg.norm(data[0], axis=1))
    assert found.solved
    assert found.iterations <= 2 * (radius / best.margin) ** 2


def test_steps_keep_their_length_where_every_probability_underflows():
  data = jnp.eye(3), jnp.arange(3), jnp.ones(3)
  problem = multiclass.make_problem(*data[:2], weights=data[2])
  for method, length in {
    # Each of the six Δ_ic pulls by 1/6; W is 1e4 times the identity.
    multiclass.normalized_lr_gd(6.0): np.sqrt(3 * 2**2 + 6 * 1**2),
    multiclass.normalized_gd(1.0, 0.9): 1.0,
    multiclass.spectral_descent(1.0): np.sqrt(2),
  }.items():
    state = method.init(problem)
    logits = 1e4 * jnp.eye(3)
    state = state._replace(
      params=logits, logits=logits, margins=jnp.full(3, 1e4)
    )
    change = method.step(state, problem).params - logits
    np.testing.assert_allclose(np.linalg.norm(change), length, rtol=1e-10)


@every_case
def test_solved_float32_data_stay_finite(method, oracle):
  del oracle
  with jax.enable_x64(False):
    problem = multiclass.make_problem(jnp.eye(3), jnp.arange(3))
    state = method.init(problem)
    logits = 1e6 * jnp.eye(3)
    state = state._replace(
      params=logits, logits=logits, margins=jnp.full(3, 1e6)
    )
    state = method.step(state, problem)
  assert state.params.dtype == jnp.float32
  assert np.all(np.isfinite(state.params))


def test_the_trajectory_is_what_numpy_sees_of_the_iterates():
  data = make_data(seed=8)
  features, labels = make_copies(*data)
  solution, trajectory = jax.jit(
    lambda: multiclass.record(
      multiclass.lr_gd(3.0),
      data[0],
      np.asarray(data[1]),
      weights=data[2],
      num_steps=30,
      num_classes=K,
    )
  )()
  rest = oracles.class_lr_gd(features, labels, K, 30, 3.0)
  iterates = np.concatenate([np.zeros([1, K, 4]), rest])
  logits = np.einsum('tcj,ij->tic', iterates, features)
  right = np.take_along_axis(logits, labels[None, :, None], 2)
  losses = np.log(np.sum(np.exp(logits - right), 2))
  others = np.where(np.arange(K) == labels[:, None], -np.inf, logits)
  margins = right[..., 0] - np.max(others, 2)
  norms = np.linalg.norm(iterates, axis=(1, 2))
  expected = logistic.Trajectory(
    loss=np.mean(losses, 1),
    accuracy=np.mean(margins > 0, 1),
    gradient_norm=np.append(
      np.linalg.norm(np.diff(iterates, axis=0), axis=(1, 2)) / 3, np.nan
    ),
    margin=np.min(margins, 1) / np.where(norms == 0, np.nan, norms),
  )
  found = trajectory._replace(
    gradient_norm=trajectory.gradient_norm.at[-1].set(np.nan)
  )
  for value, of_numpy in zip(found, expected, strict=True):
    np.testing.assert_allclose(value, of_numpy, rtol=1e-9)
  first = np.argmax(expected.accuracy == 1)
  assert solution.solved
  assert int(solution.iterations) == first > 1
  np.testing.assert_allclose(
    solution.best_margin, np.nanmax(expected.margin), rtol=1e-9
  )
  alone = multiclass.solve(
    multiclass.lr_gd(3.0), *data[:2], weights=data[2], max_steps=30
  )
  assert int(alone.iterations) == first
  np.testing.assert_allclose(alone.params, iterates[first], rtol=1e-9)


def test_methods_of_two_and_of_k_classes_are_told_apart():
  features, labels = digits(0, 1)
  with pytest.raises(ValueError, match=r'that of the same name in logistic\.'):
    multiclass.solve(
      logistic.lr_gd(1.0), features, (labels + 1) // 2, max_steps=2
    )
  with pytest.raises(ValueError, match='in logistic, or multiclass'):
    logistic.solve(multiclass.lr_gd(1.0), features, labels, max_steps=2)


BAD = {
  'strings': (dict(labels=np.array(['a', 'b', 'c'])), 'LabelEncoder'),
  'floats': (dict(labels=np.array([0.0, 1, 2])), 'be integers .*got float64'),
  'other integers': (dict(labels=np.array([3, 5, 9])), 'got 3, 5, 9; .*Label'),
  'a gap': (dict(labels=np.array([0, 2, 2])), 'got 0, 2; .* num_classes'),
  'one class': (dict(labels=np.zeros(3, int)), 'k ≥ 2 classes, got 0'),
  'beyond': (dict(num_classes=2), 'got 0, 1, 2'),
  'no number': (dict(num_classes=1), 'num_classes must be an integer of at'),
  'length': (dict(labels=np.array([0, 1])), r'features must|labels must'),
}


@pytest.mark.parametrize(('arguments', 'message'), BAD.values(), ids=BAD)
def test_labels_that_are_no_classes_are_refused(arguments, message):
  good = dict(features=np.eye(3), labels=np.arange(3))
  with pytest.raises(ValueError, match=message):
    multiclass.make_problem(**(good | arguments))


def test_traced_labels_need_a_number_of_classes():
  build = lambda y: multiclass.make_problem(np.eye(3), y).targets
  with pytest.raises(ValueError, match='num_classes must be given'):
    jax.jit(build)(np.arange(3))


def test_padding_may_have_any_label():
  data = make_data()
  labels = np.append(data[1][:-1], 77)
  method = multiclass.normalized_lr_gd(1.0)
  found, _ = run(method, (data[0], labels, data[2]), 5)
  expected, _ = run(method, data, 5)
  np.testing.assert_array_equal(found, expected)
