"""If these fail, a loop of plain gradients measures a noise not its own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adaopt
from adaopt import noise

B = 16


def _instrument(half_life=1e9):
  return noise.between_steps(
    adaopt.noise_scale(half_life=half_life), batch_size=B
  )


def _fed(gradients, instrument):
  """The state after these gradients, [T, ...]."""

  def step(state, gradient):
    updates, state = instrument.update(gradient, state)
    return state, updates

  init = instrument.init(jax.tree.map(lambda g: g[0], gradients))
  state, updates = jax.jit(
    lambda gradients: jax.lax.scan(step, init, gradients)
  )(gradients)
  jax.tree.map(np.testing.assert_array_equal, updates, gradients)
  return state


@pytest.mark.slow
def test_a_pair_of_steps_is_two_micro_batches():
  rng = np.random.default_rng(0)
  gradients = {'a': rng.normal(size=(7, 3)), 'b': rng.normal(size=7)}
  gradients = jax.tree.map(jnp.float32, gradients)
  state = _fed(gradients, _instrument(half_life=100))
  expected = adaopt.noise_scale(half_life=100)
  expected_state = expected.init(jax.tree.map(lambda g: g[0], gradients))
  for t in (0, 2, 4):
    pair = jax.tree.map(lambda g, t=t: g[t : t + 2], gradients)
    statistics = noise.between_micro_batches(pair, micro_batch_size=B)
    _, expected_state = expected.update(
      statistics.mean, expected_state, statistics=statistics
    )
  assert state.is_waiting  # the seventh
  assert state.instrument_state.measured == 6 * B
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6),
    state.instrument_state,
    expected_state,
  )


def test_noise_and_signal_are_those_of_adaptdl():
  rng = np.random.default_rng(1)
  before, after = rng.normal(1, 1, size=(2, 5))
  state = _fed(jnp.float32([before, after]), _instrument())
  local = (before @ before + after @ after) / 2
  total = np.sum(((before + after) / 2) ** 2)
  row = noise.noise_report(state, jnp.zeros(5)).total
  np.testing.assert_allclose(row.noise, (local - total) * 2 * B, rtol=1e-5)
  np.testing.assert_allclose(row.signal, 2 * total - local, rtol=1e-5)
  np.testing.assert_allclose(row.signal, before @ after, rtol=1e-5)


@pytest.mark.slow
def test_it_finds_the_noise_at_fixed_parameters_within_its_errors():
  rng = np.random.default_rng(0)
  v, signal, runs = 50.0, 4.0, 40
  gradients = rng.normal(size=(200, runs, 5)) * np.sqrt(v / 5 / B)
  gradients[..., 0] += np.sqrt(signal)
  instrument = _instrument()
  feed = jax.vmap(instrument.update)
  state = jax.vmap(instrument.init)(jnp.float32(gradients[0]))
  step = lambda state, g: (feed(g, state)[1], None)
  state, _ = jax.jit(
    lambda state, gradients: jax.lax.scan(step, state, gradients)
  )(state, jnp.float32(gradients))
  found = jax.vmap(noise.noise_estimates)(state)
  scale, error = found.noise_scale[:, 0], found.standard_error[:, 0]
  apart = (scale - v / signal) / error
  # Means and spreads of 40 numbers that are nearly standard normal.
  assert abs(np.mean(apart)) < 3 / np.sqrt(runs)
  assert 0.7 < np.std(apart) < 1.3


def test_steps_between_the_two_add_what_is_told():
  # ∇F_t = ½ ∇F_{t−1}: with a noise of 0, v = b/2 · ¼ ‖∇F‖².
  gradients = jnp.array([[4.0, 2.0], [2.0, 1.0]])
  total = noise.noise_report(_fed(gradients, _instrument()), jnp.zeros(2)).total
  np.testing.assert_allclose(total.noise, B / 2 * 20 / 4)
  np.testing.assert_allclose(total.signal, 10)


@pytest.mark.slow
def test_sgd_between_the_two_shifts_them_as_told():
  rng = np.random.default_rng(0)
  rate, h = 0.1, np.array([0.5, 2.0, 4.0])
  sigma, slope, trials = (
    np.array([1.0, 2.0, 0.5]),
    np.array([1, -1, 0.5]),
    20000,
  )
  errors = rng.normal(size=(2, trials, 3)) * sigma / np.sqrt(B)
  before = slope + errors[0]
  after = slope - rate * h * before + errors[1]
  instrument = _instrument()
  state = jax.vmap(instrument.init)(jnp.float32(before))
  for g in (before, after):
    _, state = jax.vmap(instrument.update)(jnp.float32(g), state)
  v, signal = np.array(state.instrument_state.mean[:, 0]).T
  trace = np.sum(h * sigma**2)
  along = np.sum(h * slope**2)
  # And what is of second order on a quadratic.
  second = (
    rate**2 * (B * np.sum((h * slope) ** 2) + np.sum((h * sigma) ** 2)) / 2
  )
  for found, expected in (
    (v, np.sum(sigma**2) + rate * trace + second),
    (signal, np.sum(slope**2) - rate * (along + trace / B)),
  ):
    error = np.std(found) / np.sqrt(trials)
    np.testing.assert_allclose(np.mean(found), expected, atol=4 * error)
    assert error < 0.02 * abs(expected)


def test_a_plain_loop_of_optax_reads_it():
  optimizer = optax.chain(_instrument(), optax.sgd(0.01))
  rng = np.random.default_rng(0)
  batches = jnp.float32(rng.normal(2, 1, size=(100, B, 3)))

  def loss_fn(params, batch):
    return jnp.mean(jnp.sum((params[None] - batch) ** 2, -1)) / 2

  @jax.jit
  def step(carry, batch):
    params, state = carry
    gradient = jax.grad(loss_fn)(params, batch)
    updates, state = optimizer.update(gradient, state, params)
    return (optax.apply_updates(params, updates), state), None

  params = jnp.zeros(3)
  (params, state), _ = jax.lax.scan(
    step, (params, optimizer.init(params)), batches
  )
  report = adaopt.noise_report(state, params)
  assert report.examples == 100 * B
  assert report.batch_size == 2 * B
  # v = 3 of unit normals, and 50 pairs of 3 coordinates: errors of √(2/150).
  np.testing.assert_allclose(report.total.noise, 3, rtol=3 * np.sqrt(2 / 150))


def test_half_precision_is_subtracted_in_float32():
  gradients = jnp.asarray([[1.0, 2.0], [1.5, 2.0]], jnp.bfloat16)
  state = _fed(gradients, _instrument())
  assert state.gradient.dtype == jnp.bfloat16
  total = noise.noise_report(state, gradients[0]).total
  np.testing.assert_allclose(total.noise, B / 2 * 0.25)


def test_a_pair_that_is_not_finite_is_not_measured():
  gradients = jnp.array([[1.0], [np.nan], [2.0], [4.0]])
  state = _fed(gradients, _instrument())
  assert state.instrument_state.measured == 2 * B
  total = noise.noise_report(state, gradients[0]).total
  np.testing.assert_allclose(total.noise, B / 2 * 4)


def test_wrong_calls_are_told():
  with pytest.raises(ValueError, match='instrument must be an optax optimizer'):
    noise.between_steps(None, batch_size=4)
  with pytest.raises(ValueError, match='batch_size must be an integer'):
    noise.between_steps(adaopt.noise_scale(half_life=1), batch_size=0)
