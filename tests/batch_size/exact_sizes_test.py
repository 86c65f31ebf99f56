"""If these fail, a batch size beyond 2^24 is rounded, or wraps around."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adaopt
from adaopt._common import arithmetic

LARGEST = 2**31 - 1
UPDATES = jnp.ones(1)
NAN, INF = float('nan'), float('inf')

# Where float32 has to round, and around the ends.
SIZES = st.one_of(
  st.integers(1, LARGEST),
  st.integers(1, 100),
  st.integers(2**24 - 4, 2**24 + 4),
  st.integers(LARGEST - 300, LARGEST),
)
REQUIRED = st.one_of(
  st.floats(width=32),
  SIZES.map(lambda n: float(np.float32(n))),
  st.sampled_from([NAN, INF, -INF, -1.0, 0.0]),
)
PROPERTY = settings(
  max_examples=300, deadline=None, database=None, derandomize=True
)


def _whole(required):
  """What is required, rounded up to an integer of [0, the largest]."""
  return LARGEST if required >= LARGEST else max(math.ceil(required), 0)


def _follow(current, required):
  return _whole(required)


def _measure(current, required):
  return current


def _maximum(current, required):
  return max(current, _whole(required))


def _hysteresis(current, required):
  stays = _whole(required) <= current and required * 4 >= current
  return current if stays else _whole(required)


def _capped(current, required):
  return min(max(current, _whole(required)), 2 * current)


def _geometric(current, required):
  return 3 * current if _whole(required) > current else current


POLICIES = {
  'maximum': (jnp.maximum, _maximum),
  'follow': (adaopt.follow, _follow),
  'measure': (adaopt.batch_size.measure, _measure),
  'hysteresis': (adaopt.batch_size.hysteresis(4.0), _hysteresis),
  'capped': (adaopt.capped_growth(2.0), _capped),
  'geometric': (adaopt.batch_size.geometric_growth(3.0), _geometric),
  # Of one's own: in float32, where the current size stands for itself.
  'own': (
    lambda current, required: jnp.where(False, required, current),
    _measure,
  ),
  'own_maximum': (lambda current, required: required, _maximum),
}
STEPS = {}


def _step(name):
  """(b_0, b_max, multiple_of, current, required) → the next size."""

  def step(init_batch_size, max_batch_size, multiple_of, current, required):
    transform = adaopt.adapt_batch_size(
      lambda statistics: statistics.variance,
      init_batch_size=init_batch_size,
      max_batch_size=max_batch_size,
      multiple_of=multiple_of,
      policy=POLICIES[name][0],
    )
    state = transform.init(UPDATES)
    state = state._replace(batch_size=current, test_due=jnp.bool_(True))
    statistics = adaopt.GradientStatistics(current, UPDATES, required)
    return transform.update(UPDATES, state, statistics=statistics)[1].batch_size

  if name not in STEPS:
    STEPS[name] = jax.jit(step)
  return STEPS[name]


@pytest.mark.slow
@pytest.mark.parametrize('name', POLICIES)
@PROPERTY
@given(data=st.data())
def test_sizes_are_those_of_integers(name, data):
  multiple_of = data.draw(st.one_of(st.just(1), st.integers(1, 1000), SIZES))
  of = lambda bounds: data.draw(SIZES.map(lambda n: bounds(n // multiple_of)))
  last = LARGEST // multiple_of
  b_max = multiple_of * of(lambda n: min(max(n, 1), last))
  b_0 = multiple_of * of(lambda n: min(max(n, 1), b_max // multiple_of))
  current = multiple_of * of(
    lambda n: min(max(n, b_0 // multiple_of), b_max // multiple_of)
  )
  required = data.draw(REQUIRED)
  sizes = map(jnp.int32, (b_0, b_max, multiple_of, current))
  found = int(_step(name)(*sizes, jnp.float32(required)))
  assert found == _expected(name, b_0, b_max, multiple_of, current, required)


def _expected(name, b_0, b_max, multiple_of, current, required):
  if not required >= 0:
    return current
  proposed = POLICIES[name][1](current, required)
  if name == 'own_maximum' and np.float32(current) == np.float32(required):
    return current
  if proposed == current:
    return current
  clipped = min(max(proposed, b_0), b_max)
  return -(-clipped // multiple_of) * multiple_of


@pytest.mark.parametrize('b', [2**24 + 1, 2**31 - 1, 2**30 + 1])
@pytest.mark.parametrize('required', [0.0, 1.0, float(2**24), INF, NAN])
@pytest.mark.parametrize('name', POLICIES)
def test_a_size_at_both_bounds_stays(name, required, b):
  transform = adaopt.adapt_batch_size(
    lambda statistics: statistics.variance,
    init_batch_size=b,
    max_batch_size=b,
    policy=POLICIES[name][0],
  )
  state = transform.init(UPDATES)
  assert state.batch_size.dtype == jnp.int32
  assert int(state.batch_size) == b
  state = state._replace(test_due=jnp.bool_(True))
  statistics = adaopt.GradientStatistics(
    jnp.int32(b), UPDATES, jnp.float32(required)
  )
  _, state = transform.update(UPDATES, state, statistics=statistics)
  assert state.batch_size.dtype == jnp.int32
  assert int(state.batch_size) == b


@pytest.mark.parametrize('multiple_of', [1, 7, 2**30, LARGEST])
def test_infinitely_many_examples_give_the_largest_integer(multiple_of):
  b_max = LARGEST // multiple_of * multiple_of
  transform = adaopt.adapt_batch_size(
    lambda statistics: INF,
    init_batch_size=multiple_of,
    max_batch_size=b_max,
    multiple_of=multiple_of,
  )
  statistics = adaopt.GradientStatistics(jnp.int32(1), UPDATES)
  _, state = transform.update(
    UPDATES, transform.init(UPDATES), statistics=statistics
  )
  assert int(state.batch_size) == b_max


@pytest.mark.slow
@PROPERTY
@given(b=SIZES, used=st.integers(1, LARGEST))
def test_a_constant_schedule_is_exact(b, used):
  for schedule in (b, np.int64(b), lambda examples: b):
    transform = adaopt.schedule_batch_size(schedule)
    state = transform.init(UPDATES)
    assert int(state.batch_size) == b
    statistics = adaopt.GradientStatistics(jnp.int32(used), UPDATES)
    _, state = transform.update(UPDATES, state, statistics=statistics)
    assert (int(state.batch_size), int(state.examples)) == (b, used)


@pytest.mark.slow
@PROPERTY
@given(b=st.integers(1, LARGEST), factor=st.integers(2, 9))
def test_seesaw_is_exact_for_whole_factors(b, factor):
  _, batch_size = adaopt.seesaw(0.1, b, [10, 20], float(factor))
  transform = adaopt.schedule_batch_size(batch_size)
  state = transform.init(UPDATES)
  for power in range(3):
    assert int(state.batch_size) == min(b * factor**power, LARGEST)
    statistics = adaopt.GradientStatistics(jnp.int32(10), UPDATES)
    _, state = transform.update(UPDATES, state, statistics=statistics)


def test_a_constant_of_optax_is_exact():
  transform = adaopt.schedule_batch_size(
    optax.join_schedules(
      [optax.constant_schedule(b) for b in (2**24 + 1, LARGEST)], [1]
    )
  )
  state = transform.init(UPDATES)
  assert int(state.batch_size) == 2**24 + 1
  _, state = transform.update(UPDATES, state)
  assert int(state.batch_size) == LARGEST


INTEGERS = st.integers(-(2**70), 2**70)


@PROPERTY
@given(x=INTEGERS | st.integers(-(2**31) - 2, 2**31 + 2))
def test_integers_saturate(x):
  expected = min(max(x, -LARGEST), LARGEST)
  assert int(arithmetic.saturating_int(x)) == expected
  if abs(x) < 2**63:
    assert int(arithmetic.saturating_int(np.int64(x))) == expected
    with jax.enable_x64(True):
      wide = arithmetic.saturating_int(jnp.int64(x))
      assert wide.dtype == jnp.int32
      assert int(wide) == expected


@PROPERTY
@given(x=st.floats(width=32, allow_nan=False))
def test_floats_saturate(x):
  expected = (
    min(max(math.trunc(x), -LARGEST), LARGEST)
    if abs(x) < INF
    else (LARGEST if x > 0 else -LARGEST)
  )
  assert int(arithmetic.saturating_int(jnp.float32(x))) == expected


@pytest.mark.parametrize('dtype', ['int8', 'uint32', 'bfloat16', 'float16'])
def test_every_dtype_saturates(dtype):
  for x in (0, 1, 96):
    assert int(arithmetic.saturating_int(jnp.asarray(x, dtype))) == x
  if dtype == 'uint32':
    assert int(arithmetic.saturating_int(jnp.uint32(2**32 - 1))) == LARGEST
