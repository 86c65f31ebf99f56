"""If these fail, plain gradients show another noise than there is."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax.sharding import PartitionSpec

import adaopt
from adaopt import noise

Q = 4  # examples in a micro-batch


def _gradients(samples=6):
  """The mean gradients of micro-batches as a tree, and as rows [J, 4]."""
  rows = np.random.default_rng(0).normal(size=(samples, 4)) + 1
  tree = {'a': rows[:, :3], 'b': rows[:, 3]}
  return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree), rows


def _assert_are_the_oracles(statistics, rows):
  """The mean gradient, and q times the variance of the rows."""
  assert statistics.batch_size == Q * len(rows)
  assert statistics.batch_size.dtype == jnp.int32
  # Sums of some float32 numbers of order 1.
  close = functools.partial(np.testing.assert_allclose, rtol=1e-5)
  close(oracles.ravel(statistics.mean), oracles.mean(rows))
  expected = Q * oracles.tensor_variances(rows, {'a': rows[0, :3], 'b': 0.0})
  close(oracles.ravel(statistics.variance), expected)


def test_between_micro_batches():
  gradients, rows = _gradients()
  measure = functools.partial(noise.between_micro_batches, micro_batch_size=Q)
  _assert_are_the_oracles(jax.jit(measure)(gradients), rows)


def test_two_sizes_are_the_same_from_sums_alone():
  gradients, rows = _gradients()
  norm = lambda g: jnp.mean(jnp.sum(g.reshape(len(g), -1) ** 2, 1))
  statistics = noise.from_two_sizes(
    jax.tree.map(lambda g: jnp.mean(g, 0), gradients),
    jax.tree.map(norm, gradients),
    batch_size=Q * len(rows),
    micro_batch_size=Q,
  )
  _assert_are_the_oracles(statistics, rows)


def test_one_micro_batch_beside_the_batch_is_unbiased():
  # Over all pairs of draws from three gradients of examples.
  population = np.array([[1.0, 2.0], [3.0, -1.0], [-0.5, 0.5]])
  found = []
  for first, second in itertools.product(population, repeat=2):
    statistics = noise.from_two_sizes(
      jnp.asarray((first + second) / 2, jnp.float32),
      jnp.float32(oracles.squared_norm(first)),
      batch_size=2,
      micro_batch_size=1,
    )
    m = oracles.squared_norm(statistics.mean)
    v = float(statistics.variance)
    found.append((v, m - v / 2))
  # Draws with replacement: the variance of the population, divided by n.
  v = oracles.total_variance(population) * 2 / 3
  truth = v, oracles.squared_norm(oracles.mean(population))
  np.testing.assert_allclose(np.mean(found, 0), truth, rtol=1e-5)
  assert np.min(found) < 0


def _between_devices(gradient, axis_name):
  return noise.between_devices(
    gradient, axis_name=axis_name, micro_batch_size=Q
  )


def test_between_devices():
  gradients, rows = _gradients(samples=8)
  mesh = jax.make_mesh(
    (8,), ('devices',), axis_types=(jax.sharding.AxisType.Auto,)
  )

  def on_a_device(gradients):
    gradient = jax.tree.map(lambda g: g[0], gradients)
    return _between_devices(gradient, 'devices')

  measure = jax.shard_map(
    on_a_device,
    mesh=mesh,
    in_specs=PartitionSpec('devices'),
    out_specs=PartitionSpec(),
  )
  _assert_are_the_oracles(jax.jit(measure)(gradients), rows)


@pytest.mark.slow
def test_between_devices_of_two_axes_and_a_vmap():
  gradients, rows = _gradients(samples=6)
  grid = jax.tree.map(lambda g: g.reshape(2, 3, *g.shape[1:]), gradients)
  measure = functools.partial(_between_devices, axis_name=('x', 'y'))
  found = jax.vmap(jax.vmap(measure, axis_name='y'), axis_name='x')(grid)
  for x, y in itertools.product(range(2), range(3)):
    one = jax.tree.map(lambda leaf, x=x, y=y: leaf[x, y], found)
    _assert_are_the_oracles(one, rows)


@pytest.mark.slow
@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.complex64])
def test_other_dtypes_are_summed_in_float32(dtype):
  rows = np.random.default_rng(1).normal(size=(5, 300))
  gradients = jnp.asarray(rows, dtype)
  exact = np.asarray(gradients.astype(jnp.complex64))
  statistics = noise.between_micro_batches(gradients, micro_batch_size=Q)
  assert statistics.mean.dtype == dtype
  assert statistics.variance.dtype == jnp.float32
  # 1500 squares, summed in float32.
  np.testing.assert_allclose(
    statistics.variance, Q * oracles.total_variance(exact), rtol=1e-5
  )


@pytest.mark.slow
def test_a_single_micro_batch_shows_no_noise_and_is_not_measured():
  gradients, _ = _gradients(samples=1)
  statistics = noise.between_micro_batches(gradients, micro_batch_size=Q)
  assert np.all(np.isnan(oracles.ravel(statistics.variance)))
  instrument = adaopt.noise_scale(half_life=100)
  state = instrument.init(statistics.mean)
  _, state = instrument.update(statistics.mean, state, statistics=statistics)
  assert state.measured == 0


@pytest.mark.parametrize('q', [0, 2.5])
def test_a_micro_batch_size_out_of_range_is_refused(q):
  gradients, _ = _gradients()
  with pytest.raises(ValueError, match='micro_batch_size must be an integer'):
    noise.between_micro_batches(gradients, micro_batch_size=q)
  with pytest.raises(ValueError, match='micro_batch_size must be an integer'):
    noise.between_devices(gradients, axis_name='x', micro_batch_size=q)
  with pytest.raises(ValueError, match='micro_batch_size must be an integer'):
    noise.from_two_sizes(gradients, gradients, batch_size=8, micro_batch_size=q)


def test_sizes_that_do_not_differ_are_told():
  with pytest.raises(
    ValueError, match='micro_batch_size=8 is not below batch_'
  ):
    noise.from_two_sizes(1.0, 2.0, batch_size=8, micro_batch_size=8)


def test_gradients_of_other_numbers_of_micro_batches_are_told():
  gradients = {'a': jnp.ones([2, 3]), 'b': jnp.ones([4])}
  with pytest.raises(ValueError, match=r"\['a'\].* 2.*\['b'\].* 4|lengths"):
    noise.between_micro_batches(gradients, micro_batch_size=Q)
