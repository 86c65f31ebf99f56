"""A micro-batch that does not fit, or one that is smaller than it could be."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import adaopt
from adaopt import training

X = np.random.default_rng(0).normal(size=(256, 64)).astype(np.float32)
PARAMS = {'up': jnp.ones([64, 256]) / 64, 'down': jnp.ones([256, 1]) / 256}
OPTIMIZER = adaopt.adaptive(
  optax.sgd(1.0), 0.1, init_batch_size=8, max_batch_size=256
)


def loss_fn(params, x):
  hidden = jnp.tanh(x @ params['up'])
  return jnp.mean((jnp.sin(hidden) @ params['down'] - 1) ** 2)


def new_state(devices=1):
  mesh = jax.make_mesh(
    (devices,),
    ('data',),
    axis_types=(AxisType.Auto,),
    devices=jax.devices()[:devices],
  )
  state = adaopt.init_train_state(PARAMS, OPTIMIZER)
  return jax.device_put(state, NamedSharding(mesh, P()))


def taken(size):
  """Bytes of a step with micro-batches of a size, on one device."""
  step = training.train_step(
    loss_fn, OPTIMIZER, micro_batch_size=size, driver=training.traced
  )
  compiled = step.lower(new_state(), X).compile()
  found = compiled.memory_analysis()
  return found.temp_size_in_bytes + 2 * found.output_size_in_bytes


def largest(state, num_bytes, **options):
  return training.largest_micro_batch_size(
    loss_fn, OPTIMIZER, state, X, num_bytes=num_bytes, **options
  )


@pytest.mark.slow
@pytest.mark.parametrize('size', [64, 128])
def test_the_largest_is_what_fits_and_no_less(size):
  assert largest(new_state(), taken(size)) == size
  assert largest(new_state(), taken(size) - 1) == size // 2


@pytest.mark.slow
def test_devices_take_a_part_each():
  # What they merge is held beside it.
  merged = 4 * sum(x.nbytes for x in PARAMS.values())
  assert largest(new_state(8), taken(128) + merged) == 8 * 128


@pytest.mark.slow
def test_groups_stay_whole_and_sizes_within_their_bound():
  assert largest(new_state(), 2**30, at_most=50) == 32
  assert largest(new_state(), 2**30, at_most=50, group_size=3) == 48


def test_what_cannot_be_told_is_a_sentence():
  with pytest.raises(
    ValueError, match=r'num_bytes must be at least \d+, .* got 100;'
  ):
    largest(new_state(), 100)
  with pytest.raises(ValueError, match='as cpu does not; got None'):
    largest(new_state(), None)
  with pytest.raises(ValueError, match='at_most must be at least 16, a group'):
    largest(new_state(8), 2**30, at_most=15, group_size=2)
