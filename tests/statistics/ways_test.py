"""If these fail, the same batch has other statistics on another way to them.

`train_step`, `fit` and `accumulate` measure micro-batches of the same examples
and merge the same moments.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import adaopt
from adaopt import training
from tests.statistics import recording

SEED = 1


pytestmark = pytest.mark.usefixtures('optimised')


def _linear(params, x):
  """The gradient of an example is the example."""
  return jnp.mean(x[:, :3] @ params['a'] + x[:, 3] * params['b'])


def _layer(params, x):
  outputs = jnp.tanh(x @ params['a'] + params['b'][None])
  return jnp.mean(jnp.sum(outputs, 1))


LOSSES = {
  'linear': (_linear, {'a': np.ones(3), 'b': np.ones([])}),
  'layer': (
    _layer,
    {'a': np.linspace(-0.4, 0.5, 8).reshape(4, 2), 'b': np.zeros(2)},
  ),
}


def _case(name):
  loss_fn, params = LOSSES[name]
  return loss_fn, jax.tree.map(jnp.float32, params)


def _dataset(noise):
  """Examples around 1. [96, 4]."""
  rows = np.random.default_rng(0).normal(size=(96, 4))
  return np.float32(1 + noise * rows)


def _rows(dataset, batch_size, draw):
  return np.asarray(draw(dataset, SEED, jnp.arange(batch_size)))


def by_step(name, dataset, batch_size, micro, q, draw, driver):
  loss_fn, params = _case(name)
  optimizer = recording.optimizer(batch_size)
  step = adaopt.train_step(
    loss_fn,
    optimizer,
    micro_batch_size=micro,
    group_size=q,
    draw=draw,
    driver=driver,
  )
  state = adaopt.init_train_state(params, optimizer, seed=SEED)
  state, _ = step(state, jnp.asarray(dataset))
  return recording.last(state.opt_state)


def by_fit(name, dataset, batch_size, micro, q, draw):
  loss_fn, params = _case(name)
  steps = adaopt.fit(
    loss_fn,
    recording.optimizer(batch_size),
    params,
    dataset,
    num_examples=batch_size,
    seed=SEED,
    max_micro_batch_size=micro,
    group_size=q,
    draw=draw,
  )
  ((state, _),) = steps
  return recording.last(state.opt_state)


def by_accumulate(name, dataset, batch_size, micro, q, draw):
  """Of plain gradients, where a micro-batch is one sample."""
  loss_fn, params = _case(name)
  inner = recording.optimizer(batch_size)
  optimizer = adaopt.accumulate(inner, group_size=q)
  state = optimizer.init(params)
  update = jax.jit(optimizer.update)
  plain = jax.jit(jax.value_and_grad(loss_fn))
  estimate = jax.jit(adaopt.value_and_statistics(loss_fn, group_size=q))
  rows = _rows(dataset, batch_size, draw)
  for start in range(0, batch_size, micro):
    batch = rows[start : start + micro]
    if q == micro:
      value, gradient = plain(params, batch)
      extra = dict(value=value)
    else:
      value, statistics = estimate(params, batch)
      gradient = statistics.mean
      extra = dict(value=value, statistics=statistics)
    assert not adaopt.has_updated(state)
    _, state = update(gradient, state, params, **extra)
  assert adaopt.has_updated(state)
  return recording.last(state)


WAYS = {
  'traced step': functools.partial(by_step, driver=training.traced),
  'dispatched step': functools.partial(by_step, driver=training.dispatched),
  'fit': by_fit,
  'accumulate': by_accumulate,
}


def _expected(name, dataset, batch_size, q, draw):
  """The oracle's variances, in float64: of tensors, coordinates, matrices."""
  loss_fn, params = LOSSES[name]
  rows = _rows(dataset, batch_size, draw).astype(np.float64)
  with jax.enable_x64(True):
    params = _case(name)[1]
    params = jax.tree.map(lambda p: jnp.asarray(np.asarray(p), float), params)
    g = oracles.sample_gradients(loss_fn, params, rows, q)
  return (
    q * oracles.tensor_variances(g, params),
    q * oracles.coordinate_variances(g),
    oracles.ratio_matrix_variances(g, np.ones(len(g)), params, q),
  )


def _assert_close(found, tensors, coordinates, matrices, rtol):
  close = functools.partial(np.testing.assert_allclose, rtol=rtol)
  close(oracles.ravel(found.variance), tensors)
  close(oracles.ravel(found.coordinate_variance), coordinates)
  leaves = jax.tree.leaves(found.matrix_variance)
  for actual, matrix in zip(leaves, matrices, strict=True):
    close(actual, matrix, atol=rtol * np.max(np.abs(matrix)))


def _all_ways(*args):
  found = {way: of(*args) for way, of in WAYS.items()}
  reference = found['accumulate']
  for record in found.values():
    assert record.examples == reference.examples
    np.testing.assert_allclose(record.value, reference.value, 1e-6)
    np.testing.assert_allclose(
      oracles.ravel(record.mean), oracles.ravel(reference.mean), 1e-6
    )
    _assert_close(
      record,
      oracles.ravel(reference.variance),
      oracles.ravel(reference.coordinate_variance),
      jax.tree.leaves(reference.matrix_variance),
      # Some roundings of float32, 6e-8.
      rtol=1e-6,
    )
  return found


# Micro-batches of one size, of one sample, and with a rest.
@pytest.mark.slow
@pytest.mark.parametrize(
  ('name', 'batch_size', 'micro', 'q'),
  [
    ('linear', 32, 8, 1),
    ('linear', 32, 4, 4),
    ('layer', 28, 8, 2),
    ('layer', 24, 8, 8),
  ],
)
def test_all_ways_have_the_same_statistics(name, batch_size, micro, q):
  case = name, _dataset(noise=1.0), batch_size
  found = _all_ways(*case, micro, q, adaopt.draw)
  for record in found.values():
    assert record.examples == batch_size
    # 6e-8 of |ḡ|², which is up to 100 times the variance of groups here.
    _assert_close(record, *_expected(*case, q, adaopt.draw), rtol=1e-5)


def _in_order(dataset, seed, positions):
  del seed
  return jnp.asarray(dataset)[positions]


@pytest.mark.slow
def test_nothing_cancels_between_micro_batches():
  """Noise of 1e-3 of the gradient, all of it between micro-batches.

  All numbers have so few bits that float32 adds up their squares within a
  micro-batch without rounding.
  """
  steps = np.random.default_rng(0).integers(-2, 3, size=(12, 4))
  dataset = np.repeat(np.float32(1 + steps * 2.0**-10), 8, 0)
  case = 'linear', dataset, 96
  found = _all_ways(*case, 8, 2, _in_order)
  for record in found.values():
    # Means round at 1e-4 of the noise; raw squares would at 0.1 of it.
    _assert_close(record, *_expected(*case, 2, _in_order), rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize('name', LOSSES)
def test_nothing_cancels_between_micro_batches_of_one_sample(name):
  """There is nothing within them: all of the noise is found by merging."""
  case = name, _dataset(noise=1e-3), 64
  found = {way: of(*case, 8, 8, adaopt.draw) for way, of in WAYS.items()}
  for record in found.values():
    _assert_close(record, *_expected(*case, 8, adaopt.draw), rtol=0.01)
