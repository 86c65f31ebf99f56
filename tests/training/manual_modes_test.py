"""If these fail, statistics depend on how the devices are programmed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import adaopt

X = jax.random.normal(jax.random.key(0), [32, 3, 8])
KEYS = jax.random.split(jax.random.key(1), 2)
PARAMS = {
  'layers': jax.random.normal(KEYS[0], [2, 8, 8]) / 3,
  'masked': jax.random.normal(KEYS[1], [8, 8]) / 3,
}


def loss_fn(params, x):
  """A scan over layers, a masked weight and a recurrent cell."""
  layer = jax.checkpoint(lambda h, w: (jnp.tanh(h @ w), None))
  h, _ = jax.lax.scan(layer, x, params['layers'])
  w = params['masked'] * jnp.tri(8)
  cell = lambda c, row: (jnp.tanh(c @ w + row), None)
  c, _ = jax.lax.scan(cell, jnp.zeros_like(h[:, 0]), jnp.swapaxes(h, 0, 1))
  return jnp.mean(jnp.sum(c**2, -1))


def masked_loss(params, x):
  """A masked weight alone, which compiles sooner."""
  return jnp.mean(jnp.tanh(x @ (params['masked'] * jnp.tri(8))) ** 2)


def noisy_loss(params, x, key):
  kept = jax.random.bernoulli(key, 0.5, x.shape)
  return masked_loss(params, x * kept)


def make_mesh(kind, shape=(8,), names=('data',)):
  return jax.make_mesh(shape, names, axis_types=(kind,) * len(names))


def assert_close(actual, expected):
  for pair in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
    # Sums of float32 numbers in another order.
    np.testing.assert_allclose(*map(np.asarray, pair), 1e-4, 1e-6)


@functools.cache
def alone(loss_fn):
  return jax.jit(adaopt.value_and_statistics(loss_fn))(PARAMS, X)


def mapped(estimate, check_vma, out_specs=P()):
  return jax.jit(
    jax.shard_map(
      estimate,
      mesh=make_mesh(AxisType.Auto),
      in_specs=(P(), P('data')),
      out_specs=out_specs,
      check_vma=check_vma,
    )
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  ('loss_fn', 'check_vma'),
  [(loss_fn, True), (masked_loss, True), (masked_loss, False)],
)
def test_devices_merge_to_the_whole_batch(loss_fn, check_vma):
  estimate = adaopt.value_and_statistics(loss_fn, axis_name='data')
  assert_close(mapped(estimate, check_vma)(PARAMS, X), alone(loss_fn))


def test_without_a_name_every_device_has_its_own():
  estimate = adaopt.value_and_statistics(masked_loss)
  rows = lambda *args: jax.tree.map(lambda x: x[None], estimate(*args))
  found = mapped(rows, True, P('data'))(PARAMS, X)
  expected = jax.jit(estimate)(PARAMS, X[8:12])
  assert_close(jax.tree.map(lambda x: x[2], found), expected)


def test_the_mean_alone_merges_too():
  estimate = adaopt.value_and_statistics(masked_loss, only=(), axis_name='data')
  value, statistics = mapped(estimate, True)(PARAMS, X)
  expected_value, expected = alone(masked_loss)
  assert_close((value, statistics.mean), (expected_value, expected.mean))
  assert statistics.batch_size == len(X)


def test_under_pmap():
  estimate = adaopt.value_and_statistics(masked_loss, axis_name='data')
  run = jax.pmap(estimate, axis_name='data', in_axes=(None, 0))
  found = run(PARAMS, X.reshape(8, 4, *X.shape[1:]))
  assert_close(jax.tree.map(lambda x: x[5], found), alone(masked_loss))


def test_keys_are_those_of_the_whole_batch():
  key = jax.random.key(2)
  whole = adaopt.value_and_statistics(noisy_loss, only=('variance',))
  part = adaopt.value_and_statistics(
    noisy_loss, only=('variance',), axis_name='data'
  )
  found = mapped(lambda params, x: part(params, x, key=key), True)(PARAMS, X)
  assert_close(found, jax.jit(whole)(PARAMS, X, key=key))


def test_a_model_state_merges():
  def stateful(params, x, model_state):
    mean, var = jnp.mean(x, (0, 1)), jnp.var(x, (0, 1))
    moved = {
      'mean': 0.9 * model_state['mean'] + 0.1 * mean,
      'var': 0.9 * model_state['var'] + 0.1 * var,
    }
    x = (x - mean[None, None]) / jnp.sqrt(var + 1e-3)[None, None]
    return masked_loss(params, x), moved

  state = {'mean': jnp.zeros(8), 'var': jnp.ones(8)}
  run = lambda name: (
    lambda params, x: adaopt.value_and_statistics(
      stateful, only=('variance',), group_size=4, axis_name=name
    )(params, x, model_state=state)
  )
  found = mapped(run('data'), True)(PARAMS, X)
  assert_close(found, jax.jit(run(None))(PARAMS, X))


@pytest.mark.slow
@pytest.mark.parametrize(
  ('shape', 'names', 'spec'),
  [
    ((8,), ('data',), P()),
    ((8,), ('data',), P(None, 'data')),
    ((2, 4), ('data', 'model'), P(None, None, 'model')),
  ],
)
def test_on_explicit_axes(shape, names, spec):
  def with_rows(params, x):
    rows = jnp.tanh(x @ params['layers'][0])
    loss = jnp.mean((rows @ (params['masked'] * jnp.tri(8))) ** 2)
    return loss, {'rows': rows[:, 0, 0], 'mean': jnp.mean(rows)}

  estimate = jax.jit(adaopt.value_and_statistics(with_rows, has_aux=True))
  expected = estimate(PARAMS, X)
  mesh = make_mesh(AxisType.Explicit, shape, names)
  with jax.set_mesh(mesh):
    params = {
      'layers': jax.device_put(PARAMS['layers'], spec),
      'masked': jax.device_put(PARAMS['masked'], P()),
    }
    x = jax.device_put(X, P('data'))
    (loss, aux), found = estimate(params, x)
  like = jax.typeof(params['layers']).sharding.spec
  for tree in (found.mean, found.coordinate_variance):
    assert jax.typeof(tree['layers']).sharding.spec == like
  assert jax.typeof(aux['rows']).sharding.spec == P('data')
  assert_close(((loss, aux), found), expected)
  if spec == P():  # The mesh of the arrays is enough.
    assert_close(estimate(params, x)[0], expected[0])


def test_explicit_shardings_within_a_model_are_told():
  def sharded(params, x):
    x = jax.sharding.reshard(x @ params['masked'], P('data'))
    return jnp.mean(x**2)

  with jax.set_mesh(make_mesh(AxisType.Explicit)):
    args = jax.device_put(PARAMS, P()), jax.device_put(X, P('data'))
    with pytest.raises(ValueError, match=r'explicit axes .* AxisType.Auto'):
      jax.eval_shape(adaopt.value_and_statistics(sharded), *args)


def mapped_inside(params, x):
  """A loss that maps its batch over the devices."""
  layer = jax.shard_map(
    lambda w, x: jnp.tanh(x @ w),
    mesh=make_mesh(AxisType.Auto),
    in_specs=(P(), P('data')),
    out_specs=P('data'),
  )
  return jnp.mean(layer(params['masked'], x) ** 2)


def test_a_shard_map_in_the_model_takes_groups():
  estimate = adaopt.value_and_statistics(mapped_inside, group_size=8)
  plain = lambda params, x: jnp.mean(jnp.tanh(x @ params['masked']) ** 2)
  expected = adaopt.value_and_statistics(plain, group_size=8)
  found = jax.jit(estimate)(PARAMS, X)
  assert_close(found, jax.jit(expected)(PARAMS, X))


def test_a_shard_map_over_single_examples_is_told():
  estimate = adaopt.value_and_statistics(mapped_inside)
  with pytest.raises(ValueError, match=r'group_size=1 .*device_statistics'):
    estimate(PARAMS, X)
  optimizer = adaopt.adaptive(
    optax.sgd(1.0), 0.1, init_batch_size=8, max_batch_size=16
  )
  with pytest.raises(ValueError, match=r'group_size=1 .*device_statistics'):
    next(iter(adaopt.fit(mapped_inside, optimizer, PARAMS, X, num_examples=32)))


def test_two_samples_may_be_on_two_devices():
  estimate = adaopt.value_and_statistics(
    masked_loss, only=('variance',), group_size=4, axis_name='data'
  )
  found = mapped(estimate, True)(PARAMS, X)
  whole = adaopt.value_and_statistics(
    masked_loss, only=('variance',), group_size=4
  )
  assert_close(found, jax.jit(whole)(PARAMS, X))
