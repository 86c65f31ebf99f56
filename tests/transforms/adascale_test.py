"""AdaScale's gain against its formula in float64.

A failure here means a learning rate that grows by more than its batch, one
that changes where there is nothing to go by, or progress that counts steps.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adaopt

NAN, INF = float('nan'), float('inf')


def _statistics(mean, variance, batch_size):
  return adaopt.GradientStatistics(
    jnp.int32(batch_size),
    jnp.float32(mean),
    None if variance is None else jnp.float32(variance),
  )


def _gains(transform, history):
  """The gain in every step, and the last state."""
  updates = jnp.ones([])
  state = transform.init(updates)
  gains = []
  for step in history:
    _, state = transform.update(updates, state, statistics=_statistics(*step))
    gains.append(float(state.gain))
  return gains, state


@pytest.mark.parametrize('decay', [0.0, 0.9])
def test_gain_and_progress_are_those_of_the_formula(decay):
  rng = np.random.default_rng(0)
  sizes = [8, 16, 16, 64, 4, 8]
  means, variances = rng.normal(size=6), rng.uniform(1, 9, size=6)
  history = list(zip(means, variances, sizes, strict=True))
  gains, state = _gains(
    adaopt.scale_by_adascale(base_batch_size=8, decay=decay, floor=0.1), history
  )
  parts = np.array([(v, m**2 - v / b, 0.1 * m**2) for m, v, b in history])
  expected = []
  for t, (_, _, b) in enumerate(history, start=1):
    weights = float(decay) ** np.arange(t - 1, -1, -1)
    v, signal, floor = weights @ parts[:t] / weights.sum()
    sigma, mu = v / 8, max(signal, floor)
    expected.append((sigma + mu) / (sigma / (b / 8) + mu))
  np.testing.assert_allclose(gains, expected, rtol=1e-5)
  np.testing.assert_allclose(state.progress, sum(expected), rtol=1e-5)
  assert gains[0] == 1.0  # S = 1


@pytest.mark.parametrize('exponent', [0.0, 0.5, 1.0])
def test_the_factor_is_a_power_of_the_gain_and_the_progress_is_its_sum(
  exponent,
):
  transform = adaopt.scale_by_adascale(base_batch_size=8, exponent=exponent)
  updates, tau = jnp.ones([]), 0.0
  state = transform.init(updates)
  for step in ((0.5, 3.0, 32), (1.0, 2.0, 64), (0.1, 9.0, 16)):
    scaled, state = transform.update(
      updates, state, statistics=_statistics(*step)
    )
    np.testing.assert_allclose(scaled, state.gain**exponent, rtol=1e-6)
    tau += float(state.gain)
    assert state.gain > 1.1
  np.testing.assert_allclose(state.progress, tau, rtol=1e-6)


def test_of_noise_alone_the_gain_for_adam_is_the_root_rule():
  transform = adaopt.scale_by_adascale(
    base_batch_size=4, exponent=0.5, floor=1e-6
  )
  gradient = jnp.float32(1.0)
  # ‖ḡ‖² = v / b: no signal.
  scaled, _ = transform.update(
    gradient, transform.init(gradient), statistics=_statistics(1.0, 64.0, 64)
  )
  # The floor leaves 1e-6 · 16 of the gain, half of that of its root.
  np.testing.assert_allclose(scaled, 4.0, rtol=1e-5)


@pytest.mark.parametrize(
  ('step', 'expected'),
  [
    ((3.0, 0.0, 32), 1.0),
    ((3.0, 5.0, 8), 1.0),
    ((0.0, 5.0, 32), 4.0),
    ((0.0, 5.0, 4), 0.5),
    ((0.0, 0.0, 32), 1.0),
    ((3.0, None, 32), 1.0),
    ((3.0, NAN, 32), 1.0),
    ((NAN, 5.0, 32), 1.0),
    ((3.0, INF, 32), 1.0),
    ((1e30, 5.0, 32), 1.0),
  ],
  ids=[
    'signal alone gains nothing',
    'the reference batch gains nothing',
    'noise alone gains the whole batch',
    'noise alone loses with a smaller batch',
    'neither',
    'no variance',
    'variance nan',
    'gradient nan',
    'variance infinite',
    'overflow',
  ],
)
def test_the_first_gain(step, expected):
  assert _gains(adaopt.scale_by_adascale(base_batch_size=8), [step])[0] == [
    expected
  ]


@pytest.mark.parametrize('variance', [None, NAN])
def test_without_a_variance_the_last_averages_serve_at_the_new_size(variance):
  # σ² = 16 / 8 = 2, μ² = 9 − 16 / 16 = 8: 10 / (2 / S + 8).
  gains, state = _gains(
    adaopt.scale_by_adascale(base_batch_size=8),
    [(3.0, 16.0, 16), (7.0, variance, 32)],
  )
  np.testing.assert_allclose(gains, [10 / 9, 10 / 8.5], rtol=1e-6)
  np.testing.assert_allclose(state.progress, 10 / 9 + 10 / 8.5, rtol=1e-6)


def test_a_schedule_is_read_at_the_progress_before_the_update():
  transform = adaopt.scale_by_adascale(
    base_batch_size=8,
    schedule=optax.linear_schedule(1.0, 0.0, transition_steps=10),
  )
  updates = jnp.full(2, 2.0, jnp.bfloat16)
  state = transform.init(updates)
  found = []
  for _ in range(3):
    scaled, state = transform.update(
      updates, state, statistics=_statistics(0.0, 1.0, 32)
    )
    assert scaled.dtype == jnp.bfloat16
    found.append(float(scaled[0]))
  # Gains of 4: the schedule at 0, 4 and 8, in the eight bits of bfloat16.
  np.testing.assert_allclose(found, [8.0, 4.8, 1.6], rtol=2**-8)


@pytest.mark.parametrize(
  'hold',
  [
    lambda: adaopt.adapt_batch_size(
      adaopt.norm_test(1.0),
      init_batch_size=8,
      max_batch_size=8,
      policy=adaopt.batch_size.measure,
    ),
    lambda: adaopt.adapt_batch_size(
      adaopt.norm_test(1.0),
      init_batch_size=8,
      max_batch_size=8,
      policy=lambda current, required: current,
    ),
    lambda: adaopt.adapt_batch_size(
      lambda statistics: 8.0, init_batch_size=2, max_batch_size=8
    ),
    lambda: adaopt.adapt_batch_size(
      lambda statistics: 0.0,
      init_batch_size=8,
      max_batch_size=16,
      test_interval=100,
    ),
    lambda: adaopt.schedule_batch_size(8),
  ],
  ids=['measured', 'held', 'grown to b_max', 'between tests', 'scheduled'],
)
def test_every_step_measures_whatever_holds_the_size(hold):
  optimizer = optax.chain(
    hold(),
    adaopt.scale_by_adascale(base_batch_size=2, decay=0.0),
    optax.sgd(0.0),
  )
  step = adaopt.train_step(
    lambda params, batch: jnp.mean((params - batch) ** 2),
    optimizer,
    micro_batch_size=8,
    draw=lambda dataset, seed, positions: dataset[positions % 8],
  )
  state = adaopt.init_train_state(jnp.array(0.0), optimizer)
  for _ in range(2):
    state, metrics = step(state, jnp.array([1.0, 3.0] * 4))
  assert metrics.batch_size == 8
  # At 0, g = −2x: ‖ḡ‖² = 16 and v = 4 · 8/7, so that with S = 4 σ² = 16/7 and
  # μ² = 16 − 4/7: r = (16 + 108) / (4 + 108). Two examples gave v = 8.
  np.testing.assert_allclose(metrics.variance, 32 / 7, rtol=1e-6)
  gain = optax.tree.get(state.opt_state, 'gain')
  np.testing.assert_allclose(gain, 124 / 112, rtol=1e-6)


@pytest.mark.parametrize(
  'hold',
  [
    lambda: adaopt.schedule_batch_size(4),
    lambda: adaopt.adapt_batch_size(
      adaopt.norm_test(1.0),
      init_batch_size=4,
      max_batch_size=4,
      policy=adaopt.batch_size.measure,
    ),
  ],
  ids=['scheduled', 'measured'],
)
def test_an_accumulated_batch_waits_for_a_second_sample_to_measure(hold):
  optimizer = adaopt.accumulate(
    optax.chain(
      hold(), adaopt.scale_by_adascale(base_batch_size=4), optax.sgd(1.0)
    ),
    group_size=4,
  )
  params = jnp.zeros(1)
  state = optimizer.init(params)
  found = []
  for gradient in (1.0, 3.0):
    updates, state = optimizer.update(jnp.array([gradient]), state, params)
    found += updates.tolist()
  # ḡ = 2 of 8 examples, v = 4 + 4: σ² = 2, μ² = 4 − 1, S = 2: r = 5 / (1 + 3).
  assert found == [0.0, -2.5]


def test_it_trains_with_a_size_that_is_held():
  optimizer = optax.chain(
    adaopt.adapt_batch_size(
      adaopt.norm_test(1.0),
      init_batch_size=32,
      max_batch_size=64,
      policy=adaopt.batch_size.measure,
    ),
    adaopt.scale_by_adascale(base_batch_size=8, decay=0.8),
    optax.sgd(0.05),
  )
  target = jnp.array([1.0, -2.0])
  data = target[None] + jax.random.normal(jax.random.key(0), [256, 2])
  step = adaopt.train_step(
    lambda params, batch: jnp.mean(jnp.sum((params[None] - batch) ** 2, -1)),
    optimizer,
    micro_batch_size=32,
  )
  state = adaopt.init_train_state(jnp.zeros(2), optimizer)
  gains = []
  for _ in range(30):
    state, metrics = step(state, data)
    gains.append(float(optax.tree.get(state.opt_state, 'gain')))
  assert metrics.batch_size == 32
  # Far away the signal is all; at the minimum the noise is.
  assert 1 < gains[0] < gains[-1] < 4
  assert gains[-1] > 2
  np.testing.assert_allclose(
    optax.tree.get(state.opt_state, 'progress'), sum(gains), rtol=1e-5
  )


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (dict(base_batch_size=0), 'base_batch_size must be positive .* got 0'),
    (dict(schedule=0.1), r'schedule must be a function .* got 0\.1'),
    (dict(decay=1.0), r'decay must be below 1, got 1\.0'),
    (dict(floor=2.0), r'floor must be at most 1, got 2\.0'),
    (dict(exponent=-1.0), r'exponent must be .* at least 0, got -1\.0'),
  ],
)
def test_a_constant_out_of_range_is_refused(options, message):
  with pytest.raises(ValueError, match=message):
    adaopt.scale_by_adascale(**dict(base_batch_size=8) | options)


def test_missing_statistics_are_asked_for():
  transform = adaopt.scale_by_adascale(base_batch_size=8)
  with pytest.raises(ValueError, match=r'scale_by_adascale needs .* pass stat'):
    transform.update(jnp.ones(2), transform.init(jnp.ones(2)))
  with pytest.raises(
    ValueError, match='scale_by_adascale needs the batch size'
  ):
    transform.update(jnp.ones(2), transform.init(jnp.ones(2)), statistics=None)


def test_the_variance_of_every_coordinate_counts_as_their_sum():
  transform = adaopt.scale_by_adascale(base_batch_size=8)
  gradient = jnp.array([3.0, 4.0])
  statistics = adaopt.GradientStatistics(
    jnp.int32(32), gradient, coordinate_variance=jnp.array([100.0, 60.0])
  )
  state = transform.init(gradient)
  _, state = transform.update(gradient, state, statistics=statistics)
  # σ² = 20, μ² = 25 − 5: 40 / (5 + 20).
  np.testing.assert_allclose(state.gain, 1.6, rtol=1e-6)
