"""Data of the host beside a state on a mesh: sent once, to where it belongs."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import adaopt
from adaopt import training
from adaopt.experiments.benchmarks import collectives
from adaopt.training import fed, steps, stream
from tests.training import sharding_test

DATA = np.random.default_rng(0).normal(1.0, size=[64, 3]).astype(np.float32)
OPTIMIZER = optax.chain(
  adaopt.adapt_batch_size(
    adaopt.norm_test(0.4),
    init_batch_size=4,
    max_batch_size=32,
    policy=adaopt.capped_growth(1.5),
  ),
  optax.sgd(0.02),
)


def loss_fn(params, batch):
  return jnp.mean((params - batch) ** 2)


@pytest.fixture(scope='module')
def mesh():
  auto = jax.sharding.AxisType.Auto
  return jax.make_mesh((8,), ('data',), axis_types=(auto,))


def start(*sharding):
  state = adaopt.init_train_state(jnp.zeros([1, 3]), OPTIMIZER)
  return jax.device_put(state, *sharding)


def train(state, dataset, **options):
  """(state, metrics) of every step, and the datasets that they were given."""
  given = []

  def recording(parts):
    step = training.traced(parts)

    def recorded(state, dataset):
      given.append(dataset)
      return step(state, dataset)

    return recorded

  if not isinstance(dataset, adaopt.Feed):
    options |= dict(driver=recording, max_micro_batch_size=6)
  pairs = adaopt.fit(
    loss_fn, OPTIMIZER, state, dataset, num_examples=64, check=False, **options
  )
  return [jax.device_get(pair) for pair in pairs], given


def assert_close(actual, expected):
  chex.assert_trees_all_close(
    [(s, m._replace(examples=0)) for s, m in actual],
    [(s, m._replace(examples=0)) for s, m in expected],
    rtol=1e-5,
    atol=1e-6,
  )


@pytest.mark.slow
@pytest.mark.parametrize('kind', [np.asarray, jnp.asarray])
def test_arrays_beside_a_state_on_a_mesh_are_put_there_once(mesh, kind):
  everywhere = NamedSharding(mesh, PartitionSpec())
  expected, _ = train(start(), DATA)
  actual, given = train(start(everywhere), kind(DATA))
  assert_close(actual, expected)
  assert len(given) > 3
  assert all(one is given[0] for one in given)
  assert given[0].sharding == everywhere
  assert given[0].committed


@pytest.mark.slow
def test_an_array_that_is_sharded_stays_so(mesh):
  everywhere = NamedSharding(mesh, PartitionSpec())
  sharded = NamedSharding(mesh, PartitionSpec('data'))
  data = jax.make_array_from_process_local_data(sharded, DATA)
  expected, _ = train(start(), DATA)
  actual, given = train(start(everywhere), data)
  assert_close(actual, expected)
  assert given[0] is data


@pytest.mark.slow
@pytest.mark.parametrize('axes', [None, PartitionSpec(), PartitionSpec('data')])
def test_a_feed_beside_a_state_on_a_mesh(mesh, axes):
  everywhere = NamedSharding(mesh, PartitionSpec())
  sharding = None if axes is None else NamedSharding(mesh, axes)
  feed = lambda **options: adaopt.feed([*DATA], micro_batch_size=8, **options)
  expected, _ = train(start(), feed())
  fed = feed(sharding=sharding)
  actual, _ = train(start(everywhere), fed)
  assert_close(actual, expected)
  examples = fed.read(len(DATA) - 1).examples
  shared = NamedSharding(mesh, PartitionSpec('data'))
  assert examples.sharding.is_equivalent_to(sharding or shared, 2)


def test_a_micro_batch_that_devices_cannot_share_is_refused(mesh):
  state = start(NamedSharding(mesh, PartitionSpec()))
  feed = adaopt.feed([*DATA], micro_batch_size=6)
  message = 'a micro-batch of the feed has 6 examples, which 8 devices cannot'
  with pytest.raises(ValueError, match=message):
    train(state, feed)


def test_micro_batches_that_are_sharded_stay_so(mesh):
  sharded = NamedSharding(mesh, PartitionSpec('data'))
  everywhere = NamedSharding(mesh, PartitionSpec())
  batches = [
    jax.make_array_from_process_local_data(sharded, batch)
    for batch in DATA.reshape(8, 8, 3)
  ]
  feed = adaopt.feed(batches)
  expected, _ = train(start(), adaopt.feed([*DATA], micro_batch_size=8))
  actual, _ = train(start(everywhere), feed)
  assert_close(actual, expected)
  assert feed.read(len(DATA) - 1).examples.sharding == sharded


def test_of_a_sharded_micro_batch_one_example_alone_is_sent(mesh):
  """That which stands for those outside of the batch; and the gradient."""
  state = start(NamedSharding(mesh, PartitionSpec()))
  sharded = NamedSharding(mesh, PartitionSpec('data'))
  recipe = fed.fed_recipe(
    loss_fn, OPTIMIZER, micro_batch_size=64, group_size=1, has_aux=False
  )
  numbers = map(jnp.int32, (0, 3, 60))
  block = stream.Block(jax.device_put(DATA, sharded), *numbers)
  plan = steps.parts_of(recipe, donate=False).plan(state, block)
  moments = jax.jit(plan.measurements[0].moments)
  text = moments.lower(jnp.int32(0), state, block).compile().as_text()
  found = collectives.collectives(text)
  # The example, the gradient, the loss, the noise and the count.
  sharding_test.check_all_reduces(found, 3 + 3 + 3)
