"""A changed batch size, a second call, or a test that compiles again."""

import functools
import gc
import math
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adaopt
from adaopt.training import drivers
from experiments import compilations


def loss_fn(params, batch):
  return jnp.mean((batch @ params) ** 2)


DATASET = np.random.default_rng(0).normal(size=(60_000, 3)).astype(np.float32)


def triple(statistics):
  """A criterion that grows as fast as noise would: threefold a step."""
  return 3.0 * statistics.batch_size


def test_growth_from_2_to_60_000_compiles_no_more_than_the_ladder():
  optimizer = optax.chain(
    adaopt.adapt_batch_size(triple, init_batch_size=2, max_batch_size=60_000),
    adaopt.adagrad(0.1),
  )
  state = adaopt.init_train_state(jnp.ones(3), optimizer)
  before = compilations.count()
  sizes = [
    int(metrics.batch_size)
    for _, metrics in adaopt.fit(
      functools.partial(adaopt.train_step, loss_fn, optimizer),
      state,
      jnp.asarray(DATASET),
      num_examples=300_000,
      max_micro_batch_size=128,
    )
  ]
  assert (sizes[0], sizes[-1]) == (2, 60_000)
  assert len(set(sizes)) == 11
  assert 1 <= compilations.count() - before <= math.log(128 / 2, 4) + 1


@pytest.mark.parametrize(
  ('driver', 'programs'),
  [
    (drivers.traced, ['jit(step)']),
    # With statistics until b_max, without from there on, and the update.
    (drivers.dispatched, ['jit(micro_step)', 'jit(update)', 'jit(micro_step)']),
  ],
)
def test_one_micro_batch_size_serves_every_batch_size(driver, programs):
  optimizer = optax.chain(
    adaopt.adapt_batch_size(triple, init_batch_size=2, max_batch_size=600),
    adaopt.adagrad(0.1),
  )
  step = adaopt.train_step(
    loss_fn, optimizer, micro_batch_size=64, driver=driver
  )
  state = adaopt.init_train_state(jnp.ones(3), optimizer)
  before = compilations.names()
  dataset = jnp.asarray(DATASET[:1000])
  sizes = []
  for _ in range(8):
    state, metrics = step(state, dataset)
    sizes.append(int(metrics.batch_size))
  assert sizes == [2, 6, 18, 54, 162, 486, 600, 600]
  assert compilations.names()[len(before) :] == programs


def test_steps_are_kept_for_as_long_as_what_makes_them():
  optimizer = adaopt.adadagrad(
    0.1, adaopt.norm_test(0.5), init_batch_size=4, max_batch_size=64
  )
  own_loss_fn = lambda params, batch: loss_fn(params, batch)
  make_step = functools.partial(adaopt.train_step, own_loss_fn, optimizer)
  state = adaopt.init_train_state(jnp.ones(3), optimizer)
  dataset = jnp.asarray(DATASET[:1000])
  before, counts = compilations.count(), []
  for _ in range(2):
    for _ in adaopt.fit(
      make_step, state, dataset, num_examples=20, max_micro_batch_size=4
    ):
      pass
    counts.append(compilations.count() - before)
  assert counts == [1, 1]
  kept = weakref.ref(own_loss_fn)
  del own_loss_fn, make_step
  gc.collect()
  assert kept() is None


def test_traced_step_sends_nothing_from_the_host():
  optimizer = adaopt.adadagrad(
    0.1, adaopt.norm_test(0.5), init_batch_size=4, max_batch_size=64
  )
  step = adaopt.train_step(
    loss_fn, optimizer, micro_batch_size=16, driver=drivers.traced
  )
  state = adaopt.init_train_state(jnp.ones(3), optimizer)
  dataset = jnp.asarray(DATASET[:100])
  state, _ = step(state, dataset)
  with jax.transfer_guard('disallow'):
    step(state, dataset)
