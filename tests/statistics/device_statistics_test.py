"""If these fail, noise between devices is not the noise of their examples."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import adaopt
from adaopt import statistics

Q = 4  # examples of a device
PARAMS = {
  'w': jax.random.normal(jax.random.key(0), [8, 16]),
  'b': jnp.linspace(-1, 1, 16),
}
X = jax.random.normal(jax.random.key(1), [8 * Q, 8])


def loss_fn(params, x):
  return jnp.mean(jnp.tanh(x @ params['w'] + params['b'][None]) ** 2)


def weighted_loss(params, x):
  weight = jnp.abs(x[:, 0])
  errors = jnp.sum(jnp.tanh(x @ params['w'] + params['b'][None]) ** 2, 1)
  return adaopt.WeightedLoss(jnp.sum(weight * errors), jnp.sum(weight))


def value_and_grad(loss_fn):
  """(loss, or totals and weights; its gradient, or that of totals)."""

  def total(params, x):
    loss = loss_fn(params, x)
    weighted = isinstance(loss, adaopt.WeightedLoss)
    return (loss.total if weighted else loss), loss

  def both(params, x):
    gradient, loss = jax.grad(total, has_aux=True)(params, x)
    return loss, gradient

  return both


def on_devices(function, out_specs=P(), check_vma=True, number=8):
  mesh = jax.make_mesh((number,), ('data',), axis_types=(AxisType.Auto,))
  return jax.shard_map(
    function,
    mesh=mesh,
    in_specs=(P(), P('data')),
    out_specs=out_specs,
    check_vma=check_vma,
  )


def measure(loss_fn, params, x):
  params = jax.lax.pcast(params, 'data', to='varying')
  return adaopt.device_statistics(
    *value_and_grad(loss_fn)(params, x), 'data', Q
  )


# Sums of some float32 numbers of order 1, in another order.
close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize('check_vma', [True, False])
def test_the_gradient_of_a_device_is_a_sample(check_vma):
  run = on_devices(functools.partial(measure, loss_fn), check_vma=check_vma)
  loss, found = jax.jit(run)(PARAMS, X)
  g = oracles.sample_gradients(loss_fn, PARAMS, X, Q)
  close(loss, loss_fn(PARAMS, X))
  close(oracles.ravel(found.mean), oracles.mean(g))
  expected = Q * oracles.tensor_variances(g, PARAMS)
  close(oracles.ravel(found.variance), expected)
  assert found.batch_size == len(X)
  assert found.batch_size.dtype == jnp.int32
  assert found.coordinate_variance is None


@pytest.mark.slow
def test_weighted_losses_are_ratios_over_all_devices():
  run = on_devices(functools.partial(measure, weighted_loss))
  loss, found = jax.jit(run)(PARAMS, X)
  total = lambda params, x: weighted_loss(params, x).total
  a = oracles.sample_gradients(total, PARAMS, X, Q)
  w = [float(weighted_loss(PARAMS, x).weight) for x in X.reshape(8, Q, -1)]
  close(loss, total(PARAMS, X) / sum(w))
  close(found.weight, sum(w))
  close(oracles.ravel(found.mean), oracles.ratio(a, w))
  expected = oracles.ratio_tensor_variances(a, w, PARAMS, Q)
  close(oracles.ravel(found.variance), expected)
  whole = adaopt.value_and_statistics(weighted_loss, group_size=Q)
  _, expected = jax.jit(whole)(PARAMS, X)
  close(found.weight_variance, expected.weight_variance)
  covariances = found.weight_covariance, expected.weight_covariance
  jax.tree.map(functools.partial(close, atol=1e-6), *covariances)


DIMENSIONS = {'w': 1, 'b': None}


def measure_shards(params, x):
  params = jax.lax.pcast(params, 'data', to='varying')
  loss, gradient = jax.value_and_grad(loss_fn)(params, x)
  return statistics.shard_statistics(
    loss, gradient, 'data', Q, dimensions=DIMENSIONS
  )


def shard_specs():
  like = adaopt.GradientStatistics(P(), {'w': P(None, 'data'), 'b': P()})
  return P(), like._replace(variance=P())


def test_shards_of_the_mean_give_the_same_statistics():
  expected = jax.jit(on_devices(functools.partial(measure, loss_fn)))(PARAMS, X)
  found = jax.jit(on_devices(measure_shards, shard_specs()))(PARAMS, X)
  # ‖g‖² − ‖ḡ‖² of numbers of order 1 cancels some digits.
  pairs = zip(*map(jax.tree.leaves, (found, expected)), strict=True)
  for pair in pairs:
    np.testing.assert_allclose(*pair, 1e-4, 1e-6)


def collective_bytes(function, *args):
  text = jax.jit(function).lower(*args).compile().as_text()
  shapes = re.findall(
    r'= (\(?\w+\[.*?) (?:all-\w+|reduce-scatter)(?:-start)?\(', text
  )
  sizes = re.findall(r'\w\d+\[([\d,]*)\]', ' '.join(shapes))
  count = lambda dims: math.prod(map(int, filter(None, dims.split(','))))
  return 4 * sum(map(count, sizes))


def test_a_few_numbers_go_between_devices_beside_the_gradient():
  def plain(params, x):
    return jax.lax.pmean(
      jax.value_and_grad(loss_fn)(
        jax.lax.pcast(params, 'data', to='varying'), x
      ),
      'data',
    )

  def plain_shards(params, x):
    params = jax.lax.pcast(params, 'data', to='varying')
    loss, gradient = jax.value_and_grad(loss_fn)(params, x)
    w = jax.lax.psum_scatter(
      gradient['w'], 'data', scatter_dimension=1, tiled=True
    )
    return jax.lax.pmean(loss, 'data'), {
      'w': w / 8,
      'b': jax.lax.pmean(gradient['b'], 'data'),
    }

  whole = on_devices(functools.partial(measure, loss_fn))
  least = collective_bytes(on_devices(plain), PARAMS, X)
  assert collective_bytes(whole, PARAMS, X) <= least + 4 * (2 + 4)
  specs = shard_specs()
  shards = on_devices(measure_shards, specs)
  least = collective_bytes(
    on_devices(plain_shards, (P(), specs[1].mean)), PARAMS, X
  )
  assert collective_bytes(shards, PARAMS, X) <= least + 4 * 2


def test_one_device_shows_no_noise():
  run = jax.vmap(
    lambda x: adaopt.device_statistics(jnp.sum(x), x, 'data', Q),
    axis_name='data',
  )
  _, found = run(jnp.ones([1, 3]))
  assert np.isnan(found.variance)
  close(found.mean, np.ones([1, 3]))


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(
  st.lists(st.booleans(), min_size=8, max_size=8).filter(any),
  st.sampled_from([loss_fn, weighted_loss]),
)
def test_devices_that_measure_their_own_examples_merge_exactly(counts, loss_fn):
  # Some devices have no examples, and some have all.
  mask = np.repeat(np.asarray(counts), Q) & (np.arange(8 * Q) % 3 > 0)
  each = compiled(loss_fn, 'data')(
    PARAMS, X.reshape(8, Q, -1), mask.reshape(8, Q)
  )
  expected = compiled(loss_fn, None)(PARAMS, X, mask)
  for found, value in zip(*map(jax.tree.leaves, (each, expected)), strict=True):
    close(found[3], value, rtol=1e-4, atol=1e-6)


@functools.cache
def compiled(loss_fn, axis_name):
  estimate = adaopt.value_and_statistics(loss_fn, axis_name=axis_name)
  run = lambda params, x, mask: estimate(params, x, mask=mask)
  if axis_name:
    run = jax.vmap(run, (None, 0, 0), axis_name=axis_name)
  return jax.jit(run)


def experts(params, x):
  """A mixture of two experts, each for one sign of the first feature."""
  order = jnp.argsort(x[:, 0])
  sizes = jnp.stack([jnp.sum(x[:, 0] < 0), jnp.sum(x[:, 0] >= 0)])
  y = jax.lax.ragged_dot(x[order], params, sizes.astype(jnp.int32))
  return jnp.mean((y - jnp.sin(9 * x[order])) ** 2)


@pytest.mark.slow
def test_a_mixture_of_experts_trains_by_the_gradients_of_devices():
  optimizer = adaopt.accumulate(
    adaopt.adaptive(
      optax.sgd(1.0),
      0.1,
      init_batch_size=8 * Q,
      max_batch_size=64 * Q,
      multiple_of=8 * Q,
    ),
    group_size=Q,
  )

  def step(carry, x):
    params, state = carry
    loss, found = jax.shard_map(
      functools.partial(measure, experts),
      mesh=jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,)),
      in_specs=(P(), P('data')),
      out_specs=P(),
    )(params, x)
    updates, state = optimizer.update(
      found.mean, state, params, statistics=found
    )
    return (optax.apply_updates(params, updates), state), loss

  params = jnp.zeros([2, 8, 8])
  x = jax.random.normal(jax.random.key(2), [40, 8 * Q, 8])
  carry = params, optimizer.init(params)
  (params, state), losses = jax.jit(functools.partial(jax.lax.scan, step))(
    carry, x
  )
  assert losses[-1] < losses[0]
  assert optax.tree.get(state, 'batch_size') > 8 * Q  # the noise was seen


@pytest.mark.parametrize('only', [('variance',), ()])
def test_a_model_that_cannot_be_mapped_names_the_ways_out(only):
  estimate = adaopt.value_and_statistics(experts, only=only)
  with pytest.raises(ValueError, match='device_statistics, of micro-batches'):
    estimate(jnp.zeros([2, 8, 8]), X)


def test_a_gradient_that_was_added_up_is_refused():
  def invariant(params, x):
    return adaopt.device_statistics(
      *jax.value_and_grad(loss_fn)(params, x), 'data', Q
    )

  with pytest.raises(ValueError, match=r"same on all devices .*'data'.*pcast"):
    jax.eval_shape(on_devices(invariant), PARAMS, X)


def test_bad_input_is_told():
  one = functools.partial(adaopt.device_statistics, 0.0, 1.0, 'data')
  with pytest.raises(ValueError, match='group_size must be an integer'):
    one(group_size=0)
  loss = adaopt.WeightedLoss(jnp.ones(2), jnp.ones(2))
  shards = lambda loss: statistics.shard_statistics(
    loss, jnp.ones(1), 'data', 2, dimensions=0
  )
  with pytest.raises(ValueError, match='mean loss of a device, got a W'):
    jax.vmap(shards, axis_name='data')(loss)
