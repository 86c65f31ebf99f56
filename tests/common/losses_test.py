"""If these fail, a loss that has no gradient, or half a group, is measured."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adaopt
from adaopt._common import losses


def _returns(output):
  return lambda params, batch: output


def _checked(output, has_aux):
  return losses.checked(_returns(output), has_aux)(None, losses.Sample(None))


@pytest.mark.parametrize(
  ('has_aux', 'output', 'expected'),
  [
    (False, jnp.float32(2.0), (2.0, ())),
    (False, np.float64(2.0), (2.0, ())),
    (False, jnp.bfloat16(2.0), (2.0, ())),
    (True, (jnp.float32(2.0), {'n': 3}), (2.0, {'n': 3})),
    (True, (jnp.float32(2.0), ()), (2.0, ())),
  ],
)
def test_a_checked_loss_has_an_aux(has_aux, output, expected):
  value, outcome = _checked(output, has_aux)
  assert (value, outcome.aux) == expected
  assert outcome == losses.Outcome(None, expected[1], None, ())


def test_a_checked_loss_is_passed_the_further_arguments():
  loss_fn = lambda params, batch, *rest: jnp.float32(
    sum((params, batch, *rest))
  )
  assert losses.checked(loss_fn, False, 3, 4)(1, losses.Sample(2))[0] == 10


ONE = jnp.float32(1.0)


@pytest.mark.parametrize(
  ('has_aux', 'output', 'sentence'),
  [
    (False, (ONE, ONE), 'with has_aux=False it returned tuple'),
    (True, ONE, 'with has_aux=True it returned Array'),
    (True, (ONE, ONE, ONE), 'with has_aux=True it returned tuple'),
    (True, [ONE, ONE], 'with has_aux=True it returned list'),
    (False, 1.0, r'returned 1\.0, which is not an array and has no gradient'),
    (False, None, 'returned None, which is not an array'),
    (True, (1.0, ONE), r'returned 1\.0, which is not an array'),
    (False, jnp.ones(3), r'must return a real scalar.* got float32\[3\]'),
    (False, jnp.ones(1), r'must return a real scalar.* got float32\[1\]'),
    (False, jnp.int32(1), r'must return a real scalar.* got int32\[\]'),
    (False, jnp.complex64(1), r'must return a real scalar.* got complex64\[\]'),
  ],
)
def test_what_is_not_a_loss_meets_a_sentence(has_aux, output, sentence):
  with pytest.raises(ValueError, match=sentence):
    _checked(output, has_aux)


WEIGHTED = adaopt.WeightedLoss


@pytest.mark.parametrize(
  ('output', 'sentence'),
  [
    (
      WEIGHTED(2.0, ONE),
      r'WeightedLoss.total is 2\.0, which is not an array.* the sum over',
    ),
    (
      WEIGHTED(jnp.ones(3), ONE),
      r'WeightedLoss.total must be a real scalar, the sum .* got float32\[3\]',
    ),
    (
      WEIGHTED(jnp.complex64(1), ONE),
      r'WeightedLoss.total must be a real scalar.* got complex64\[\]',
    ),
    (WEIGHTED(ONE, jnp.ones(3)), r'weight must be .* got float32\[3\]'),
    (WEIGHTED(ONE, jnp.complex64(1)), r'weight must be .* got complex64\[\]'),
  ],
)
def test_what_is_not_a_weighted_loss_meets_a_sentence(output, sentence):
  with pytest.raises(ValueError, match=sentence):
    _checked(output, False)
  with pytest.raises(ValueError, match=sentence):
    _checked((output, ONE), True)


@pytest.mark.parametrize('weight', [3, 3.0, np.int32(3), jnp.bfloat16(3)])
def test_a_weight_is_as_wide_as_its_sum_must_be(weight):
  value, outcome = _checked(WEIGHTED(ONE, weight), False)
  assert value == 1
  assert outcome.weight == 3
  assert outcome.weight.dtype == jnp.float32


def test_a_weight_may_be_a_bool():
  assert _checked(WEIGHTED(ONE, jnp.array(True)), False)[1].weight == 1


@pytest.mark.parametrize(
  ('has_aux', 'output', 'sentence'),
  [
    (
      False,
      ONE,
      r'\(loss, model_state\) without; with has_aux=False it .* Array',
    ),
    (True, ONE, r'\(loss, \(aux, model_state\)\) with has_aux=True'),
    (True, (ONE, ONE), r'\(loss, \(aux, model_state\)\), got Array'),
    (True, (ONE, (ONE,)), r'\(loss, \(aux, model_state\)\), got tuple beside'),
    (False, (ONE, {'m': 1}), 'of the structure that it was given'),
    (False, (ONE, jnp.ones(2)), r'keep its shape \[\], got \[2\]'),
    (False, (ONE, jax.random.key(0)), 'a loss that draws random numbers'),
  ],
)
def test_what_is_not_a_model_state_meets_a_sentence(has_aux, output, sentence):
  loss_fn = lambda params, batch, model_state: output
  loss = losses.checked(loss_fn, has_aux, model_state=jnp.float32(0))
  with pytest.raises(ValueError, match=sentence):
    loss(None, losses.Sample(None))


BATCH = {'x': np.arange(12.0).reshape(6, 2), 'y': np.arange(6)}


@pytest.mark.parametrize('size', [1, 2, 3, 6])
def test_groups_are_of_consecutive_examples(size):
  groups = losses.grouped(BATCH, size)
  for name, array in BATCH.items():
    assert len(groups[name]) == 6 // size
    for i, group in enumerate(groups[name]):
      np.testing.assert_array_equal(group, array[i * size : (i + 1) * size])


def test_half_a_group_is_refused():
  sentence = '6 examples is not a multiple of group_size=4'
  with pytest.raises(ValueError, match=sentence):
    losses.grouped(BATCH, 4)


def test_random_keys_can_be_grouped():
  keys = jax.random.split(jax.random.key(0), 6)
  groups = losses.grouped(keys, 2)
  assert groups.shape == (3, 2)
  assert jnp.all(groups[1] == keys[2:4])


def test_a_sample_counts_where_all_of_its_examples_do():
  mask = jnp.array([True, True, True, False, False, False])
  groups, counts = losses.samples(BATCH, mask, 2)
  assert groups.batch['x'].shape == (3, 2, 2)
  assert counts.tolist() == [True, False, False]
  _, every = losses.samples(BATCH, None, 3)
  assert every.tolist() == [True, True]


def test_what_does_not_count_is_zero_even_where_it_is_no_number():
  samples = jnp.array([[1.0, 2.0], [jnp.nan, jnp.inf], [3.0, jnp.nan]])
  kept = losses.keep(samples, jnp.array([True, False, True]))
  np.testing.assert_array_equal(kept, [[1, 2], [0, 0], [3, np.nan]])
  assert losses.keep(samples[:, 0], jnp.zeros(3, bool)).tolist() == [0, 0, 0]
