"""If these fail, a run of billions of examples loses count of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaopt._common import counts

LARGEST = 2**31 - 1
PROPERTY = settings(
  max_examples=100, deadline=None, database=None, derandomize=True
)
# Beside the ends of both words.
COUNTS = st.one_of(
  st.integers(0, 2**counts.BITS - 1),
  st.integers(0, 100),
  st.builds(
    lambda turns, rest: max(turns * 2**31 + rest, 0),
    st.integers(0, 2**31 - 1),
    st.integers(-3, 3),
  ).map(lambda n: min(n, 2**counts.BITS - 1)),
)

added = jax.jit(counts.added)


def words(count):
  turns, examples = divmod(count, 2**31)
  return jnp.int32(examples), jnp.int32(turns)


def number(examples, turns):
  return int(turns) * 2**31 + int(examples)


@PROPERTY
@given(
  start=st.integers(0, 2**61),
  used=st.lists(st.integers(0, LARGEST) | st.just(LARGEST), max_size=8),
)
def test_examples_add_up_exactly(start, used):
  count = words(start)
  for n in used:
    count = added(*count, jnp.int32(n))
    assert [x.dtype for x in count] == [jnp.int32] * 2
  assert number(*count) == start + sum(used)


@PROPERTY
@given(count=COUNTS, threshold=COUNTS, offset=st.integers(-2, 2))
def test_a_threshold_is_reached_at_the_very_example(count, threshold, offset):
  for n in (count, min(max(threshold + offset, 0), 2**counts.BITS - 1)):
    expected = n >= threshold
    assert bool(counts.reaches(*words(n), threshold)) == expected
    assert bool(counts.reaches(n, 0, threshold)) == expected


def test_numbers_of_numpy_are_taken_as_they_are():
  examples = np.array([0, 2**31, 10**12])
  np.testing.assert_array_equal(
    counts.reaches(examples, 0, 10**12), [False, False, True]
  )
  np.testing.assert_array_equal(
    counts.reaches(examples + 0.5, 0, 2**31), [False, True, True]
  )


@PROPERTY
@given(count=COUNTS)
def test_in_float_it_is_rounded(count):
  # Two roundings of 2^-24: of the words, and of their sum.
  found = counts.in_float(*words(count))
  np.testing.assert_allclose(float(found), count, rtol=2**-22)


@pytest.mark.parametrize('count', [0, 5, LARGEST, 2**31, 2**40 + 3])
def test_a_schedule_is_passed_what_it_takes(count):
  narrow = counts.at(lambda examples: examples, *words(count))
  assert int(narrow) == min(count, LARGEST)
  wide = counts.at(lambda examples, turns=0: (examples, turns), *words(count))
  assert number(*wide) == count


@pytest.mark.slow
@pytest.mark.parametrize('dtype', ['float32', 'float64', 'uint32', 'int64'])
@pytest.mark.parametrize('transform', [lambda f: f, jax.jit, jax.vmap])
def test_a_wide_number_of_jax_may_be_beyond_one_word(dtype, transform):
  most = 2**32 - 1 if dtype == 'uint32' else 2**40
  with jax.enable_x64(True):
    # Exact in a float32, too.
    numbers = [0, 2**30, 2**31, 3 * 2**30, *(x for x in [2**40] if x <= most)]
    for threshold in (1, 2**30, 2**31, 2**31 + 2**10, 2**32, 2**40):
      reached = transform(lambda n, t=threshold: counts.reaches(n, 0, t))
      found = reached(jnp.asarray(numbers, dtype))
      np.testing.assert_array_equal(found, [n >= threshold for n in numbers])
    turned = jnp.asarray(2**30, dtype)
    for threshold in (5 * 2**30, 5 * 2**30 + 2**10):
      found = counts.reaches(turned, jnp.int32(2), threshold)
      assert bool(found) == (threshold == 5 * 2**30)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_a_narrow_float_is_compared_in_a_wider_one(dtype):
  found = counts.reaches(jnp.asarray(2**15, dtype), 0, 2**15)
  assert bool(found)
  assert not counts.reaches(jnp.asarray(2**15, dtype), 0, 10**12)
