"""Tests of the tensors that an optimizer moves, and of no others."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

import adaopt

X = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
PARAMS = {'backbone': np.eye(4, dtype=np.float32), 'head': np.ones(4) / 4}
PARAMS = jax.tree.map(jnp.float32, PARAMS)
LABELS = {'backbone': 'frozen', 'head': 'trained'}


def loss_fn(params, batch):
  outputs = jnp.tanh(batch @ params['backbone']) @ params['head']
  return jnp.mean((outputs - batch[:, 0]) ** 2)


HEAD_LOSS = lambda head, batch: loss_fn(PARAMS | {'head': head}, batch)
IS_FROZEN = {'backbone': True, 'head': False}
WAYS = {
  'multi_transform': optax.multi_transform(
    {'frozen': optax.set_to_zero(), 'trained': optax.adam(0.1)}, LABELS
  ),
  'masked': optax.chain(
    optax.adam(0.1), optax.masked(optax.set_to_zero(), IS_FROZEN)
  ),
  'freeze': optax.chain(optax.sgd(0.1), optax.transforms.freeze(IS_FROZEN)),
}


def first(criterion, optimizer):
  optimizer = optax.chain(
    adaopt.adapt_batch_size(criterion, init_batch_size=32, max_batch_size=2048),
    optimizer,
  )
  step = adaopt.train_step(loss_fn, optimizer, micro_batch_size=16)
  return step(adaopt.init_train_state(PARAMS, optimizer), jnp.asarray(X))


@pytest.mark.slow
@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize(
  ('test', 'oracle'),
  [
    (adaopt.norm_test, oracles.norm_requirement),
    (adaopt.inner_product_test, oracles.inner_product_requirement),
  ],
)
def test_a_frozen_tensor_has_no_part_in_a_test(test, oracle, way):
  state, metrics = first(test(0.5), WAYS[way])
  head = np.float64(PARAMS['head'])
  rows = oracles.sample_gradients(HEAD_LOSS, head, X)
  # Some tens of float32 operations.
  np.testing.assert_allclose(metrics.required, oracle(rows, 0.5), rtol=1e-4)
  np.testing.assert_array_equal(state.params['backbone'], PARAMS['backbone'])
  if test is adaopt.norm_test:
    variance = oracles.total_variance(rows)
    np.testing.assert_allclose(metrics.variance, variance, rtol=1e-4)


def test_a_test_by_coordinate_is_to_be_restricted():
  optimizer = WAYS['freeze']
  with pytest.raises(ValueError, match=r"\['backbone'\].*adaopt\.of_tensors"):
    first(adaopt.coordinate_norm_test(0.5, jnp.median), optimizer)
  only_head = adaopt.of_tensors(
    adaopt.coordinate_norm_test(0.5, jnp.median), lambda path: path == 'head'
  )
  _, metrics = first(only_head, optimizer)
  head = np.float64(PARAMS['head'])
  rows = oracles.sample_gradients(HEAD_LOSS, head, X)
  expected = np.median(oracles.coordinate_requirements(rows, 0.5))
  np.testing.assert_allclose(metrics.required, expected, rtol=1e-4)
