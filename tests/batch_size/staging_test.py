"""If these fail, a stage begins at another example than it is written."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adaopt
from adaopt.batch_size import late_switch, stage_schedule

LARGEST = 2**31 - 1
UPDATES = jnp.ones(1)
PROPERTY = settings(
  max_examples=60, deadline=None, database=None, derandomize=True
)


def _words(count):
  turns, examples = divmod(count, 2**31)
  return jnp.int32(examples), jnp.int32(turns)


@pytest.mark.parametrize(
  ('text', 'thresholds'),
  [
    ('0:1', [0]),
    ('0:3 7:2', [0, 7]),
    ('  0:3\n 1K:2\t2M:5 ', [0, 10**3, 2 * 10**6]),
    ('0:768 250B:1536 1T:3072', [0, 250 * 10**9, 10**12]),
    ('0:8 0.5K:9 1.5B:10', [0, 500, 1_500_000_000]),
    ('0:8 0.123456789B:9', [0, 123_456_789]),
  ],
)
def test_stages_begin_where_they_are_written(text, thresholds):
  sizes = [int(part.partition(':')[2]) for part in text.split()]
  schedule = stage_schedule(text)
  for k, threshold in enumerate(thresholds):
    for n, expected in ((threshold, sizes[k]), (threshold - 1, sizes[k - 1])):
      if n >= 0:
        assert int(schedule(n)) == expected
        examples, turns = _words(n)
        assert int(jax.jit(schedule)(examples, turns)) == expected


STAGES = st.lists(
  st.tuples(st.integers(1, 2**61), st.integers(1, LARGEST)), max_size=4
).map(lambda rest: sorted(dict(rest).items()))


@PROPERTY
@given(
  first=st.integers(1, LARGEST),
  rest=STAGES,
  s=st.one_of(st.just(1), st.integers(1, 10**5)),
  n=st.integers(0, 2**61),
  near=st.integers(-1, 1),
)
def test_tokens_are_those_of_whole_examples(first, rest, s, n, near):
  text = ' '.join(f'{t}:{b}' for t, b in [(0, first), *rest])
  schedule = stage_schedule(text, tokens_per_example=s)
  for count in (n, *(max(-(-t // s) + near, 0) for t, _ in rest)):
    reached = [b for t, b in rest if count * s >= t]
    assert int(schedule(count)) == [first, *reached][-1]
    assert int(schedule(*_words(count))) == [first, *reached][-1]


@PROPERTY
@given(
  number=st.decimals(0, 1000, allow_nan=False, places=3),
  unit=st.sampled_from(['K', 'M', 'B', 'T']),
)
def test_decimals_are_exact(number, unit):
  threshold = Fraction(number) * 1000 ** (' KMBT'.index(unit))
  if threshold > 0:
    schedule = stage_schedule(f'0:1 {number}{unit}:2')
    assert [int(schedule(int(threshold) - k)) for k in (1, 0)] == [1, 2]


def test_a_transform_crosses_thresholds_beyond_an_int32_without_recompiling():
  transform = adaopt.schedule_batch_size(stage_schedule('0:100 3B:250 9B:400'))
  traces = []

  @jax.jit
  def update(state, b):
    traces.append(0)
    statistics = adaopt.GradientStatistics(b, UPDATES)
    return transform.update(UPDATES, state, statistics=statistics)[1]

  state, seen, b = transform.init(UPDATES), 0, 10**9
  for _ in range(10):
    seen += b
    state = update(state, jnp.int32(b))
    expected = 400 if seen >= 9e9 else 250 if seen >= 3e9 else 100
    assert int(state.batch_size) == expected
    assert int(state.turns) * 2**31 + int(state.examples) == seen
  assert len(traces) == 1


def test_rates_and_sizes_move_together_beyond_an_int32():
  rate, size = adaopt.seesaw(0.8, 16, [10**9, 5 * 10**9], factor=4.0)
  optimizer = optax.chain(
    adaopt.schedule_batch_size(size), adaopt.scale_by_example_schedule(rate)
  )
  state, rates, sizes = optimizer.init(UPDATES), [], []
  statistics = adaopt.GradientStatistics(jnp.int32(2 * 10**9), UPDATES)
  for _ in range(4):
    sizes.append(int(optax.tree.get(state, 'batch_size')))
    scaled, state = optimizer.update(UPDATES, state, statistics=statistics)
    rates.append(scaled[0])
  assert sizes == [16, 64, 64, 256]
  np.testing.assert_allclose(rates, [0.8, 0.4, 0.4, 0.2], rtol=1e-6)


@pytest.mark.parametrize(
  ('text', 'sentence'),
  [
    ('5:1', "first threshold of text must be 0, got '5:1'"),
    ('0:1 5:2 5:3', "thresholds of text must rise, got '0:1 5:2 5:3'"),
    ('0:1 1K:2 999:3', 'thresholds of text must rise'),
    ('0:1 5', "stages threshold:size such as 250B:1536.* got '5'"),
    ('0:1 5b:2', "in K, M, B or T, got '5b:2'"),
    ('0:1 -5:2', "got '-5:2'"),
    ('0:1 1e9:2', "got '1e9:2'"),
    ('0:1, 5:2', "got '0:1,'"),
    ('0:1.5', r"got '0:1\.5'"),
    ('0:1 1.0001K:2', r"must be a whole number, got '1\.0001K:2'"),
    ('0:0', 'a size of text must be an integer of at least 1 .* got 0'),
    (f'0:{2**31}', 'a size of text must be .* below 2.31'),
    ('0:1 9000000T:2', 'a threshold of text must be .* below 2.62'),
  ],
)
def test_what_is_not_a_schedule_is_refused(text, sentence):
  with pytest.raises(ValueError, match=sentence):
    stage_schedule(text)


@PROPERTY
@given(
  budget=st.integers(1000, 2**61),
  fraction=st.floats(0.001, 0.999),
  sizes=st.tuples(st.integers(1, LARGEST), st.integers(1, LARGEST)),
)
def test_the_late_switch_is_at_its_fraction_of_the_budget(
  budget, fraction, sizes
):
  small, large = sorted(sizes)
  schedule = late_switch(small, large, num_examples=budget, fraction=fraction)
  # Half an example of rounding, exactly.
  switch = math.floor(Fraction(fraction) * budget + Fraction(1, 2))
  assert int(schedule(switch + 1)) == large
  if switch >= 2:
    assert int(schedule(switch - 2)) == small


@pytest.mark.parametrize('tenth', range(1, 10))
def test_the_late_switch_is_exact_for_tenths(tenth):
  schedule = late_switch(2, 9, num_examples=1000, fraction=tenth / 10)
  found = [int(schedule(100 * tenth - k)) for k in (1, 0)]
  assert found == [2, 9]


def test_a_floating_count_of_jax_reaches_thresholds_beyond_an_int32():
  schedule = stage_schedule('0:8 5B:16')
  assert int(schedule(jnp.float32(6e9))) == 16
  counts = np.linspace(0, 1e10, 5)
  expected = [8, 8, 16, 16, 16]
  np.testing.assert_array_equal(schedule(counts), expected)
  found = jax.jit(jax.vmap(schedule))(jnp.float32(counts))
  np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
  ('num_examples', 'fraction', 'switch'),
  [(100, 0.001, 0), (100, 0.999, 100), (1, 0.5, 0), (1, 0.75, 1)],
)
def test_a_switch_at_an_end_of_the_budget_is_refused(
  num_examples, fraction, switch
):
  with pytest.raises(
    ValueError, match=rf'got {fraction}, which is {switch} examples'
  ):
    late_switch(2, 9, num_examples=num_examples, fraction=fraction)
