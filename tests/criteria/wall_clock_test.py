"""If these fail, a run grows at the cost of its wall-clock, or never grows."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adaopt
from adaopt import criteria
from adaopt.training import loops

NAN, INF = float('nan'), float('inf')
PROPERTY = settings(
  max_examples=200, deadline=None, database=None, derandomize=True
)
SIZES = np.arange(1, 5001)


def powers(low, high):
  return st.floats(low, high).map(lambda exponent: 10.0**exponent)


def statistics(v, squared_norm, batch_size=8):
  return adaopt.GradientStatistics(
    jnp.int32(batch_size),
    mean=jnp.float32(np.sqrt(squared_norm)),
    variance=jnp.float32(v),
  )


def noise_and_signal(v, mu2, batch_size=8):
  """Statistics of one step that shows this noise and this signal."""
  return statistics(v, mu2 + v / batch_size, batch_size)


def required_by(criterion, *history):
  state = criterion.init(jnp.zeros([]))
  for one in history:
    required, state = criterion.update(one, state)
  assert required.shape == ()
  assert required.dtype == jnp.float32
  return float(required)


def goodputs(v, mu2, seconds, base_batch_size=8):
  """The definition, in float64: AdaScale's gain over the seconds of a step."""
  sigma2 = v / base_batch_size
  gain = (sigma2 + mu2) / (sigma2 / (SIZES / base_batch_size) + mu2)
  return gain / seconds


def averages_of(stats):
  """(v, μ²) as float32 has them, in which ‖ḡ‖² − v / b cancels digits."""
  kept = criteria.debiased(stats, floor=0.01, test='a test')
  return float(kept.noise), float(max(kept.signal, kept.floor))


@PROPERTY
@given(
  v=powers(-6, 6),
  scale=powers(-1, 5),
  fixed=powers(-6, 2),
  ratio=powers(-1, 4),
)
def test_no_size_makes_more_progress_a_second(v, scale, fixed, ratio):
  per_example = fixed / ratio
  stats = noise_and_signal(v, v / scale)
  criterion = criteria.goodput(seconds=(fixed, per_example))
  required = required_by(criterion, stats)
  found = goodputs(*averages_of(stats), fixed + per_example * SIZES)
  size = min(int(required), SIZES[-1])
  assert size == required or required > SIZES[-1]
  # At the maximum of a smooth function an error of float32 has no first order.
  assert found[size - 1] >= found.max() * (1 - 1e-6)


@PROPERTY
@given(
  scale=powers(-1, 5), ratio=powers(-1, 4), m=st.sampled_from([4, 16, 64, 256])
)
def test_no_size_makes_more_progress_where_micro_batches_are_padded(
  scale, ratio, m
):
  rungs = np.array([loops.rung(int(b), m) for b in SIZES])
  processed = -(-SIZES // rungs) * rungs
  stats = noise_and_signal(1.0, 1.0 / scale)
  found = goodputs(*averages_of(stats), ratio + processed)
  whole = SIZES[-1] // m * m
  criterion = criteria.goodput(seconds=(ratio, 1.0), micro_batch_size=m)
  size = min(int(required_by(criterion, stats)), whole)
  assert processed[size - 1] == size
  # Two neighbours that are equally good to float32 differ by its rounding.
  assert found[size - 1] >= found[:whole].max() * (1 - 1e-5)


@pytest.mark.parametrize('base_batch_size', [1, 8, 100])
def test_it_maximises_the_gain_of_adascale_a_second(base_batch_size):
  stats = noise_and_signal(300.0, 1.0)
  seconds = 0.004, 0.00002
  adascale = adaopt.scale_by_adascale(base_batch_size=base_batch_size)
  state = adascale.update(
    stats.mean, adascale.init(stats.mean), None, statistics=stats
  )[1]
  without = stats._replace(variance=None)

  def gain(b):
    passed = without._replace(batch_size=b)
    return adascale.update(stats.mean, state, None, statistics=passed)[1].gain

  gains = np.asarray(jax.vmap(gain)(jnp.asarray(SIZES, jnp.int32)))
  found = gains / (seconds[0] + seconds[1] * SIZES)
  required = required_by(criteria.goodput(seconds=seconds), stats)
  assert required == pytest.approx(np.sqrt(300 * 200), abs=1)
  assert found[int(required) - 1] >= found.max() * (1 - 1e-5)


def test_it_is_the_geometric_mean_of_the_averaged_noise_scale_and_of_time():
  random = np.random.default_rng(0)
  history = [
    noise_and_signal(v, mu2, b)
    for v, mu2, b in zip(
      random.uniform(50, 500, 9),
      random.uniform(1, 2, 9),
      random.integers(2, 99, 9),
      strict=True,
    )
  ]
  scale = required_by(adaopt.gradient_noise_scale(decay=0.7), *history)
  criterion = criteria.goodput(seconds=(900.0, 2.0), decay=0.7)
  expected = np.sqrt(scale * 450.0)
  # An integer, one of its two neighbours.
  assert abs(required_by(criterion, *history) - expected) < 1


@pytest.mark.parametrize(
  ('stats', 'seconds', 'expected'),
  [
    (statistics(40.0, 25.0), (1.0, 0.0), 2.0**31),  # free examples
    (statistics(40.0, 25.0), (0.0, 1.0), 1.0),  # no fixed seconds
    # Noise alone: μ² is at its floor, 0.01 · 5 of v / b = 5.
    (statistics(40.0, 5.0), (8.0, 1.0), 80.0),
    (statistics(40.0, 0.0), (8.0, 1.0), 2.0**31),
    (statistics(0.0, 25.0), (8.0, 1.0), 1.0),  # signal alone
    # All sizes are equally good.
    (statistics(0.0, 25.0), (1.0, 0.0), NAN),
    (statistics(40.0, 0.0), (0.0, 1.0), NAN),
    (statistics(0.0, 0.0), (1.0, 1.0), NAN),
    (statistics(NAN, 25.0), (1.0, 1.0), NAN),
    (statistics(INF, 25.0), (1.0, 1.0), NAN),
    (statistics(40.0, INF), (1.0, 1.0), NAN),
    # Products that float32 does not hold.
    (statistics(4e-33, 25e-34), (8e-9, 1e-9), 4.0),
    (statistics(4e35, 25e34), (8e9, 1e9), 4.0),
  ],
)
def test_limits(stats, seconds, expected):
  required = required_by(criteria.goodput(seconds=seconds), stats)
  np.testing.assert_allclose(required, expected)


def adapted(criterion, max_batch_size=1024, policy=adaopt.follow):
  return adaopt.adapt_batch_size(
    criterion, init_batch_size=8, max_batch_size=max_batch_size, policy=policy
  )


@pytest.mark.parametrize(
  ('seconds', 'expected'), [((1.0, 0.0), 1024), ((0.0, 1.0), 8)]
)
def test_free_examples_grow_to_the_largest_and_dear_ones_stay(
  seconds, expected
):
  transform = adapted(criteria.goodput(seconds=seconds))
  state = transform.init(jnp.zeros([]))
  _, state = transform.update(
    jnp.zeros([]), state, statistics=statistics(40.0, 25.0)
  )
  assert state.batch_size == expected


@pytest.mark.parametrize(
  'wrap',
  [
    lambda criterion: adapted(criterion),
    lambda criterion: optax.chain(adapted(criterion), optax.adam(0.1)),
    lambda criterion: optax.inject_hyperparams(
      adapted, static_args=('criterion', 'policy')
    )(criterion=criterion, max_batch_size=1024),
    lambda criterion: adapted(
      adaopt.all_of(criterion, lambda statistics: jnp.float32(3.0))
    ),
    lambda criterion: adapted(adaopt.of_tensors(criterion, lambda path: True)),
  ],
  ids=['alone', 'chain', 'injected', 'all_of', 'of_tensors'],
)
def test_seconds_that_change_move_the_size_and_compile_nothing(wrap):
  optimizer = wrap(criteria.goodput())
  stats = noise_and_signal(400.0, 1.0)
  traces = []

  @jax.jit
  def update(state, v):
    traces.append(None)
    return optimizer.update(
      stats.mean, state, stats.mean, statistics=stats._replace(variance=v)
    )[1]

  state = optimizer.init(stats.mean)
  state = update(state, jnp.float32(400.0))
  sizes = [int(optax.tree.get(state, 'batch_size'))]
  for model in (
    dict(fixed=4.0, per_example=1.0),
    dict(fixed=16.0, per_example=1.0),
    dict(fixed=16.0, per_example=1.0, micro_batch_size=64),
    dict(fixed=16.0, per_example=1.0, reach=20),
    dict(fixed=16.0, per_example=0.0, reach=30),
    dict(fixed=9.0, per_example=1.0),
  ):
    state = criteria.with_seconds(state, **model)
    state = update(state, jnp.float32(400.0))
    sizes.append(int(optax.tree.get(state, 'batch_size')))
  assert sizes == [8, 40, 80, 64, 20, 30, 60]
  assert len(traces) == 1


def test_seconds_can_be_set_under_jit_and_for_several_runs_at_once():
  criterion = criteria.goodput()
  stats = noise_and_signal(400.0, 1.0)

  @jax.jit
  @jax.vmap
  def required(fixed):
    state = criteria.with_seconds(criterion.init(stats.mean), fixed, 1.0)
    return criterion.update(stats, state)[0]

  np.testing.assert_allclose(required(jnp.array([1.0, 4.0])), [20.0, 40.0])


def test_seconds_that_are_not_finite_ask_for_nothing():
  transform = adapted(criteria.goodput())
  stats = noise_and_signal(400.0, 1.0)
  set_seconds = jax.jit(criteria.with_seconds)
  state = set_seconds(transform.init(stats.mean), NAN, 1.0)
  _, state = transform.update(stats.mean, state, statistics=stats)
  assert np.isnan(state.required)
  assert state.batch_size == 8
  state = set_seconds(state, 4.0, 1.0)
  _, state = transform.update(stats.mean, state, statistics=stats)
  assert state.batch_size == 40


@contextlib.contextmanager
def config(name):
  before = getattr(jax.config, name)
  value = 'strict' if name == 'jax_numpy_dtype_promotion' else True
  jax.config.update(name, value)
  try:
    yield
  finally:
    jax.config.update(name, before)


@pytest.mark.parametrize(
  'flag', ['jax_debug_nans', 'jax_debug_infs', 'jax_numpy_dtype_promotion']
)
@pytest.mark.parametrize('seconds', [None, (1.0, 0.0), (1.0, 0.1), (0.0, 0.1)])
def test_a_debugging_flag_finds_no_fault(flag, seconds):
  with config(flag):
    transform = adapted(criteria.goodput(seconds=seconds))
    update = jax.jit(transform.update)
    state = transform.init(jnp.zeros([]))
    for stats in (
      noise_and_signal(400.0, 1.0),
      statistics(0.0, 0.0),
      statistics(0.0, 25.0),
    ):
      _, state = update(stats.mean, state, statistics=stats)
      if seconds is None:
        state = criteria.with_seconds(state, 0.5, 0.1, micro_batch_size=64)
    required, batch_size = float(state.required), int(state.batch_size)
  expected = {(1.0, 0.0): 1024, (0.0, 0.1): 8}
  assert required > 0
  assert batch_size == expected.get(seconds, batch_size)


@pytest.mark.parametrize(
  ('seconds', 'wrong'),
  [
    ((1.0, -1.0), 'per_example must be .* got -1.0'),
    ((INF, 1.0), 'fixed must be finite .* got inf'),
    ((0.0, 0.0), 'must not both be 0'),
    (0.5, r'a pair \(fixed, per_example\), got 0.5'),
    ((1.0, 2.0, 3.0), 'a pair'),
  ],
)
def test_seconds_out_of_range_are_refused(seconds, wrong):
  with pytest.raises(ValueError, match=wrong):
    criteria.goodput(seconds=seconds)


def test_a_constant_out_of_range_is_refused():
  with pytest.raises(ValueError, match=r'decay must be below 1, got 1\.0'):
    criteria.goodput(decay=1.0)
  with pytest.raises(ValueError, match=r'floor must be at most 1, got 2\.0'):
    criteria.goodput(floor=2.0)
  with pytest.raises(ValueError, match='micro_batch_size must be positive'):
    criteria.goodput(seconds=(1.0, 1.0), micro_batch_size=0)


@pytest.mark.parametrize(
  'criterion',
  [adaopt.gradient_noise_scale(), criteria.goodput(seconds=(1.0, 1.0))],
)
def test_a_state_without_seconds_to_set_is_refused(criterion):
  state = adapted(criterion).init(jnp.zeros([]))
  with pytest.raises(ValueError, match='holds no seconds to set'):
    criteria.with_seconds(state, 1.0, 1.0)


def test_statistics_without_a_variance_are_refused():
  with pytest.raises(ValueError, match=r'goodput needs statistics\.variance'):
    required_by(
      criteria.goodput(), adaopt.GradientStatistics(jnp.int32(8), jnp.ones(2))
    )
