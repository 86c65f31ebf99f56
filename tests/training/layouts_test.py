"""A state that XLA takes apart, and a step that it compiles again for that."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import adaopt
from adaopt.experiments import compilations

X = np.random.default_rng(0).normal(size=(96, 16)).astype(np.float32)
PARAMS = {
  'kernel': jax.random.normal(jax.random.key(0), [16, 32]) / 4,
  'bias': jnp.zeros(32),
  'scale': jnp.ones(16),
}
OPTIMIZER = adaopt.adaptive(
  optax.adam(1.0), 0.01, init_batch_size=16, max_batch_size=64
)


def loss_fn(params, x):
  hidden = jnp.tanh(x @ params['kernel'] + params['bias'][None])
  outputs = hidden @ params['kernel'].T * params['scale'][None]
  return jnp.mean((outputs - x) ** 2)


@pytest.fixture
def state():
  """Kernels in parts, beside vectors that are whole on every device."""
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  place = lambda x: NamedSharding(mesh, P(None, 'data') if x.ndim > 1 else P())
  state = adaopt.init_train_state(PARAMS, OPTIMIZER)
  return jax.device_put(state, jax.tree.map(place, state))


def of_arrays():
  return adaopt.train_step(loss_fn, OPTIMIZER, micro_batch_size=16), X


def of_a_feed():
  step = adaopt.feed_step(loss_fn, OPTIMIZER)
  return step, adaopt.feed(list(X), micro_batch_size=16)


@pytest.mark.slow
@pytest.mark.parametrize('source', [of_arrays, of_a_feed])
def test_a_step_leaves_a_state_where_it_lies(source, state):
  step, data = source()
  lies = jax.tree.map(lambda x: x.sharding, state)
  state, _ = step(state, data)
  assert jax.tree.map(lambda x: x.sharding, state) == lies
  before = compilations.count()
  step(state, data)
  assert compilations.names()[before:] == []


@pytest.mark.slow
def test_a_step_serves_states_that_lie_otherwise(state):
  step, data = of_arrays()
  whole = jax.tree.map(
    lambda x: jax.device_put(x, NamedSharding(x.sharding.mesh, P())), state
  )
  for start in (state, whole, state):
    after, metrics = step(start, data)
    assert metrics.finite
    for old, new in zip(*map(jax.tree.leaves, (start, after)), strict=True):
      assert old.sharding == new.sharding
