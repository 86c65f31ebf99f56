"""LEGW and the power scheduler against their formulas in float64.

A failure here means a rate that is not of the batch that it multiplies, or a
warm-up that counts updates.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adaopt
from adaopt.transforms import scale_by_legw, scale_by_power_schedule

UPDATES = {'w': jnp.array([1.0, -2.0])}
PROPERTY = settings(
  max_examples=60, deadline=None, database=None, derandomize=True
)
SIZES = st.lists(st.integers(1, 2**20), min_size=6, max_size=6)


def _legw(b, n, base, warmup):
  k = b / base
  return np.sqrt(k) * min(1, n / (k * warmup))


def _power(b, n, largest, tokens, a=4.6, p=0.51):
  return largest if n == 0 else min(largest, b * a * (n * tokens) ** -p)


def _factors(transform, sizes, state=None):
  """The factors of updates by batches of these sizes, and the last state."""
  state = transform.init(UPDATES) if state is None else state

  def step(state, b):
    statistics = adaopt.GradientStatistics(b, UPDATES)
    scaled, state = transform.update(UPDATES, state, statistics=statistics)
    return state, scaled['w'] / UPDATES['w']

  state, ratios = jax.lax.scan(step, state, jnp.asarray(sizes, jnp.int32))
  return ratios[:, 1], state


@jax.jit
def _legw_factors(sizes, base, warmup):
  return _factors(
    scale_by_legw(base_batch_size=base, warmup_examples=warmup), sizes
  )


@jax.jit
def _power_factors(sizes, largest, tokens, a, p):
  transform = scale_by_power_schedule(
    max_learning_rate=largest,
    tokens_per_example=tokens,
    amplitude=a,
    exponent=p,
  )
  return _factors(transform, sizes)


@PROPERTY
@given(
  sizes=SIZES,
  base=st.floats(0.5, 1e4),
  warmup=st.floats(1.0, 1e7),
)
def test_legw_is_its_formula(sizes, base, warmup):
  found, state = _legw_factors(jnp.array(sizes), base, warmup)
  before = np.cumsum([0, *sizes[:-1]])
  expected = [
    _legw(b, n, base, warmup) for b, n in zip(sizes, before, strict=True)
  ]
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  assert state.examples == sum(sizes)


@pytest.mark.parametrize('k', [1, 4, 16])
def test_k_times_the_batch_warms_up_in_as_many_updates_to_a_rate_of_root_k(k):
  base, _ = _factors(
    scale_by_legw(base_batch_size=8, warmup_examples=40), [8] * 8
  )
  large, _ = _factors(
    scale_by_legw(base_batch_size=8, warmup_examples=40), [8 * k] * 8
  )
  np.testing.assert_allclose(large, np.sqrt(k) * np.array(base), rtol=1e-6)
  np.testing.assert_allclose(base, [0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1], rtol=1e-6)


@PROPERTY
@given(
  sizes=SIZES,
  largest=st.floats(1e-4, 1.0),
  tokens=st.integers(1, 10**5),
  a=st.floats(0.01, 10.0),
  p=st.floats(0.1, 1.0),
)
def test_the_power_schedule_is_its_formula(sizes, largest, tokens, a, p):
  found, state = _power_factors(jnp.array(sizes), largest, tokens, a, p)
  before = np.cumsum([0, *sizes[:-1]])
  expected = [
    _power(b, n, largest, tokens, a, p)
    for b, n in zip(sizes, before, strict=True)
  ]
  # float32 powers of numbers up to 1e11.
  np.testing.assert_allclose(found, expected, rtol=5e-6)
  assert state.examples == sum(sizes)


def test_both_count_on_beyond_an_int32():
  legw = scale_by_legw(base_batch_size=8, warmup_examples=10**10)
  power = scale_by_power_schedule(max_learning_rate=9.0, tokens_per_example=100)
  words = jnp.int32(5 * 10**9 % 2**31), jnp.int32(5 * 10**9 // 2**31)
  for transform, expected in (
    (legw, _legw(8, 5 * 10**9, 8, 10**10)),
    (power, _power(8, 5 * 10**9, 9.0, 100)),
  ):
    state = type(transform.init(UPDATES))(*words)
    (found,), state = _factors(transform, [8], state)
    np.testing.assert_allclose(found, expected, rtol=2e-6)
    assert int(state.turns) * 2**31 + int(state.examples) == 5 * 10**9 + 8


def test_the_rate_follows_a_size_that_adapts_and_nothing_is_measured():
  optimizer = optax.chain(
    adaopt.schedule_batch_size(
      adaopt.batch_size.stage_schedule('0:4 8:16 24:8')
    ),
    optax.sgd(1.0),
    scale_by_power_schedule(
      max_learning_rate=0.5, tokens_per_example=1, amplitude=0.02
    ),
    scale_by_legw(base_batch_size=4, warmup_examples=1e-3),
  )
  step = adaopt.train_step(
    lambda params, batch: jnp.mean(params * batch),
    optimizer,
    micro_batch_size=4,
  )
  state, n, last = adaopt.init_train_state(jnp.float32(0), optimizer), 0, 0.0
  for b in (4, 4, 16, 8):
    state, metrics = step(state, jnp.ones([64]))
    assert metrics.batch_size == b
    assert np.isnan(metrics.variance)
    rate = _power(b, n, 0.5, 1, 0.02) * _legw(b, n, 4, 1e-3)
    np.testing.assert_allclose(last - float(state.params), rate, rtol=1e-4)
    n, last = n + b, float(state.params)


@pytest.mark.parametrize(
  'transform',
  [
    scale_by_legw(base_batch_size=8, warmup_examples=1),
    scale_by_power_schedule(max_learning_rate=1.0, tokens_per_example=1),
  ],
)
def test_half_precision_is_kept(transform):
  updates = jnp.ones(1, jnp.bfloat16)
  statistics = adaopt.GradientStatistics(jnp.int32(8), updates)
  state = transform.init(updates)
  for _ in range(2):
    scaled, state = transform.update(updates, state, statistics=statistics)
  assert scaled.dtype == jnp.bfloat16
  assert scaled == 1
