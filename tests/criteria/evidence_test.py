"""If these fail, criteria read what is not there, or divide it otherwise."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import adaopt
from adaopt import criteria

NAN, INF = float('nan'), float('inf')


@pytest.mark.parametrize(
  ('noise', 'signal', 'expected'),
  [
    (3.0, 2.0, 1.5),
    (0.0, 2.0, 0.0),
    (3.0, 0.0, INF),
    (1e-30, 0.0, INF),
    (0.0, 0.0, NAN),
    *((bad, 2.0, NAN) for bad in (NAN, INF)),
    *((3.0, bad, NAN) for bad in (NAN, INF)),
    *((bad, 0.0, NAN) for bad in (NAN, INF)),
    *((0.0, bad, NAN) for bad in (NAN, INF)),
    (INF, INF, NAN),
    # Beyond float32: more than any batch, and less than any.
    (1e30, 1e-30, INF),
    (1e-30, 1e30, 0.0),
  ],
)
def test_a_ratio_has_a_meaning_where_it_has_no_value(noise, signal, expected):
  noise, signal = jnp.float32(noise), jnp.float32(signal)
  for ratio in (criteria.ratio, jax.jit(criteria.ratio)):
    found = ratio(noise, signal)
    assert (found.shape, found.dtype) == ((), jnp.float32)
    np.testing.assert_array_equal(found, np.float32(expected))


def test_a_ratio_is_taken_entry_by_entry():
  noise = jnp.array([[1.0, 1.0, 0.0], [INF, NAN, 6.0]])
  signal = jnp.array([[2.0, 0.0, 0.0], [1.0, 1.0, 3.0]])
  np.testing.assert_array_equal(
    criteria.ratio(noise, signal), [[0.5, INF, NAN], [NAN, NAN, 2.0]]
  )


G = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32) + 0.5
PARAMS = {'a': jnp.zeros([2, 2]), 'b': jnp.zeros([])}


def _tree(row):
  return {'a': jnp.reshape(row[:4], [2, 2]), 'b': jnp.asarray(row[4])}


def _statistics(**options):
  def loss_fn(params, g):
    return jnp.mean(g[:, :4] @ params['a'].ravel() + g[:, 4] * params['b'])

  return adaopt.value_and_statistics(loss_fn, **options)(PARAMS, G)[1]


@pytest.mark.slow
@pytest.mark.parametrize(
  'only',
  [
    ('variance', 'coordinate_variance'),
    ('variance',),
    ('coordinate_variance',),
  ],
)
def test_the_total_variance_is_that_of_all_tensors(only):
  np.testing.assert_allclose(
    criteria.total_variance(_statistics(only=only), 'a test'),
    oracles.total_variance(G),
    rtol=1e-5,
  )


def test_what_is_read_is_what_the_gradients_say():
  statistics = _statistics()
  np.testing.assert_allclose(
    oracles.ravel(criteria.coordinate_variance(statistics, 'a test')),
    oracles.coordinate_variances(G),
    rtol=1e-5,
  )
  np.testing.assert_allclose(
    criteria.variance_along_mean(statistics, 'a test'),
    oracles.variance_along_mean(G),
    rtol=1e-5,
  )
  np.testing.assert_allclose(
    criteria.squared_norm(statistics),
    oracles.squared_norm(oracles.mean(G)),
    rtol=1e-5,
  )


@pytest.mark.parametrize(
  ('read', 'field'),
  [
    (criteria.total_variance, 'variance'),
    (criteria.coordinate_variance, 'coordinate_variance'),
    (criteria.matrix_variance, 'matrix_variance'),
    (criteria.variance_along_mean, 'variance_along_mean'),
  ],
)
def test_what_was_not_computed_is_named_with_who_asks(read, field):
  sentence = (
    rf'my_test needs statistics\.{field}, which is None; value_and_stat'
  )
  with pytest.raises(ValueError, match=sentence):
    read(_statistics(only=()), 'my_test')


def test_a_criterion_of_ones_own_is_a_function_of_these():
  def criterion(statistics):
    noise = criteria.total_variance(statistics, 'criterion')
    return criteria.ratio(noise, 0.25 * criteria.squared_norm(statistics))

  statistics = _statistics()
  np.testing.assert_array_equal(
    criterion(statistics), adaopt.norm_test(0.5)(statistics)
  )


FIELDS = adaopt.GradientStatistics(
  jnp.int32(8), jnp.ones(2), jnp.float32(1), jnp.ones(2), jnp.float32(1)
)
ASKED = {
  'norm_test': adaopt.norm_test(0.5),
  'big_batch_test': criteria.big_batch_test(),
  'inner_product_test': adaopt.inner_product_test(0.5),
  'orthogonality_test': criteria.orthogonality_test(0.5),
  'coordinate_norm_test': adaopt.coordinate_norm_test(0.5),
  'debiased_norm_test': adaopt.debiased_norm_test(0.5),
  'gradient_noise_scale': adaopt.gradient_noise_scale(),
  'cabs': criteria.cabs(0.5),
  'sign_noise_scale': criteria.sign_noise_scale(0.5),
  'spectral_noise_scale': criteria.spectral_noise_scale(0.5),
  'gradient_diversity': criteria.gradient_diversity(0.5, num_examples=8),
  'preconditioned_norm_test': criteria.preconditioned_norm_test(
    0.5, criteria.adam_preconditioner()
  ),
  'squared_norm': criteria.squared_norm,
}


@pytest.mark.parametrize('name', ASKED)
@pytest.mark.parametrize(
  ('passed', 'kind'),
  [
    (FIELDS.mean, 'Array'),
    ({'w': FIELDS.mean}, 'dict'),
    (tuple(FIELDS), 'tuple'),
    (jnp.int32(0), 'Array'),
    (None, 'NoneType'),
    (FIELDS._asdict(), 'dict'),
  ],
  ids=['gradient', 'tree', 'tuple', 'count', 'none', 'fields'],
)
def test_a_criterion_says_what_it_is_a_function_of(name, passed, kind):
  criterion = ASKED[name]
  if isinstance(criterion, adaopt.StatefulCriterion):
    state, update = criterion.init(FIELDS.mean), criterion.update
    criterion = lambda statistics: update(statistics, state)
  sentence = rf'{name} needs adaopt\.GradientStatistics.* got {kind}.*\. Within'
  with pytest.raises(ValueError, match=sentence):
    criterion(passed)
