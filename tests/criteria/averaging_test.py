"""If these fail, a criterion of one's own takes noise for signal."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import adaopt
from adaopt import criteria
from adaopt.criteria import averaging


def test_the_signal_is_unbiased_over_all_batches_of_a_population():
  population = np.array([[1.0, 2.0], [3.0, -1.0], [-0.5, 0.5]])
  signals, powers = [], []
  for batch in itertools.product(population, repeat=2):
    g = np.stack(batch)
    measured = criteria.debiased(
      adaopt.GradientStatistics(
        jnp.int32(2),
        jnp.asarray(oracles.mean(g), jnp.float32),
        jnp.float32(oracles.total_variance(g)),
      ),
      floor=0.01,
      test='a test',
    )
    signals.append(measured.signal)
    powers.append(oracles.squared_norm(oracles.mean(g)))
  truth = oracles.squared_norm(oracles.mean(population))
  # Nine float32 numbers of order 10.
  np.testing.assert_allclose(np.mean(signals), truth, rtol=1e-5)
  assert np.mean(powers) > 2 * truth


@pytest.mark.parametrize('decay', [0.0, 0.75])
def test_a_criterion_of_ones_own_averages_what_it_measures(decay):
  def measure(statistics, *, value, **extra_args):
    del extra_args
    return criteria.NoiseAndSignal(statistics.variance, value, floor=0.5)

  criterion = criteria.ratio_of_averages(measure, decay)
  state = criterion.init(jnp.zeros(2))
  noises, signals = [6.0, 2.0, 8.0], [2.0, -3.0, 4.0]
  for t, (noise, signal) in enumerate(zip(noises, signals, strict=True), 1):
    statistics = adaopt.GradientStatistics(
      jnp.int32(4), jnp.ones(2), jnp.float32(noise)
    )
    required, state = criterion.update(
      statistics, state, value=jnp.float32(signal), unknown='text'
    )
    weights = decay ** np.arange(t - 1, -1, -1)
    weights /= weights.sum()
    expected = weights @ noises[:t] / max(weights @ signals[:t], 0.5)
    np.testing.assert_allclose(required, expected, rtol=1e-5)


@pytest.mark.parametrize('decay', [1.0, -0.5, float('nan')])
def test_a_decay_out_of_range_is_refused(decay):
  with pytest.raises(ValueError, match=f'decay must be .* got {decay}'):
    criteria.ratio_of_averages(lambda statistics: None, decay)


def test_a_missing_variance_names_who_asked():
  statistics = adaopt.GradientStatistics(jnp.int32(4), jnp.ones(2))
  with pytest.raises(ValueError, match=r'my_test needs statistics\.variance'):
    criteria.debiased(statistics, floor=0.1, test='my_test')


@pytest.mark.parametrize('field', ['variance', 'coordinate_variance'])
@pytest.mark.parametrize('flag', [False, True])
def test_averages_are_kept_where_a_variance_is_missing(field, flag):
  def step(averages, variance):
    statistics = adaopt.GradientStatistics(
      jnp.int32(4), jnp.array([1.0, 2.0]), **{field: variance}
    )
    return averaging.kept(
      averages, statistics, decay=0.5, floor=0.1, test='a test'
    )

  with jax.debug_nans(flag):
    state = step(averaging.zeros(), jnp.array([3.0, 1.0]))
    state = step(state, jnp.full(2, -1.0 if flag else jnp.nan))
    state = step(state, None)
  # v = 4, ‖ḡ‖² = 5.
  np.testing.assert_allclose(state, [2.0, (5 - 1) / 2, 0.25], rtol=1e-6)
