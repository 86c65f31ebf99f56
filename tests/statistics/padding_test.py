"""If these fail, a loop with a moving batch size compiles for every size."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies

import adaopt


def _padded(length, size):
  return len(adaopt.pad(np.zeros(length), size)[1])


@hypothesis.given(strategies.data())
@hypothesis.settings(max_examples=200, deadline=None)
def test_few_shapes_hold_every_batch(data):
  size = data.draw(strategies.integers(1, 300))
  smallest = data.draw(strategies.integers(1, size))
  lengths = range(smallest, size + 1)
  shapes = [_padded(length, size) for length in lengths]
  halves = [size >> k for k in range(size.bit_length())]
  for length, padded in zip(lengths, shapes, strict=True):
    # The smallest that holds it, in plain words.
    assert padded == min(half for half in halves if half >= length)
  assert len(set(shapes)) <= int(np.floor(np.log2(size / smallest))) + 1


@pytest.mark.parametrize(
  ('length', 'size', 'padded'),
  [(1, 1, 1), (8, 8, 8), (5, 8, 8), (4, 8, 4), (3, 100, 3), (4, 100, 6)],
)
def test_the_shapes_are_halves_of_the_largest(length, size, padded):
  assert _padded(length, size) == padded


def _batch(xp, length=3):
  return {
    'x': xp.arange(1.0, 1.0 + 2 * length).reshape(length, 2),
    'y': (xp.arange(7, 7 + length), xp.ones([length], bool)),
  }


@pytest.mark.parametrize('xp', [np, jnp], ids=['numpy', 'jax'])
def test_examples_come_first_and_the_first_fills_up(xp):
  batch, mask = adaopt.pad(_batch(xp), 4)
  np.testing.assert_array_equal(batch['x'], [[1, 2], [3, 4], [5, 6], [1, 2]])
  np.testing.assert_array_equal(batch['y'][0], [7, 8, 9, 7])
  assert type(mask) is np.ndarray
  np.testing.assert_array_equal(mask, [True, True, True, False])
  kind = jax.Array if xp is jnp else np.ndarray
  for leaf, like in zip(
    jax.tree.leaves(batch), jax.tree.leaves(_batch(xp)), strict=True
  ):
    assert isinstance(leaf, kind)
    assert leaf.dtype == like.dtype


def test_each_array_stays_where_it_is():
  batch, _ = adaopt.pad((np.ones(3), jnp.ones(3)), 4)
  assert [type(x) is np.ndarray for x in batch] == [True, False]
  bfloat16 = np.ones([3, 1], jnp.bfloat16)
  assert adaopt.pad(bfloat16, 4)[0].dtype == jnp.bfloat16


def test_a_full_batch_is_not_copied():
  batch = _batch(np, 4)
  found, mask = adaopt.pad(batch, 8)
  assert found is batch
  assert mask.all()
  assert mask.shape == (4,)


def test_keys_are_repeated_too():
  keys = jax.random.split(jax.random.key(0), 3)
  padded, mask = adaopt.pad({'key': keys}, 4)
  assert padded['key'].dtype == keys.dtype
  np.testing.assert_array_equal(
    jax.random.key_data(padded['key']),
    jax.random.key_data(keys)[np.array([0, 1, 2, 0])],
  )
  assert mask.sum() == 3


def test_numpy_arrays_stay_on_the_host_and_a_loop_compiles_few_programs():
  traced = []

  @jax.jit
  def total(batch, mask):
    traced.append(mask.shape)
    return jnp.sum(jnp.where(mask, batch, 0))

  padded = [adaopt.pad(np.ones(length), 64) for length in range(4, 65)]
  assert all(type(x) is np.ndarray for x in jax.tree.leaves(padded))
  found = [float(total(*x)) for x in padded]
  assert found == list(range(4, 65))
  assert sorted(traced) == [(4,), (8,), (16,), (32,), (64,)]


def test_it_can_be_traced():
  padded, mask = jax.jit(lambda x: adaopt.pad(x, 4))(jnp.arange(3.0))
  np.testing.assert_array_equal(padded, [0, 1, 2, 0])
  np.testing.assert_array_equal(mask, [True, True, True, False])


@pytest.mark.parametrize(
  ('batch', 'size', 'sentence'),
  [
    (np.ones(9), 8, 'holds 9 examples, more than size=8; pass the largest'),
    (np.ones([0, 2]), 8, 'the batch is empty'),
    ({'x': np.ones(2), 'y': np.ones(3)}, 8, 'must be equal, got'),
    (np.ones([]), 8, 'is a scalar'),
    ({}, 8, 'holds no array'),
    (np.ones(1), 0, 'size must be an integer of at least 1 .* got 0'),
    (np.ones(1), 1.5, r'size must be an integer .* got 1\.5'),
  ],
  ids=['large', 'empty', 'ragged', 'scalar', 'nothing', 'zero', 'fraction'],
)
def test_what_cannot_be_padded_meets_a_sentence(batch, size, sentence):
  with pytest.raises(ValueError, match=sentence):
    adaopt.pad(batch, size)
