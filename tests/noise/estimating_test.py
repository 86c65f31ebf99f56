"""If these fail, the instrument misleads: about the noise scale or its error.

The oracle sums over steps with explicit weights in float64. Coverage is that of
Gaussian gradients whose v and ‖∇F‖² are known.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

import adaopt
from adaopt import noise

MU = {'a': np.array([0.3, -0.2, 0.1]), 'b': np.array([0.5])}
SIGMA = {'a': np.array([1.0, 2.0, 0.5]), 'b': np.array([1.5])}


def _signal_and_noise(mu, sigma):
  """(v, ‖∇F‖²) in total and of both tensors, [3, 2]."""
  rows = [[np.sum(sigma[k] ** 2), np.sum(mu[k] ** 2)] for k in 'ab']
  return np.array([np.sum(rows, 0), *rows])


def _gaussian_steps(mu, sizes, repeats):
  """Statistics of b Gaussian gradients a step, [repeats, steps, ...]."""
  rng = np.random.default_rng(0)
  b = np.array(sizes)[:, None]
  mean, variance = {}, {}
  for k, sigma in SIGMA.items():
    shape = (repeats, len(sizes), len(sigma))
    mean[k] = mu[k] + sigma * rng.normal(size=shape) / np.sqrt(b)
    # ḡ and V of a normal sample are independent, V as χ² with b − 1 degrees.
    chi = rng.chisquare(np.broadcast_to(b - 1, shape)) / (b - 1)
    variance[k] = np.sum(sigma**2 * chi, -1)
  batch_size = np.broadcast_to(np.int32(sizes), [repeats, len(sizes)])
  as_float32 = lambda tree: jax.tree.map(jnp.float32, tree)
  return adaopt.GradientStatistics(
    jnp.asarray(batch_size), as_float32(mean), as_float32(variance)
  )


@jax.jit
def _estimates(half_life, steps):
  instrument = adaopt.noise_scale(half_life=half_life)

  def step(state, s):
    return instrument.update(s.mean, state, statistics=s)[1], None

  def run(steps):
    return noise.noise_estimates(
      jax.lax.scan(step, instrument.init(MU), steps)[0]
    )

  return jax.vmap(run)(steps)


@functools.cache
def _runs(half_life, sizes, scale=1.0):
  """The estimates of many runs, [1000, 3], and (v, ‖∇F‖²), [3, 2]."""
  mu = jax.tree.map(lambda m: scale * m, MU)
  found = _estimates(half_life, _gaussian_steps(mu, sizes, repeats=1000))
  return jax.device_get(found), _signal_and_noise(mu, SIGMA)


ALIKE = 1e9, (16,) * 160

CASES = {
  'all steps alike': ALIKE,
  'a short half-life': (16 * 30.0, (16,) * 160),
  'sizes that grow': (1e9, (4,) * 60 + (16,) * 60 + (64,) * 40),
  'sizes that grow and a half-life': (
    2000.0,
    (4,) * 50 + (16,) * 50 + (64,) * 60,
  ),
}


@pytest.mark.slow
@pytest.mark.parametrize('case', CASES.values(), ids=CASES)
def test_the_standard_errors_cover_the_truth(case):
  found, truth = _runs(*case)
  within = np.abs(found.noise_scale - truth[:, 0] / truth[:, 1])
  covered = np.mean(within <= 2 * found.standard_error, 0)
  between = np.mean(
    (found.low <= truth[:, 0] / truth[:, 1])
    & (truth[:, 0] / truth[:, 1] <= found.high),
    0,
  )
  # 0.954 for two errors of a normal estimate; ± 3 binomial deviations of 1000
  # runs are ± 0.02, and some 50 effective steps, whose error is itself an
  # estimate, and the curvature of the ratio take another 0.02.
  assert np.all((covered > 0.91) & (covered < 0.98)), covered
  assert np.all((between > 0.91) & (between < 0.98)), between


@pytest.mark.parametrize('case', CASES.values(), ids=CASES)
def test_noise_and_signal_are_unbiased(case):
  found, truth = _runs(*case)
  for value, expected in (
    (found.noise, truth[:, 0]),
    (found.signal, truth[:, 1]),
  ):
    error = np.std(value, 0) / np.sqrt(len(value))
    # Six means of 1000: four standard errors are passed once in 2600 times.
    assert np.all(np.abs(np.mean(value, 0) - expected) < 4 * error)


def test_without_a_signal_the_interval_has_no_upper_end():
  found, _ = _runs(*ALIKE, scale=0.0)
  # One side of two errors: 0.977.
  assert np.all(np.mean(np.isinf(found.high), 0) > 0.95)
  nothing = found.signal <= 0
  assert 0.4 < np.mean(nothing) < 0.7
  for field in (found.noise_scale, found.standard_error, found.high):
    assert np.all(np.isinf(field[nothing]))
  assert np.all(found.low > 0)


def test_a_signal_within_its_error_is_in_the_interval():
  found, truth = _runs(*ALIKE, scale=0.3)
  expected = truth[:, 0] / truth[:, 1]
  unbounded = np.mean(np.isinf(found.high), 0)
  assert np.all(unbounded[:2] > 0.2)
  covered = np.mean((found.low <= expected) & (expected <= found.high), 0)
  assert np.all((covered > 0.91) & (covered < 0.98)), covered


def _steps(rng, sizes):
  """Statistics of random steps, and (v, ‖ḡ‖² − v/b) of each, [steps, 3, 2]."""
  steps, rows = [], []
  for b in sizes:
    mean = {'a': rng.normal(size=3), 'b': rng.normal(size=1)}
    v = dict(zip('ab', rng.uniform(1, 9, size=2), strict=True))
    as_array = lambda tree: jax.tree.map(jnp.asarray, tree)
    steps.append(
      adaopt.GradientStatistics(jnp.int32(b), as_array(mean), as_array(v))
    )
    row = [[v[k], oracles.squared_norm(mean[k]) - v[k] / b] for k in 'ab']
    rows.append([np.sum(row, 0), *row])
  return steps, np.array(rows)


def _measure(instrument, params, steps):
  update = jax.jit(
    lambda state, s: instrument.update(s.mean, state, statistics=s)[1]
  )
  state = instrument.init(params)
  for statistics in steps:
    state = update(state, statistics)
  return state


@pytest.mark.slow
@pytest.mark.parametrize('half_life', [10.0, 1e3, 1e12])
def test_averages_are_those_of_weights_by_examples(half_life):
  sizes = [8, 16, 4, 64, 32, 8, 8]
  with jax.enable_x64(True):
    steps, x = _steps(np.random.default_rng(0), sizes)
    state = _measure(adaopt.noise_scale(half_life=half_life), MU, steps)
    found = jax.device_get(noise.noise_estimates(state))
  after = np.cumsum(sizes[::-1])[::-1] - sizes  # examples after each step
  weights = -np.expm1(-np.log(2) * np.array(sizes) / half_life)
  weights *= 2.0 ** (-after / half_life)
  weights /= np.sum(weights)
  mean = np.einsum('t,tkx->kx', weights, x)
  rest = x - mean
  spread = np.einsum('t,tkx,tky->kxy', weights**2, rest, rest)
  # Sums of seven terms in float64.
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9)
  close(state.mean, mean)
  close(state.spread, spread)
  close(state.concentration, np.sum(weights**2))
  close(state.weight, -np.expm1(-np.log(2) * sum(sizes) / half_life))
  assert (state.measured, state.last_measured) == (sum(sizes), 8)
  v, signal = mean.T
  scale = v / signal
  covariance = spread / (1 - np.sum(weights**2))
  gradient = np.stack([1 / signal, -v / signal**2], 1)
  error = np.sqrt(np.einsum('kx,kxy,ky->k', gradient, covariance, gradient))
  positive = signal > 0
  assert np.any(positive)
  close(found.noise_scale[positive], scale[positive])
  close(found.standard_error[positive], error[positive])


def test_the_ends_of_the_interval_are_two_errors_of_noise_less_signal():
  # Fieller: at either end R of the interval, v − R s is two errors from 0.
  with jax.enable_x64(True):
    steps, _ = _steps(np.random.default_rng(1), [64] * 40)
    state = _measure(adaopt.noise_scale(half_life=1e6), MU, steps)
    found = jax.device_get(noise.noise_estimates(state))
    state = jax.device_get(state)
  covariance = state.spread / (1 - state.concentration)
  assert np.all(np.isfinite(found.high))
  for end in (found.low, found.high):
    direction = np.stack([np.ones_like(end), -end], 1)
    distance = np.sum(direction * state.mean, 1)
    variance = np.einsum('kx,kxy,ky->k', direction, covariance, direction)
    np.testing.assert_allclose(distance**2, 4 * variance, rtol=1e-9)


def test_small_noise_beside_large_values_does_not_cancel_in_float32():
  rng = np.random.default_rng(0)
  noises = 100 + 1e-3 * rng.normal(size=500)
  params = jnp.zeros(1)
  instrument = adaopt.noise_scale(half_life=1e9)

  def step(state, v):
    statistics = adaopt.GradientStatistics(jnp.int32(10), jnp.full(1, 30.0), v)
    return instrument.update(params, state, statistics=statistics)[1], None

  state, _ = jax.lax.scan(step, instrument.init(params), jnp.float32(noises))
  expected = np.var(np.float32(noises).astype(float)) / 500
  # v varies by 1e-5 of itself, a hundred ulps of float32.
  np.testing.assert_allclose(state.spread[0, 0, 0], expected, rtol=0.05)


@pytest.mark.slow
def test_a_single_step_has_no_standard_error_and_none_no_noise_scale():
  instrument = adaopt.noise_scale(half_life=100)
  steps, x = _steps(np.random.default_rng(2), [64])
  fresh = jax.device_get(noise.noise_estimates(instrument.init(MU)))
  assert fresh.effective_steps == 0
  for field in fresh[2:-1]:
    assert np.all(np.isnan(field))
  found = jax.device_get(noise.noise_estimates(_measure(instrument, MU, steps)))
  assert found.effective_steps == 1
  np.testing.assert_allclose(
    found.noise_scale, x[0, :, 0] / x[0, :, 1], rtol=1e-5
  )
  for field in found[3:-1]:
    assert np.all(np.isnan(field))


NAN, INF = float('nan'), float('inf')


@pytest.mark.parametrize(
  ('mean', 'variance', 'batch_size'),
  [(NAN, 1.0, 8), (1.0, NAN, 8), (1.0, INF, 8), (1e30, 1.0, 8), (1.0, 1.0, 0)],
)
def test_what_is_not_finite_is_not_measured(mean, variance, batch_size):
  instrument = adaopt.noise_scale(half_life=100)
  steps, _ = _steps(np.random.default_rng(3), [64, 64])
  state = _measure(instrument, MU, steps)
  statistics = adaopt.GradientStatistics(
    jnp.int32(batch_size),
    {'a': jnp.full(3, mean), 'b': jnp.ones(1)},
    {'a': jnp.float32(variance), 'b': jnp.float32(1.0)},
  )
  _, same = instrument.update(statistics.mean, state, statistics=statistics)
  jax.tree.map(np.testing.assert_array_equal, same, state)
  updates, same = instrument.update(statistics.mean, state, statistics=None)
  assert updates is statistics.mean
  assert same is state


def test_tensors_without_noise_and_signal_show_no_evidence():
  instrument = adaopt.noise_scale(half_life=100)
  zero = adaopt.GradientStatistics(
    jnp.int32(8),
    {'a': jnp.ones(3), 'b': jnp.zeros(1)},
    {'a': jnp.float32(2.0), 'b': jnp.float32(0.0)},
  )
  state = _measure(instrument, MU, [zero, zero])
  found = jax.device_get(noise.noise_estimates(state))
  np.testing.assert_allclose(found.noise_scale[:2], 2 / 2.75, rtol=1e-6)
  np.testing.assert_array_equal(found.standard_error[:2], 0)
  for field in found[2:-1]:
    assert np.isnan(field[2])


def test_the_variance_by_coordinate_serves_too():
  instrument = adaopt.noise_scale(half_life=100)
  steps, _ = _steps(np.random.default_rng(4), [8, 8])
  by_coordinate = [
    s._replace(
      variance=None,
      coordinate_variance={
        'a': jnp.full(3, s.variance['a'] / 3),
        'b': jnp.full(1, s.variance['b']),
      },
    )
    for s in steps
  ]
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7),
    _measure(instrument, MU, by_coordinate),
    _measure(instrument, MU, steps),
  )


@pytest.mark.parametrize(
  ('half_life', 'message'),
  [
    (0, 'half_life must be positive and finite, got 0'),
    (INF, 'half_life must be positive and finite, got inf'),
    ('1', "half_life must be a number, got '1'"),
  ],
)
def test_a_half_life_out_of_range_is_refused(half_life, message):
  with pytest.raises(ValueError, match=message):
    adaopt.noise_scale(half_life=half_life)


def test_statistics_that_do_not_fit_are_told():
  instrument = adaopt.noise_scale(half_life=100)
  state = instrument.init(MU)
  ones = jax.tree.map(jnp.ones_like, MU)
  update = lambda updates, statistics: instrument.update(
    updates, state, statistics=statistics
  )
  with pytest.raises(ValueError, match='noise_scale needs the statistics of'):
    instrument.update(ones, state)
  bare = adaopt.GradientStatistics(jnp.int32(8), ones)
  with pytest.raises(ValueError, match=r'needs statistics\.variance, .* None'):
    update(ones, bare)
  of_one = adaopt.GradientStatistics(jnp.int32(8), ones['a'], jnp.ones([]))
  with pytest.raises(ValueError, match=r'of 1 tensors, .* of 2; pass those of'):
    update(ones['a'], of_one)
  with pytest.raises(ValueError, match='tensors that it is passed updates of'):
    update(ones, of_one)


def test_the_half_life_can_be_injected_and_changed():
  injected = optax.inject_hyperparams(adaopt.noise_scale)(half_life=100.0)
  steps, _ = _steps(np.random.default_rng(5), [8, 8])
  state = injected.init(MU)
  state.hyperparams['half_life'] = jnp.float32(10.0)
  for s in steps:
    _, state = injected.update(s.mean, state, statistics=s)
  found = optax.tree.get(state, 'weight')
  np.testing.assert_allclose(found, 1 - 2.0 ** (-16 / 10), rtol=1e-6)
