"""If these fail, running statistics are not those of the batch that was seen.

The reference is Flax's own BatchNorm, of the whole batch as one sample.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

import adaopt
from adaopt import bridges, training

DRIVERS = {'traced': training.traced, 'dispatched': training.dispatched}
RNG = np.random.default_rng(0)
# Groups of four lie apart, so that most variance is between them.
X = RNG.normal(size=(24, 3)) + np.repeat(3 * RNG.normal(size=(6, 3)), 4, 0)
DATASET = {
  'x': np.float32(X),
  'y': RNG.normal(size=(24, 2)).astype(np.float32),
}
KEY = jax.random.key(0)


class Model(nn.Module):
  @nn.compact
  def __call__(self, x, train):
    x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
    return nn.Dense(2)(x)


def linen_bridge():
  model = Model()
  variables = model.init(KEY, DATASET['x'], train=False)
  stats = variables['batch_stats']['BatchNorm_0']
  # Statistics of a run under way.
  stats = {'mean': stats['mean'] + 0.5, 'var': 2 * stats['var']}
  variables = variables | {'batch_stats': {'BatchNorm_0': stats}}

  def loss(model, batch):
    return jnp.mean((model(batch['x'], train=True) - batch['y']) ** 2)

  return bridges.linen_loss(model, variables, loss)


def nnx_bridge():
  rngs = nnx.Rngs(0)
  model = nnx.Sequential(
    nnx.BatchNorm(3, momentum=0.9, rngs=rngs), nnx.Linear(3, 2, rngs=rngs)
  )
  return bridges.nnx_loss(
    model, lambda model, batch: jnp.mean((model(batch['x']) - batch['y']) ** 2)
  )


BRIDGES = {'linen': linen_bridge, 'nnx': nnx_bridge}


def whole(bridge, batch, model_state=None):
  """The model state after one call on the whole batch."""
  state = bridge.model_state if model_state is None else model_state
  _, after = bridge.loss_fn(bridge.params, batch, KEY, state)
  return after


def assert_close(found, expected, rtol=1e-5):
  found, expected = jax.tree.leaves(found), jax.tree.leaves(expected)
  assert len(found) == len(expected) > 0
  for x, y in zip(found, expected, strict=True):
    assert x.dtype == y.dtype
    np.testing.assert_allclose(x, y, rtol, 1e-6)


def assert_same(found, expected):
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.slow
@pytest.mark.parametrize('size', [4, 8, 12])
@pytest.mark.parametrize('only', [('variance',), ()])
@pytest.mark.parametrize('make', BRIDGES.values(), ids=BRIDGES)
def test_groups_give_the_running_statistics_of_the_whole_batch(
  make, size, only
):
  bridge = make()
  run = jax.jit(
    adaopt.value_and_statistics(bridge.loss_fn, group_size=size, only=only)
  )
  (_, found), _ = run(
    bridge.params, DATASET, key=KEY, model_state=bridge.model_state
  )
  assert_close(found, whole(bridge, DATASET))


def test_the_variance_between_groups_is_most_of_it():
  bridge = linen_bridge()
  states = [
    whole(bridge, jax.tree.map(lambda x, i=i: x[i : i + 4], DATASET))
    for i in range(0, 24, 4)
  ]
  stats = lambda state: state['batch_stats']['BatchNorm_0']
  averaged = np.mean([stats(state)['var'] for state in states], 0)
  assert np.all(stats(whole(bridge, DATASET))['var'] > 1.1 * averaged)
  # The mean needs no more than an average.
  means = np.mean([stats(state)['mean'] for state in states], 0)
  np.testing.assert_allclose(stats(whole(bridge, DATASET))['mean'], means, 1e-5)


@pytest.mark.slow
def test_a_mask_leaves_groups_out_of_the_state():
  bridge = linen_bridge()
  run = adaopt.value_and_statistics(bridge.loss_fn, group_size=4)
  mask = np.arange(24) < 16
  (_, found), _ = run(
    bridge.params, DATASET, key=KEY, model_state=bridge.model_state, mask=mask
  )
  kept = jax.tree.map(lambda x: x[:16], DATASET)
  assert_close(found, whole(bridge, kept))


def _in_order(dataset, seed, positions):
  del seed
  return jax.tree.map(lambda x: x[positions % len(x)], dataset)


@pytest.mark.slow
@pytest.mark.parametrize('driver', DRIVERS.values(), ids=DRIVERS)
@pytest.mark.parametrize('micro_batch_size', [4, 8, 16, 64])
@pytest.mark.parametrize('make', BRIDGES.values(), ids=BRIDGES)
def test_a_step_moves_the_state_once(make, micro_batch_size, driver):
  bridge = make()
  optimizer = optax.chain(adaopt.schedule_batch_size(24), optax.sgd(0.0))
  step = adaopt.train_step(
    bridge.loss_fn,
    optimizer,
    micro_batch_size=micro_batch_size,
    group_size=4,
    draw=_in_order,
    driver=driver,
  )
  state = adaopt.init_train_state(
    bridge.params, optimizer, model_state=bridge.model_state
  )
  expected = bridge.model_state
  for _ in range(2):
    state, _ = step(state, jax.tree.map(jnp.asarray, DATASET))
    expected = whole(bridge, DATASET, expected)
    assert_close(state.model_state, expected)


@pytest.mark.parametrize('driver', DRIVERS.values(), ids=DRIVERS)
def test_an_update_that_is_left_out_leaves_the_state(driver):
  bridge = linen_bridge()
  optimizer = optax.chain(adaopt.schedule_batch_size(8), optax.sgd(0.1))
  step = adaopt.train_step(
    bridge.loss_fn, optimizer, micro_batch_size=4, group_size=4, driver=driver
  )
  state = adaopt.init_train_state(
    bridge.params, optimizer, model_state=bridge.model_state
  )
  bad = DATASET | {'y': np.full_like(DATASET['y'], np.nan)}
  after, metrics = step(state, bad)
  assert not metrics.finite
  assert_same(after.model_state, state.model_state)


def test_a_run_that_resumes_has_the_state_of_one_that_never_stopped():
  bridge = linen_bridge()
  optimizer = optax.chain(adaopt.schedule_batch_size(8), optax.sgd(0.05))
  fit = lambda start, num_examples, **options: list(
    adaopt.fit(
      bridge.loss_fn,
      optimizer,
      start,
      DATASET,
      num_examples=num_examples,
      max_micro_batch_size=8,
      group_size=4,
      **options,
    )
  )[-1][0]
  once = fit(bridge.params, 64, model_state=bridge.model_state)
  half = fit(bridge.params, 32, model_state=bridge.model_state)
  half = jax.tree.map(jnp.asarray, jax.device_get(half))
  twice = fit(half, 64)
  assert_same(twice, once)
  before = jax.tree.leaves(bridge.model_state)
  moved = jax.tree.leaves(once.model_state)
  for x, y in zip(before, moved, strict=True):
    assert np.all(np.isfinite(y))
    assert np.any(x != y)


# States of any kind.


def estimate(loss_fn, model_state, **options):
  run = jax.jit(adaopt.value_and_statistics(loss_fn, **options))
  x = np.float32([1.0, 2.0, 3.0, 6.0])
  (_, found), _ = run(np.float32(1), x, model_state=model_state)
  return found


def counting(step):
  def loss_fn(params, x, model_state):
    after = {'count': step(model_state['count'], x)}
    return jnp.mean(params * x), after

  return loss_fn


@pytest.mark.parametrize(
  'start',
  [
    np.int32(7),
    np.uint32(0),
    np.int8(-3),
    np.int32(2**24 + 1),
    np.uint32(2**32 - 2),
    np.int32(2**31 - 2),
  ],
)
def test_a_counter_counts_one_step(start):
  found = estimate(counting(lambda n, x: n + 1), {'count': start})
  assert found['count'].dtype == start.dtype
  assert found['count'] == start + 1


def test_an_unsigned_counter_may_fall():
  found = estimate(counting(lambda n, x: n - 2), {'count': np.uint32(5)})
  assert found['count'] == 3


def test_a_counter_of_examples_takes_the_nearest_integer_to_their_mean():
  step = lambda n, x: n + jnp.sum(x).astype(jnp.int32)
  found = estimate(counting(step), {'count': np.int32(10)})
  assert found['count'] == 13


def test_a_flag_takes_the_majority():
  found = estimate(
    counting(lambda flag, x: jnp.any(x < 4)), {'count': np.array(False)}
  )
  assert found['count'].dtype == bool
  assert found['count']


def test_what_the_loss_leaves_comes_back_to_the_last_bit():
  start = {
    'frozen': np.float32([0.1, np.nan, -0.0, 1e-45]),
    'big': np.int32(2**31 - 1),
    'average': np.float32(1.0),
  }

  def loss_fn(params, x, model_state):
    average = 0.5 * model_state['average'] + 0.5 * jnp.mean(x)
    return jnp.mean(params * x), model_state | {'average': average}

  found = estimate(loss_fn, start)
  for name in ('frozen', 'big'):
    assert np.asarray(found[name]).tobytes() == start[name].tobytes()
  assert found['average'] == 2.0


@pytest.mark.parametrize('dtype', [jnp.bfloat16, np.float16, np.complex64])
def test_a_leaf_keeps_its_dtype(dtype):
  def loss_fn(params, x, model_state):
    return jnp.mean(params * x), (model_state + jnp.mean(x)).astype(dtype)

  found = estimate(loss_fn, jnp.asarray(1, dtype))
  assert found.dtype == dtype
  assert found == 4


def test_a_state_comes_beside_rows_and_averages():
  def loss_fn(params, x, model_state):
    return jnp.mean(params * x), ({'x': x, 'm': jnp.mean(x)}, model_state + 1)

  run = adaopt.value_and_statistics(loss_fn, has_aux=True)
  x = np.float32([1.0, 2.0, 3.0, 6.0])
  (value, (aux, state)), _ = run(np.float32(2), x, model_state=np.float32(0))
  assert (value, aux['m'], state) == (6, 3, 1)
  np.testing.assert_array_equal(aux['x'], x)


def test_a_weighted_loss_has_a_state_too():
  """Its mean is over examples, whatever they weigh."""

  def loss_fn(params, x, model_state):
    loss = adaopt.WeightedLoss(jnp.sum(params * x**2), jnp.sum(x))
    return loss, model_state + jnp.mean(x)

  run = adaopt.value_and_statistics(loss_fn)
  x = np.float32([1.0, 2.0, 3.0, 6.0])
  (value, state), statistics = run(np.float32(2), x, model_state=np.float32(0))
  np.testing.assert_allclose(value, 2 * np.sum(x**2) / np.sum(x), 1e-6)
  assert state == 3
  assert statistics.weight == 12
