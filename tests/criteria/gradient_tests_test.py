"""If these fail, the batch size follows another rule than the papers'."""

import functools

import hypothesis
import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import strategies as st

import adaopt


def _statistics(mean, variance=None, along_mean=None, coordinates=None):
  as_arrays = lambda tree: jax.tree.map(
    lambda x: jnp.asarray(x, jnp.float32),
    tree,
    is_leaf=lambda x: isinstance(x, list),
  )
  return adaopt.GradientStatistics(
    batch_size=jnp.array(8),
    mean=as_arrays(mean),
    variance=as_arrays(variance),
    coordinate_variance=as_arrays(coordinates),
    variance_along_mean=as_arrays(along_mean),
  )


MEAN = {'w': [3.0, 0.0], 'b': 4.0}  # ‖ḡ‖² = 25

# v = 50, v∥ = 20, v⊥ = 30.
TOTAL = _statistics(MEAN, {'w': 18.0, 'b': 32.0}, 20.0)
COORDINATE = _statistics(
  MEAN, along_mean=20.0, coordinates={'w': [18.0, 0.0], 'b': 32.0}
)
BOTH = TOTAL._replace(coordinate_variance=COORDINATE.coordinate_variance)

median = functools.partial(jnp.quantile, q=0.5)


@pytest.mark.parametrize(
  ('criterion', 'expected'),
  [
    (adaopt.norm_test(eta=0.5), 8.0),  # 50 / (0.25 · 25)
    (adaopt.norm_test(eta=2.0), 0.5),
    (adaopt.criteria.big_batch_test(), 2.0),  # 50 / 25
    (adaopt.inner_product_test(theta=0.5), 3.2),  # 20 / (0.25 · 25)
    (adaopt.criteria.orthogonality_test(nu=0.5), 4.8),  # 30 / (0.25 · 25)
    (adaopt.augmented_inner_product_test(theta=0.5, nu=0.5), 4.8),
    (adaopt.augmented_inner_product_test(theta=0.2, nu=0.5), 20.0),
  ],
)
def test_requirements_equal_those_computed_by_hand(criterion, expected):
  for stats in (TOTAL, COORDINATE, BOTH):
    required = criterion(stats)
    assert required.shape == ()
    assert required.dtype == jnp.float32
    np.testing.assert_allclose(required, expected, 1e-6)


@pytest.mark.parametrize(
  ('options', 'expected'),
  [
    ({}, 8.0),
    (dict(reduce=jnp.max), 8.0),
    (dict(reduce=jnp.mean), 16 / 3),
    (dict(reduce=jnp.min), 0.0),
    (dict(reduce=median), 8.0),
  ],
  ids=['default', 'max', 'mean', 'min', 'median'],
)
def test_coordinate_requirements_are_reduced_over_all_tensors(
  options, expected
):
  # 18 / (0.25 · 9), 0 without noise or gradient, 32 / (0.25 · 16).
  for stats in (COORDINATE, BOTH):
    required = adaopt.coordinate_norm_test(0.5, **options)(stats)
    np.testing.assert_allclose(required, expected, 1e-6)


def test_the_noise_of_tensors_counts_where_that_of_coordinates_is_another():
  # Such as NaN, where a step did not measure it.
  stats = BOTH._replace(
    coordinate_variance=jax.tree.map(
      lambda v: jnp.full_like(v, jnp.nan), COORDINATE.coordinate_variance
    )
  )
  np.testing.assert_allclose(adaopt.norm_test(0.5)(stats), 8.0, 1e-6)


def test_the_coordinate_that_asks_for_most_decides():
  stats = _statistics([1.0, 2.0, 3.0], coordinates=[1.0, 40.0, 27.0])
  assert adaopt.coordinate_norm_test(1.0)(stats) == 10.0
  assert adaopt.coordinate_norm_test(1.0, jnp.min)(stats) == 1.0
  assert adaopt.coordinate_norm_test(1.0, median)(stats) == 3.0


NAN, INF = float('nan'), float('inf')


@pytest.mark.parametrize(
  ('mean', 'noise', 'expected'),
  [
    (0.0, 0.0, NAN),
    (0.0, 2.0, INF),
    (2.0, 0.0, 0.0),
    (2.0, INF, NAN),
    (2.0, NAN, NAN),
    (INF, 2.0, NAN),
    (NAN, 2.0, NAN),
    (INF, INF, NAN),
    (0.0, INF, NAN),
    (1e30, 1.0, NAN),
  ],
  ids=[
    'neither noise nor signal',
    'noise without signal',
    'signal without noise',
    'infinite noise',
    'noise nan',
    'infinite signal',
    'signal nan',
    'both infinite',
    'infinite noise without signal',
    'signal overflows',
  ],
)
@pytest.mark.parametrize(
  ('criterion', 'statistics_of'),
  [
    (adaopt.norm_test(1.0), lambda m, v: _statistics(m, v)),
    (adaopt.criteria.big_batch_test(), lambda m, v: _statistics(m, v)),
    (adaopt.inner_product_test(1.0), lambda m, v: _statistics(m, 0.0, v)),
    (
      adaopt.criteria.orthogonality_test(1.0),
      lambda m, v: _statistics(m, v, 0.0),
    ),
  ],
  ids=['norm', 'big batch', 'inner product', 'orthogonality'],
)
def test_degenerate_statistics(criterion, statistics_of, mean, noise, expected):
  stats = statistics_of(mean, noise)
  np.testing.assert_array_equal(criterion(stats), expected)
  np.testing.assert_array_equal(jax.jit(criterion)(stats), expected)


@pytest.mark.parametrize(
  ('mean', 'noise', 'expected'),
  [
    ([0.0, 2.0], [0.0, 8.0], 2.0),
    ([0.0, 2.0], [1.0, 8.0], INF),
    ([1e-25, 2.0], [0.0, 8.0], 2.0),
    ([0.0, 0.0], [0.0, 0.0], NAN),
    ([NAN, 2.0], [1.0, 8.0], NAN),
    ([1.0, 2.0], [INF, 8.0], NAN),
    ([0.0, 2.0], [NAN, 8.0], NAN),
  ],
  ids=[
    'a dead coordinate asks for none',
    'a coordinate of noise alone asks for all',
    'a coordinate below the range of squares asks for none',
    'only dead coordinates',
    'signal nan',
    'infinite noise',
    'noise nan without signal',
  ],
)
def test_degenerate_coordinates(mean, noise, expected):
  criterion = adaopt.coordinate_norm_test(1.0)
  stats = _statistics(mean, coordinates=noise)
  np.testing.assert_array_equal(criterion(stats), expected)
  np.testing.assert_array_equal(jax.jit(criterion)(stats), expected)


def test_a_quantile_forgives_the_coordinate_of_noise_alone():
  stats = _statistics([0.0, 1.0, 1.0], coordinates=[1.0, 2.0, 3.0])
  assert adaopt.coordinate_norm_test(1.0)(stats) == INF
  assert adaopt.coordinate_norm_test(1.0, median)(stats) == 3.0


def test_rounding_above_the_total_leaves_nothing_orthogonal():
  stats = _statistics([1.0], 1.0, 1.0 + 1e-6)
  assert adaopt.criteria.orthogonality_test(0.1)(stats) == 0.0


def test_noise_without_signal_asks_the_augmented_test_for_all_examples():
  # The gradients cancel, so that there is no direction to project on.
  x = jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
  estimate = adaopt.value_and_statistics(lambda params, x: jnp.mean(x @ params))
  _, stats = estimate(jnp.ones(2), x)
  assert adaopt.norm_test(1.0)(stats) == INF
  assert adaopt.augmented_inner_product_test(1.0, 1.0)(stats) == INF


COMPUTED = 'which is None; value_and_statistics computes it unless only='
SECOND_PASS = f'{COMPUTED}.* accumulate cannot merge it: use train_step or fit'


@pytest.mark.parametrize(
  ('criterion', 'stats', 'message'),
  [
    (
      adaopt.norm_test(0.1),
      _statistics(MEAN),
      rf'norm_test needs statistics\.variance, {COMPUTED}',
    ),
    (
      adaopt.criteria.big_batch_test(),
      _statistics(MEAN),
      rf'big_batch_test needs statistics\.variance, {COMPUTED}',
    ),
    (
      adaopt.inner_product_test(0.1),
      _statistics(MEAN, 1.0),
      r'inner_product_test needs statistics\.variance_along_mean, '
      + SECOND_PASS,
    ),
    (
      adaopt.criteria.orthogonality_test(0.1),
      _statistics(MEAN, None, 1.0),
      rf'orthogonality_test needs statistics\.variance, {COMPUTED}',
    ),
    (
      adaopt.criteria.orthogonality_test(0.1),
      _statistics(MEAN, 1.0),
      r'orthogonality_test needs statistics\.variance_along_mean, '
      + SECOND_PASS,
    ),
    (
      adaopt.augmented_inner_product_test(0.1, nu=0.1),
      _statistics(MEAN, 1.0),
      rf'needs statistics\.variance_along_mean, {SECOND_PASS}',
    ),
    (
      adaopt.coordinate_norm_test(0.1),
      _statistics(MEAN),
      rf'ordinate_norm_test needs statistics\.coordinate_variance, {COMPUTED}',
    ),
    (
      adaopt.coordinate_norm_test(0.1),
      TOTAL,
      rf'ordinate_norm_test needs statistics\.coordinate_variance, {COMPUTED}',
    ),
  ],
  ids=[
    'norm',
    'big batch',
    'inner product',
    'orthogonality, variance',
    'orthogonality, along mean',
    'augmented',
    'coordinate, none',
    'coordinate, total',
  ],
)
def test_missing_statistics_name_the_remedy(criterion, stats, message):
  with pytest.raises(ValueError, match=message):
    criterion(stats)
  with pytest.raises(ValueError, match=message):
    jax.jit(criterion)(stats)


@pytest.mark.parametrize(
  'bad', [0, 0.0, -0.1, NAN, INF, -INF, np.float32(0), jnp.array(-1.0)]
)
@pytest.mark.parametrize(
  ('build', 'name'),
  [
    (lambda bad: adaopt.norm_test(bad), 'eta'),
    (lambda bad: adaopt.inner_product_test(bad), 'theta'),
    (lambda bad: adaopt.criteria.orthogonality_test(bad), 'nu'),
    (lambda bad: adaopt.augmented_inner_product_test(bad, 1.0), 'theta'),
    (lambda bad: adaopt.augmented_inner_product_test(1.0, bad), 'nu'),
    (lambda bad: adaopt.coordinate_norm_test(bad), 'eta'),
  ],
  ids=[
    'norm',
    'inner product',
    'orthogonality',
    'augmented, theta',
    'augmented, nu',
    'coordinate',
  ],
)
def test_a_tolerance_must_be_positive_and_finite(build, name, bad):
  message = f'^{name} must be positive and finite, got {bad}'
  with pytest.raises(ValueError, match=message):
    build(bad)


def test_reduce_must_be_a_function():
  with pytest.raises(ValueError, match=r"reduce must be .*, got 'max'"):
    adaopt.coordinate_norm_test(0.1, 'max')


BUILDERS = {
  'norm': adaopt.norm_test,
  'inner product': adaopt.inner_product_test,
  'orthogonality': adaopt.criteria.orthogonality_test,
  'augmented': lambda x: adaopt.augmented_inner_product_test(x, 2 * x),
  'coordinate': adaopt.coordinate_norm_test,
}


@pytest.mark.parametrize('name', BUILDERS)
def test_tolerances_may_be_traced_and_batched(name):
  build = BUILDERS[name]
  require = lambda tolerance: build(tolerance)(COORDINATE)
  tolerances = jnp.array([0.1, 0.5, 2.0])
  required = jax.jit(jax.vmap(require))(tolerances)
  # Every test's requirement falls with the square of its tolerance.
  expected = require(1.0) / tolerances**2
  assert expected[0] > 0
  np.testing.assert_allclose(required, expected, 1e-6)


@functools.cache
def _requirements():
  """Gradients [b, 4], loss scale, θ, ν → the requirement of every test."""
  params = {'a': np.zeros(3), 'b': np.zeros(())}

  @jax.jit
  def requirements(gradients, scale, theta, nu):
    def loss_fn(params, g):
      values = g[:, :3] @ params['a'] + g[:, 3] * params['b']
      return scale * jnp.mean(values)

    estimate = adaopt.value_and_statistics(loss_fn)
    _, stats = estimate(params, gradients)
    criteria = {
      'norm': adaopt.norm_test(jnp.hypot(theta, nu)),
      'inner product': adaopt.inner_product_test(theta),
      'orthogonality': adaopt.criteria.orthogonality_test(nu),
      'augmented': adaopt.augmented_inner_product_test(theta, nu),
      'coordinate': adaopt.coordinate_norm_test(theta),
    }
    return {name: criterion(stats) for name, criterion in criteria.items()}

  def in_float64(*args):
    with jax.enable_x64(True):
      return jax.device_get(requirements(*args))

  return in_float64


GRADIENTS = hnp.arrays(
  np.float64, (6, 4), elements=st.floats(-1e3, 1e3, width=32)
)
TOLERANCES = st.floats(0.05, 2.0)


@pytest.mark.parametrize('seed', range(5))
def test_requirements_of_gradients_equal_the_oracle(seed):
  g = np.random.default_rng(seed).normal(size=(6, 4)) + 0.3
  required = _requirements()(g, 1.0, 0.3, 0.4)
  expected = {
    'norm': oracles.norm_requirement(g, 0.5),
    'inner product': oracles.inner_product_requirement(g, 0.3),
    'orthogonality': oracles.orthogonality_requirement(g, 0.4),
    'augmented': oracles.augmented_requirement(g, 0.3, 0.4),
    'coordinate': np.max(oracles.coordinate_requirements(g, 0.3)),
  }
  assert required.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(required[name], value, 1e-10, err_msg=name)


@hypothesis.given(gradients=GRADIENTS, theta=TOLERANCES, nu=TOLERANCES)
@hypothesis.settings(max_examples=50, deadline=None)
def test_the_augmented_test_implies_the_norm_test(gradients, theta, nu):
  signal = oracles.squared_norm(oracles.mean(gradients))
  # Where the mean cancels to nothing its direction is rounding error.
  hypothesis.assume(signal > 1e-6 * np.mean(gradients**2))
  required = _requirements()(gradients, 1.0, theta, nu)
  assert required['norm'] <= required['augmented'] * (1 + 1e-9) + 1e-6


@hypothesis.given(
  gradients=GRADIENTS,
  sign=st.sampled_from([-1.0, 1.0]),
  power=st.integers(-20, 20),
)
@hypothesis.settings(max_examples=50, deadline=None)
def test_the_scale_of_the_loss_changes_no_requirement(gradients, sign, power):
  # A power of two only shifts exponents, so that the rounding is the same.
  required = _requirements()(gradients, 1.0, 0.3, 0.4)
  scaled = _requirements()(gradients, sign * 2.0**power, 0.3, 0.4)
  for name, value in required.items():
    np.testing.assert_array_equal(scaled[name], value, err_msg=name)


@pytest.mark.parametrize('scale', [-3.0, 0.1, 1e5])
def test_no_scale_of_the_loss_changes_a_requirement(scale):
  gradients = np.random.default_rng(0).normal(size=(6, 4)) + 0.3
  required = _requirements()(gradients, 1.0, 0.3, 0.4)
  scaled = _requirements()(gradients, scale, 0.3, 0.4)
  for name, value in required.items():
    assert 0 < value < INF
    np.testing.assert_allclose(scaled[name], value, 1e-10, err_msg=name)


@pytest.mark.parametrize('scale', [1e-10, 1e9])
def test_inner_product_test_keeps_its_meaning_at_every_scale(scale):
  x = jax.random.normal(jax.random.key(0), [32, 4]) + 0.3
  estimate = adaopt.value_and_statistics(
    lambda params, x: scale * jnp.mean(x @ params)
  )
  _, scaled = estimate(jnp.ones(4), x)
  _, plain = adaopt.value_and_statistics(
    lambda params, x: jnp.mean(x @ params)
  )(jnp.ones(4), x)
  test = adaopt.augmented_inner_product_test(0.5, nu=0.5)
  assert float(test(scaled)) == pytest.approx(float(test(plain)), rel=1e-4)
