"""Weights that are lost in rounding, and budgets of weights."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adaopt
from adaopt.training import counting

T, M = 5, 6
rng = np.random.default_rng(0)
DATASET = {
  'x': rng.normal(size=[60, T]).astype(np.float32),
  'mask': (np.arange(T) < rng.integers(0, T + 1, [60, 1])).astype(np.float32),
}
OPTIMIZER = optax.chain(adaopt.schedule_batch_size(7), optax.sgd(0.1))


def loss_fn(params, batch):
  errors = (batch['x'] - params) ** 2
  return adaopt.WeightedLoss(
    jnp.sum(batch['mask'] * errors), jnp.sum(batch['mask'])
  )


@jax.jit
def total_of(total, weights):
  return jax.lax.scan(
    lambda total, w: (counting.added(total, w), None), total, weights
  )[0]


@settings(deadline=None)  # The first example compiles.
@given(
  start=st.integers(0, 2**46),
  weights=st.lists(st.integers(0, 2**24), min_size=8, max_size=8),
)
def test_whole_weights_add_up_exactly(start, weights):
  high = np.float32(start)
  total = jnp.array([high, np.float32(start - float(high))])
  found = counting.value(total_of(total, jnp.array(weights, jnp.float32)))
  assert found == start + sum(weights)


def test_a_weight_that_is_not_finite_is_left_out():
  weights = jnp.array([2.0, jnp.nan, jnp.inf, 3.0])
  assert counting.value(total_of(counting.nothing(), weights)) == 5


def train(make, state=None, **options):
  if state is None:
    state = adaopt.init_train_state(jnp.zeros([1, 1]), OPTIMIZER)
  steps = adaopt.fit(loss_fn, OPTIMIZER, state, make(), check=False, **options)
  return [jax.device_get(pair) for pair in steps]


def arrays():
  return DATASET


def fed():
  examples = [{k: x[i] for k, x in DATASET.items()} for i in range(60)]
  return adaopt.feed(examples, micro_batch_size=M)


@pytest.mark.slow
@pytest.mark.parametrize('donate', [False, True])
@pytest.mark.parametrize('make', [arrays, fed])
def test_a_budget_of_tokens_ends_with_the_first_step_that_reaches_it(
  make, donate
):
  history = train(make, total_weight=80, donate=donate)
  counts = [counting.value(state.weight) for state, _ in history]
  assert counts[-2] < 80 <= counts[-1]
  indices = np.arange(7 * len(counts))
  if make is arrays:
    indices = np.asarray(adaopt.training.example_indices(0, indices, 60))
  tokens = DATASET['mask'].sum(1)[indices].reshape(-1, 7).sum(1)
  np.testing.assert_array_equal(counts, np.cumsum(tokens))


def test_a_budget_of_tokens_is_of_the_whole_run():
  whole = train(arrays, total_weight=80)
  state = jax.tree.map(jnp.asarray, whole[1][0])
  chex.assert_trees_all_equal(train(arrays, state, total_weight=80), whole[2:])
  last = jax.tree.map(jnp.asarray, whole[-1][0])
  assert train(arrays, last, total_weight=80) == []


def test_of_two_budgets_the_first_that_is_spent_counts():
  assert len(train(arrays, total_weight=80, num_examples=14)) == 2


@pytest.mark.slow
def test_of_a_mean_the_weight_is_the_number_of_examples():
  mean = lambda params, batch: jnp.mean((batch['x'] - params) ** 2)
  steps = adaopt.fit(
    mean, OPTIMIZER, jnp.zeros([1, 1]), DATASET, total_weight=20
  )
  *_, (state, _) = steps
  assert counting.value(state.weight) == state.examples == 21


def test_a_budget_that_is_none_is_rejected():
  with pytest.raises(ValueError, match='total_weight must be positive'):
    train(arrays, total_weight=0)
  with pytest.raises(ValueError, match=r'num_examples .* got None'):
    train(arrays)
