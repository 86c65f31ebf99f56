"""If these fail, a run repeats, skips or reorders its training examples.

The seeds are fixed, so that every test of chance either always passes or
always fails; its threshold would stop a fair shuffle once in a million.
"""

import functools
import itertools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import strategies as st

import adaopt
from adaopt import training
from adaopt.experiments import compilations

FALSE_ALARM = 1e-6


@functools.cache
def _indices(n):
  """The jitted (seed, positions) → indices of a stream of n examples."""
  return jax.jit(
    functools.partial(adaopt.training.example_indices, num_examples=n)
  )


def _epochs(seed, first, count, n):
  """The indices of `count` epochs from epoch `first` on. [count, n]."""
  positions = first * n + np.arange(count * n, dtype=np.int32)
  return np.asarray(_indices(n)(seed, positions)).reshape(count, n)


def _assert_permutations(epochs):
  n = epochs.shape[1]
  expected = np.broadcast_to(np.arange(n), epochs.shape)
  np.testing.assert_array_equal(np.sort(epochs, 1), expected)


@pytest.mark.slow
@hypothesis.given(
  n=st.integers(1, 300),
  seed=st.integers(-(2**31), 2**31 - 1),
  epoch=st.integers(0, 10**6),
)
@hypothesis.settings(max_examples=8, deadline=None)
def test_every_epoch_visits_every_example_once(n, seed, epoch):
  _assert_permutations(_epochs(seed, epoch, 3, n))


@pytest.mark.slow
@pytest.mark.parametrize('n', [1, 2, 255, 256, 257, 60_000])
@pytest.mark.parametrize('epoch', [0, 1000])
def test_epochs_are_permutations_whatever_the_power_of_two(n, epoch):
  _assert_permutations(_epochs(0, epoch, 2, n))


def test_the_last_positions_of_int32_still_make_an_epoch():
  n = 1000
  epoch = (2**31 - 1) // n - 1
  assert (epoch + 2) * n > 2**31 - 1
  _assert_permutations(_epochs(3, epoch, 1, n))


def test_the_largest_number_of_examples_is_drawn_in_range():
  n = 2**31 - 1
  indices = np.asarray(_indices(n)(0, np.arange(1000, dtype=np.int32)))
  assert indices.min() >= 0
  assert indices.max() < n
  assert len(np.unique(indices)) == 1000


@pytest.mark.parametrize(
  ('one', 'other'),
  [
    ((0, 0), (1, 0)),
    ((0, 0), (-1, 0)),
    ((0, 0), (2**31 - 1, 0)),
    ((0, 0), (0, 1)),
    ((0, 1), (1, 0)),
    ((7, 3), (3, 7)),
    ((0, 999), (0, 1000)),
  ],
  ids=lambda seed_and_epoch: 'seed {} epoch {}'.format(*seed_and_epoch),
)
def test_two_seeds_or_epochs_have_unrelated_orders(one, other):
  n = 1000
  (a,), (b,) = (_epochs(seed, epoch, 1, n) for seed, epoch in (one, other))
  # Two independent orders agree in Poisson(1) places.
  agreements = np.sum(a == b)
  assert agreements <= scipy.stats.poisson.isf(FALSE_ALARM, 1)


@pytest.mark.slow
def test_an_index_depends_on_seed_and_position_alone():
  n, seed = 60, 5
  in_order = np.asarray(_indices(n)(seed, jnp.arange(240)))
  shuffled = np.random.default_rng(0).permutation(240)
  ask = lambda positions: adaopt.training.example_indices(seed, positions, n)
  np.testing.assert_array_equal(ask(shuffled), in_order[shuffled])
  np.testing.assert_array_equal(
    ask(shuffled.reshape(4, 3, 20)), in_order[shuffled.reshape(4, 3, 20)]
  )
  np.testing.assert_array_equal(ask(jnp.array([7, 7])), in_order[[7, 7]])
  assert ask(jnp.array(239)) == in_order[239]
  assert ask(239) == in_order[239]


@pytest.mark.slow
def test_vmap_over_seeds_or_positions_changes_no_index():
  n = 60
  seeds, positions = jnp.arange(5), jnp.arange(120)
  ask = lambda seed, positions: adaopt.training.example_indices(
    seed, positions, n
  )
  expected = np.stack([_indices(n)(seed, positions) for seed in range(5)])
  over_seeds = jax.jit(jax.vmap(ask, (0, None)))(seeds, positions)
  np.testing.assert_array_equal(over_seeds, expected)
  over_positions = jax.vmap(ask, (None, 0))(3, positions)
  np.testing.assert_array_equal(over_positions, expected[3])
  pairwise = jax.vmap(ask)(seeds, positions[:5])
  np.testing.assert_array_equal(pairwise, np.diag(expected))


@pytest.mark.slow
@pytest.mark.parametrize(
  'dtype', [np.int8, np.int16, np.uint16, np.uint32, np.int64, np.uint64]
)
def test_the_type_of_the_positions_changes_no_index(dtype):
  n = 40_000  # more than int16 holds
  expected = _indices(n)(0, jnp.arange(100, dtype=jnp.int32))
  with jax.enable_x64(True):
    indices = adaopt.training.example_indices(0, np.arange(100, dtype=dtype), n)
  assert indices.dtype == jnp.int32
  np.testing.assert_array_equal(indices, expected)


def _assert_uniform(outcomes, cells):
  """Pearson's χ² test that outcomes below `cells` are equally likely."""
  counts = np.bincount(outcomes, minlength=cells)
  assert len(counts) == cells
  expected = len(outcomes) / cells
  assert expected >= 20
  statistic = np.sum((counts - expected) ** 2) / expected
  assert statistic < scipy.stats.chi2.isf(FALSE_ALARM, cells - 1)


def _orders(epochs):
  """The number of each row's permutation in lexicographic order."""
  orders = itertools.permutations(range(epochs.shape[1]))
  numbers = {order: i for i, order in enumerate(orders)}
  return np.array([numbers[order] for order in map(tuple, epochs.tolist())])


@functools.cache
def _over_seeds(n, positions, seeds):
  """The indices of the first positions of many streams. [seeds, positions]."""
  ask = lambda seed: adaopt.training.example_indices(
    seed, jnp.arange(positions), n
  )
  return np.asarray(jax.jit(jax.vmap(ask))(jnp.arange(seeds)))


@pytest.mark.slow
@pytest.mark.parametrize(('n', 'cells'), [(2, 2), (3, 6), (4, 24), (5, 120)])
def test_over_seeds_all_orders_are_equally_likely(n, cells):
  _assert_uniform(_orders(_over_seeds(n, n, 30 * 120)), cells)


@pytest.mark.parametrize(('n', 'cells'), [(2, 2), (3, 6), (4, 24), (5, 120)])
def test_over_epochs_all_orders_are_equally_likely(n, cells):
  _assert_uniform(_orders(_epochs(0, 0, 30 * 120, n)), cells)


@pytest.mark.slow
@pytest.mark.parametrize('n', [3, 4])
def test_successive_epochs_and_seeds_have_independent_orders(n):
  cells = len(list(itertools.permutations(range(n))))
  over_epochs = _orders(_epochs(1, 0, 40 * 24**2, n)).reshape(-1, 2)
  over_seeds = _orders(_over_seeds(n, n, 40 * 24**2)).reshape(-1, 2)
  for first, second in (over_epochs.T, over_seeds.T):
    _assert_uniform(first * cells + second, cells**2)


@pytest.mark.slow
@pytest.mark.parametrize('n', [100, 256, 257])
@pytest.mark.parametrize('position', [0, 1, 99])
def test_every_example_is_equally_likely_at_a_position(n, position):
  _assert_uniform(_over_seeds(n, 100, 30 * n)[:, position], n)


@pytest.mark.parametrize('n', [100, 257])
def test_successive_examples_lie_any_distance_apart(n):
  epochs = _epochs(2, 0, 1000, n)
  gaps = np.diff(epochs, axis=1)[:, ::2] % n
  _assert_uniform(gaps.ravel() - 1, n - 1)


@pytest.mark.parametrize(
  ('n', 'message'),
  [
    (0, 'at least 1 .*got 0'),
    (-3, 'at least 1 .*got -3'),
    (2.5, r'an integer .*got 2\.5'),
    (True, 'an integer .*got True'),
    (2**31, r'below 2\^31, got 2147483648'),
    (2**40, r'below 2\^31, got 1099511627776'),
  ],
)
def test_a_wrong_number_of_examples_meets_a_sentence(n, message):
  with pytest.raises(ValueError, match=f'num_examples must be .*{message}'):
    adaopt.training.example_indices(0, jnp.arange(3), n)


def _dataset(n):
  index = np.arange(n)
  return {
    'x': np.stack([index, index**2], 1).astype(np.float32),
    'y': (index, jnp.asarray(-index)),
  }


def test_draw_gathers_the_same_rows_of_every_array():
  n, positions = 50, np.array([3, 4, 170, 3])
  batch = adaopt.draw(_dataset(n), 7, positions)
  rows = adaopt.training.example_indices(7, positions, n)
  np.testing.assert_array_equal(batch['x'][:, 0], rows)
  np.testing.assert_array_equal(batch['x'][:, 1], rows**2)
  np.testing.assert_array_equal(batch['y'][0], rows)
  np.testing.assert_array_equal(batch['y'][1], -rows)
  assert batch['x'].dtype == jnp.float32
  assert batch['y'][1].dtype == jnp.int32


def test_draw_spans_epochs_and_exceeds_the_dataset():
  n = 7
  draw = jax.jit(lambda dataset, at: adaopt.draw(dataset, 0, at))
  dataset = _dataset(n)
  three_epochs = draw(dataset, jnp.arange(3 * n))['y'][0]
  np.testing.assert_array_equal(np.bincount(three_epochs), [3] * n)
  across = draw(dataset, jnp.arange(n - 2, n + 3))['y'][0]
  np.testing.assert_array_equal(across, three_epochs[n - 2 : n + 3])


@pytest.mark.parametrize(
  ('dataset', 'message'),
  [
    ({'x': np.ones((3, 2)), 'y': np.ones(4)}, r"\['x'\]: 3, \['y'\]: 4"),
    (np.ones((0, 2)), 'the dataset is empty'),
    ({'x': np.ones(3), 'y': np.ones(())}, r"\['y'\] is a scalar"),
    ((), 'holds no array'),
  ],
  ids=['ragged', 'empty', 'scalar', 'no array'],
)
def test_draw_refuses_what_is_no_dataset(dataset, message):
  with pytest.raises(ValueError, match=message):
    adaopt.draw(dataset, 0, jnp.arange(2))


@pytest.mark.parametrize(
  ('seed', 'positions', 'message'),
  [
    (-1, np.arange(2), 'seed must be an integer'),
    (2**32, np.arange(2), 'seed must be an integer'),
    ('0', np.arange(2), 'seed must be an integer'),
    (0, np.arange(2) / 2, 'positions must be integers, .* got float'),
  ],
)
def test_a_seed_and_positions_are_integers(seed, positions, message):
  for function in (
    lambda: adaopt.example_keys(seed, positions),
    lambda: training.example_indices(seed, positions, 5),
  ):
    with pytest.raises(ValueError, match=message):
      function()


def test_batches_drawn_outside_of_jit_compile_once():
  dataset = {'x': jnp.arange(10)}
  adaopt.draw(dataset, 0, jnp.arange(4))
  before = compilations.count()
  adaopt.draw(dataset, 1, 4 + jnp.arange(4))
  assert compilations.count() == before
