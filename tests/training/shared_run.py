"""A run that one process makes, or several together."""

import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils

import adaopt

X = np.random.default_rng(0).normal(size=(96, 16)).astype(np.float32)
OPTIMIZER = adaopt.adaptive(
  optax.sgd(1.0), 0.1, init_batch_size=8, max_batch_size=64
)


def loss_fn(params, batch):
  return jnp.mean((jnp.tanh(batch @ params['w']) - 1) ** 2)


def new_state():
  return adaopt.init_train_state({'w': jnp.ones([16, 8]) / 8}, OPTIMIZER)


def run(state, dataset):
  """Steps, the last batch size, the last loss, and Σ |w| at the end."""
  *_, (state, metrics) = adaopt.fit(
    loss_fn,
    OPTIMIZER,
    state,
    dataset,
    num_examples=300,
    max_micro_batch_size=16,
  )
  total = multihost_utils.process_allgather(
    jnp.sum(jnp.abs(state.params['w'])), tiled=True
  )
  return (
    int(metrics.step),
    int(metrics.batch_size),
    float(metrics.loss),
    float(np.ravel(total)[0]),
  )
