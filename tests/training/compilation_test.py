"""A changed batch size, a second call, or a test that compiles again."""

import gc
import math
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adaopt
from adaopt.experiments import compilations
from adaopt.training import drivers, fitting


def loss_fn(params, batch):
  return jnp.mean((batch @ params) ** 2)


DATASET = np.random.default_rng(0).normal(size=(60_000, 3)).astype(np.float32)


def triple(statistics):
  """A criterion that grows as fast as noise would: threefold a step."""
  return 3.0 * statistics.batch_size


def triple_by_noise(statistics):
  """The same, of a criterion that reads the noise."""
  total = adaopt.criteria.total_variance(statistics, 'triple_by_noise')
  return jnp.where(total >= 0, triple(statistics), jnp.nan)


def adapted(criterion=triple, init_batch_size=2, max_batch_size=600):
  adapt = adaopt.adapt_batch_size(
    criterion, init_batch_size=init_batch_size, max_batch_size=max_batch_size
  )
  return optax.chain(adapt, adaopt.adagrad(0.1))


def run(loss_fn, optimizer, params_or_state=None, **options):
  """The last state, the sizes, and the step programs that were compiled."""
  options = dict(num_examples=1000, max_micro_batch_size=128) | options
  dataset = options.pop('dataset', DATASET[:1000])
  if params_or_state is None:
    params_or_state = jnp.ones(3)
  before, sizes = compilations.count(), []
  for state, metrics in adaopt.fit(  # noqa: B007
    loss_fn, optimizer, params_or_state, dataset, **options
  ):
    sizes.append(int(metrics.batch_size))
  return state, sizes, compilations.names()[before:]


@pytest.mark.slow
@pytest.mark.parametrize('criterion', [triple, triple_by_noise])
def test_growth_from_2_to_60_000_compiles_no_more_than_the_ladder(criterion):
  optimizer = adapted(criterion, max_batch_size=60_000)
  _, sizes, programs = run(
    loss_fn, optimizer, dataset=DATASET, num_examples=300_000
  )
  assert (sizes[0], sizes[-1]) == (2, 60_000)
  assert len(set(sizes)) == 11
  assert 1 <= len(programs) <= math.log(128 / 2, 4) + 1
  assert set(programs) == {'jit(step)'}


@pytest.mark.slow
@pytest.mark.parametrize(
  ('driver', 'criterion', 'programs'),
  [
    (drivers.traced, triple, ['jit(step)']),
    (drivers.traced, triple_by_noise, ['jit(step)']),
    (drivers.dispatched, triple, ['jit(micro_step)', 'jit(update)']),
    # With statistics until b_max, without from there on, and the update.
    (
      drivers.dispatched,
      triple_by_noise,
      ['jit(micro_step)', 'jit(update)', 'jit(micro_step)'],
    ),
  ],
)
def test_one_micro_batch_size_serves_every_batch_size(
  driver, criterion, programs
):
  optimizer = adapted(criterion)
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


@pytest.mark.slow
def test_a_second_run_compiles_nothing():
  optimizer, other = adapted(), adapted(triple_by_noise)
  state, sizes, programs = run(loss_fn, optimizer)
  assert 1 <= len(programs) <= math.log(128 / 2, 4) + 1
  _, again, recompiled = run(loss_fn, optimizer)
  assert (again, recompiled) == (sizes, [])
  # Nor a run of other parameters, from a seed and to a budget of its own.
  assert (
    run(loss_fn, optimizer, jnp.zeros(3), seed=7, num_examples=600)[2] == []
  )
  # Nor one that goes on from a state.
  assert run(loss_fn, optimizer, state, num_examples=3000)[2] == []
  # Another optimizer compiles its own steps and leaves the others alone.
  assert run(loss_fn, other)[2] != []
  assert run(loss_fn, optimizer)[2] == []
  assert run(loss_fn, other)[2] == []


@pytest.mark.slow
def test_what_makes_another_step_compiles_it():
  optimizer = adapted()
  own_loss_fn = lambda params, batch: loss_fn(params, batch)
  options = dict(num_examples=20, max_micro_batch_size=4)
  assert run(own_loss_fn, optimizer, **options)[2] == ['jit(step)']
  assert run(own_loss_fn, optimizer, **options)[2] == []
  for changed in (
    dict(group_size=2),
    dict(donate=True),
    dict(max_micro_batch_size=2),
    dict(driver=drivers.traced),
  ):
    assert run(own_loss_fn, optimizer, **options | changed)[2] == ['jit(step)']
  other_loss_fn = lambda params, batch: loss_fn(params, batch)
  assert run(other_loss_fn, optimizer, **options)[2] == ['jit(step)']
  assert run(own_loss_fn, optimizer, **options)[2] == []


@pytest.mark.slow
def test_the_steps_that_are_kept_are_bounded():
  fitting.compiled.cache_clear()
  most = fitting.compiled.cache_info().maxsize
  assert most == 32
  own_loss_fn = lambda params, batch: loss_fn(params, batch)
  optimizer = adapted()
  run(own_loss_fn, optimizer, num_examples=20, max_micro_batch_size=4)
  kept = weakref.ref(own_loss_fn)
  del own_loss_fn
  gc.collect()
  assert kept() is not None
  for size in range(1, most + 1):
    fitting.compiled(
      adaopt.train_step, loss_fn, optimizer, micro_batch_size=size
    )
  assert fitting.compiled.cache_info().currsize == most
  gc.collect()
  assert kept() is None  # and with it all that it held


@pytest.mark.slow
def test_the_steps_that_are_kept_can_be_let_go_of():
  own_loss_fn = lambda params, batch: loss_fn(params, batch)
  run(own_loss_fn, adapted(), num_examples=20, max_micro_batch_size=4)
  kept = weakref.ref(own_loss_fn)
  del own_loss_fn
  fitting.compiled.cache_clear()
  gc.collect()
  assert kept() is None


@pytest.mark.slow
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
