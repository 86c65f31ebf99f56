"""Training under the flags of JAX that find faults."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adaopt
from adaopt.training import drivers

X = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
DATASET = {'x': X, 'y': X[:, 0] - X[:, 1]}
PARAMS = {'w': np.zeros(3, np.float32), 'b': np.zeros([], np.float32)}


@contextlib.contextmanager
def config(name, value):
  before = getattr(jax.config, name)
  jax.config.update(name, value)
  try:
    yield
  finally:
    jax.config.update(name, before)


FLAGS = {
  'debug nans': lambda: config('jax_debug_nans', True),
  'debug infs': lambda: config('jax_debug_infs', True),
  'strict': lambda: config('jax_numpy_dtype_promotion', 'strict'),
  'ranks': lambda: config('jax_numpy_rank_promotion', 'raise'),
  'leaks': lambda: config('jax_check_tracer_leaks', True),
  'transfers': lambda: jax.transfer_guard('disallow'),
}


@pytest.mark.slow
@pytest.mark.parametrize('driver', [drivers.traced, drivers.dispatched])
@pytest.mark.parametrize('flag', FLAGS)
def test_a_model_trains_under_a_flag(flag, driver):
  def loss_fn(params, batch):
    outputs = batch['x'] @ params['w'] + params['b']
    errors = jnp.square(outputs - batch['y'])
    weights = jnp.abs(batch['y'])
    return adaopt.WeightedLoss(jnp.sum(weights * errors), jnp.sum(weights))

  optimizer = adaopt.adadagrad(
    0.5,
    adaopt.augmented_inner_product_test(0.5, nu=0.5),
    init_batch_size=4,
    max_batch_size=32,
    test_interval=2,
  )
  with FLAGS[flag]():
    metrics = [
      metrics
      for _, metrics in adaopt.fit(
        loss_fn,
        optimizer,
        PARAMS,
        DATASET,
        num_examples=200,
        max_micro_batch_size=8,
        driver=driver,
      )
    ]
  assert metrics[-1].loss < metrics[0].loss / 2
  assert metrics[-1].batch_size > 4
  # No test in the second step: nothing was measured.
  assert not metrics[1].variance >= 0
