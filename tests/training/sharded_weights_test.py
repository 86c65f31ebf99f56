"""Weighted losses of examples that are sharded over devices."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import adaopt

X = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
MASK = np.arange(16) % 3 > 0


def loss_fn(params, batch):
  errors = jnp.square(batch['x'] @ params - 1)
  return adaopt.WeightedLoss(
    jnp.sum(batch['mask'] * errors), jnp.sum(batch['mask'])
  )


def test_weights_add_up_over_devices():
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), 'data')
  batch = {'x': X, 'mask': MASK}
  sharded = jax.device_put(batch, NamedSharding(mesh, P('data')))
  estimate = jax.jit(adaopt.value_and_statistics(loss_fn))
  params = jnp.ones(3)
  alone, together = estimate(params, batch), estimate(params, sharded)
  assert together[1].weight == MASK.sum()
  # The same sums in another order.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-6),
    jax.device_get(alone),
    jax.device_get(together),
  )
