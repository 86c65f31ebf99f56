"""Schedules of batch sizes, and Seesaw, at the wrong number of examples."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training import train_state as linen_train_state

import adaopt

UPDATES = jnp.ones(2)


def test_seesaw_cuts_by_the_root_and_grows_by_the_factor_at_each_boundary():
  learning_rate, batch_size = adaopt.seesaw(0.8, 10, [100, 300, 301], 4.0)
  examples = [0, 99, 100, 299, 300, 301, 10_000]
  np.testing.assert_allclose(
    [learning_rate(n) for n in examples],
    [0.8, 0.8, 0.4, 0.4, 0.2, 0.1, 0.1],
    rtol=1e-6,
  )
  np.testing.assert_allclose(
    [batch_size(n) for n in examples],
    [10, 10, 40, 40, 160, 640, 640],
    rtol=1e-6,
  )


@pytest.mark.parametrize('factor', [1.5, 2.0, 10.0])
def test_rate_over_root_of_batch_falls_as_with_the_schedule_replaced(factor):
  boundaries = [10, 20, 35]
  learning_rate, batch_size = adaopt.seesaw(0.3, 64, boundaries, factor)
  replaced = optax.piecewise_constant_schedule(
    0.3, dict.fromkeys(boundaries, 1 / factor)
  )
  for n in (0, 10, 19, 20, 50):
    ratio = learning_rate(n) / np.sqrt(batch_size(n))
    np.testing.assert_allclose(ratio, replaced(n) / 8, rtol=1e-6)


def test_seesaw_schedules_the_transforms_by_the_examples_seen():
  learning_rate, batch_size = adaopt.seesaw(0.1, 3, boundaries=[6, 12])
  optimizer = optax.chain(
    adaopt.schedule_batch_size(batch_size),
    adaopt.scale_by_example_schedule(learning_rate),
  )
  updates = jnp.ones([])
  state = optimizer.init(updates)
  sizes, rates = [], []
  for _ in range(5):
    b = optax.tree.get(state, 'batch_size')
    statistics = adaopt.GradientStatistics(b, updates)
    scaled, state = optimizer.update(updates, state, statistics=statistics)
    sizes.append(int(b))
    rates.append(scaled)
  assert sizes == [3, 3, 6, 12, 12]
  np.testing.assert_allclose(rates, 0.1 / np.sqrt([1, 1, 2, 4, 4]), rtol=1e-6)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (dict(learning_rate=0), 'learning_rate must be positive .* got 0'),
    (
      dict(init_batch_size=8.5),
      r'init_batch_size must be an integer .* got 8\.5',
    ),
    (dict(factor=1.0), r'factor must be above 1, got 1\.0'),
    (dict(factor=np.inf), 'factor must be positive and finite, got inf'),
    (dict(boundaries=[0.5]), r'boundary must be an integer .* got 0\.5'),
    (dict(boundaries=[20, 10]), r'boundaries must rise, got \[20, 10\]'),
    (dict(boundaries=[10, 10]), r'boundaries must rise, got \[10, 10\]'),
  ],
)
def test_seesaw_refuses(options, message):
  good = dict(learning_rate=0.1, init_batch_size=8, boundaries=[10], factor=2.0)
  with pytest.raises(ValueError, match=message):
    adaopt.seesaw(**good | options)


def _schedule_sizes(transform, steps):
  """The sizes of the first batches."""
  state = transform.init(UPDATES)
  sizes = []
  for _ in range(steps):
    sizes.append(int(optax.tree.get(state, 'batch_size')))
    updates, state = transform.update(UPDATES, state)
    np.testing.assert_array_equal(updates, UPDATES)
  return sizes


@pytest.mark.parametrize(
  ('schedule', 'expected'),
  [
    (32, [32, 32, 32]),
    (np.int64(32), [32, 32, 32]),
    (
      optax.join_schedules(
        [optax.constant_schedule(b) for b in (64, 256, 512)], [128, 640]
      ),
      [64, 64, 256, 256, 512, 512],
    ),
    # After n examples 10 + n, up to 110.
    (optax.linear_schedule(10, 110, 100), [10, 20, 40, 80, 110, 110]),
    # 2 + n / 5 before rounding: 2, 2.4, 2.8, 3.
    (optax.linear_schedule(2, 3, 5), [2, 2, 3, 3]),
    (lambda examples: 4 - examples, [4, 1, 1]),
    (lambda examples: jnp.where(examples < 8, 4, 7), [4, 4, 7]),
    *(
      (lambda n, bad=bad: jnp.array([4.0, bad, 6.0])[n // 4], [4, 4, 6])
      for bad in (np.nan, np.inf, -np.inf)
    ),
    (lambda examples: 4 + 2.0**40 * examples, [4, 2**31 - 1, 2**31 - 1]),
    (lambda examples: 2**31 - 1 - examples, [2**31 - 1, 1]),
    (lambda examples: 2**24 + 1 + examples, [2**24 + 1, 2**25 + 2]),
    (lambda examples: 2**24 + 1, [2**24 + 1] * 2),
    (lambda examples: 2**40, [2**31 - 1] * 2),
    (2**24 + 1, [2**24 + 1] * 2),
    (2**31 - 1, [2**31 - 1] * 3),
  ],
  ids=[
    'constant',
    'constant_of_numpy',
    'stages',
    'ramp',
    'rounded_to_nearest',
    'at_least_1',
    'integers',
    'nan_leaves_the_last',
    'inf_leaves_the_last',
    'minus_inf_leaves_the_last',
    'at_most_the_largest_integer',
    'integers_to_the_last',
    'integers_that_float32_cannot_hold',
    'integers_of_python',
    'integers_of_python_that_are_too_large',
    'constant_that_float32_cannot_hold',
    'constant_at_the_largest_integer',
  ],
)
def test_scheduled_sizes_are_those_at_the_examples_seen(schedule, expected):
  transform = adaopt.schedule_batch_size(schedule)
  assert _schedule_sizes(transform, len(expected)) == expected


def test_a_schedule_takes_statistics_of_the_right_type_or_none():
  transform = adaopt.schedule_batch_size(8)
  state = transform.init(UPDATES)
  for statistics in (None, adaopt.GradientStatistics(jnp.int32(8), UPDATES)):
    _, moved = transform.update(UPDATES, state, statistics=statistics)
    assert moved.examples == 8
  with pytest.raises(ValueError, match=r'GradientStatistics.* got tuple'):
    transform.update(UPDATES, state, statistics=(8, UPDATES))


def test_a_schedule_needs_no_statistics_in_the_optimizers_of_flax():
  tx = optax.chain(
    adaopt.schedule_batch_size(optax.linear_schedule(8, 108, 100)),
    optax.sgd(0.5),
  )
  state = linen_train_state.TrainState.create(
    apply_fn=None, params={'w': UPDATES}, tx=tx
  )
  state = state.apply_gradients(grads={'w': UPDATES})
  model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
  optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
  optimizer.update(model, nnx.state(model, nnx.Param))
  np.testing.assert_array_equal(state.params['w'], [0.5, 0.5])
  for opt_state in (state.opt_state, optimizer.opt_state):
    assert jnp.asarray(optax.tree.get(opt_state, 'batch_size')) == 16


def test_a_schedule_of_int32_stays_at_its_end_beyond():
  transform = adaopt.schedule_batch_size(optax.linear_schedule(8, 100, 100))
  state = adaopt.batch_size.ScheduleBatchSizeState(
    jnp.int32(100), jnp.int32(2**31 - 10), jnp.int32(0)
  )
  for _ in range(2):
    _, state = transform.update(UPDATES, state)
  assert state.batch_size == 100
  assert (int(state.examples), int(state.turns)) == (190, 1)


@pytest.mark.parametrize(
  ('schedule', 'sentence'),
  [
    (0, 'schedule must be an integer .* got 0'),
    (-8, 'schedule must be an integer .* got -8'),
    (8.0, r'schedule must be an integer .* got 8\.0'),
    (None, 'schedule must be an integer .* got None'),
    (optax.constant_schedule(0), r'schedule\(0\) must be .* got 0'),
    (optax.constant_schedule(-2.5), r'schedule\(0\) must be .* got -2\.5'),
    (optax.constant_schedule(np.nan), r'schedule\(0\) must be .* got nan'),
    (optax.constant_schedule(np.inf), r'schedule\(0\) must be .* got inf'),
    (lambda n: 'x', r"schedule\(0\) must be a number, got 'x'"),
    (lambda n: None, r'schedule\(0\) must be a number, got None'),
    (optax.linear_schedule(0, 64, 100), r'schedule\(0\) must be .* got 0'),
  ],
)
def test_schedule_batch_size_refuses(schedule, sentence):
  with pytest.raises(ValueError, match=sentence):
    adaopt.schedule_batch_size(schedule)


def test_a_schedule_counts_the_examples_that_were_used():
  transform = adaopt.schedule_batch_size(optax.linear_schedule(8, 108, 100))
  updates = jnp.ones(1)
  state = transform.init(updates)
  statistics = adaopt.GradientStatistics(jnp.int32(50), updates)
  _, state = transform.update(updates, state, statistics=statistics)
  assert (int(state.examples), int(state.batch_size)) == (50, 58)
