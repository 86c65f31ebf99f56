"""If these fail, sums round, wrap around or leave out a tensor."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaopt._common import arithmetic


@pytest.mark.parametrize(
  ('dtype', 'accumulator', 'real'),
  [
    (jnp.bfloat16, jnp.float32, jnp.float32),
    (jnp.float16, jnp.float32, jnp.float32),
    (jnp.float32, jnp.float32, jnp.float32),
    (jnp.float64, jnp.float64, jnp.float64),
    (jnp.complex64, jnp.complex64, jnp.float32),
    (jnp.complex128, jnp.complex128, jnp.float64),
    (jnp.int32, jnp.float32, jnp.float32),
    (bool, jnp.float32, jnp.float32),
  ],
)
def test_accumulators_are_at_least_float32(dtype, accumulator, real):
  with jax.enable_x64(True):
    assert arithmetic.accumulator_dtype(jnp.zeros(2, dtype)) == accumulator
    assert arithmetic.real_dtype(jnp.zeros(2, dtype)) == real


@pytest.mark.parametrize(
  ('value', 'expected'),
  [
    (jnp.array([-3.0, 2.0]), [9.0, 4.0]),
    (jnp.array([3.0 - 4.0j, 2.0j]), [25.0, 4.0]),
    # 257² is neither a bfloat16 nor a square of one.
    (jnp.array([258.0, -0.5], jnp.bfloat16), [66564.0, 0.25]),
  ],
  ids=['real', 'complex', 'bfloat16'],
)
def test_abs_sq_is_real_and_exact_in_float32(value, expected):
  squares = arithmetic.abs_sq(value)
  assert squares.dtype == jnp.float32
  np.testing.assert_array_equal(squares, expected)


def test_total_and_squared_norm_run_over_all_tensors():
  tree = {'a': jnp.array([[1.0, -2.0]]), 'b': [jnp.array(3.0), None]}
  assert arithmetic.total(tree) == 2.0
  assert arithmetic.squared_norm(tree) == 14.0
  assert arithmetic.squared_norm({'z': jnp.array([3.0 + 4.0j])}) == 25.0


LARGEST = 2**31 - 1


@pytest.mark.parametrize(
  ('count', 'increment', 'expected'),
  [
    (3, 4, 7),
    (0, LARGEST, LARGEST),
    (LARGEST - 5, 5, LARGEST),
    (LARGEST - 5, 6, LARGEST),
    (LARGEST, 1, LARGEST),
    (LARGEST, LARGEST, LARGEST),
  ],
)
def test_counts_stay_at_the_largest_integer(count, increment, expected):
  add = jax.jit(arithmetic.saturating_add)
  total = add(jnp.int32(count), jnp.int32(increment))
  assert total.dtype == jnp.int32
  assert total == expected


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float32, jnp.complex64])
def test_scaled_updates_keep_their_dtypes(dtype):
  updates = {'w': jnp.array([1.0, -4.0], dtype), 'b': None}
  scaled = arithmetic.scale(jnp.float32(0.5), updates)
  assert scaled['w'].dtype == dtype
  assert scaled['w'].tolist() == [0.5, -2.0]
  assert scaled['b'] is None


@pytest.mark.parametrize(
  ('tree', 'expected'),
  [
    ({}, True),
    ({'n': jnp.int32(3), 'key': jax.random.key(0), 'none': None}, True),
    ([jnp.ones(2), jnp.zeros([], jnp.bfloat16)], True),
    ([jnp.ones(2), jnp.array([1.0, jnp.nan])], False),
    ([jnp.array(-jnp.inf, jnp.bfloat16), jnp.ones(2)], False),
    (jnp.array(1 + 1j * jnp.inf), False),
    (1.5, True),
  ],
)
def test_all_numbers_of_a_tree_are_finite_or_not(tree, expected):
  for found in (
    arithmetic.all_finite(tree),
    jax.jit(arithmetic.all_finite)(tree),
  ):
    assert (found.shape, found.dtype) == ((), jnp.bool_)
    assert bool(found) == expected


def test_none_stays_none_where_the_others_are_mapped():
  add = lambda *xs: sum(xs)
  tree = {'a': 1, 'b': None, 'c': [2, None]}
  rest = {'a': 10, 'b': 20, 'c': [30, 40]}
  assert arithmetic.map_present(add, tree, rest) == {
    'a': 11,
    'b': None,
    'c': [32, None],
  }
  assert arithmetic.map_present(add, None, 3) is None
