"""Learning rates by examples and batch sizes, against formulas and optax.

A failure here means that a rate follows steps where it says examples, leaves
the weight decay behind, or forgets the batch size at which it was right.
"""

import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adaopt

FLOAT32 = dict(rtol=2e-6, atol=0)

HALF = pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16])


def _statistics(batch_size, mean):
  return adaopt.GradientStatistics(jnp.int32(batch_size), mean)


def test_scale_by_example_schedule_counts_examples_not_steps():
  transform = adaopt.scale_by_example_schedule(
    optax.linear_schedule(1.0, 0.0, transition_steps=100)
  )
  updates = jnp.array([2.0])
  state = transform.init(updates)
  found = []
  for batch_size in (10, 40, 30, 100, 1):
    scaled, state = transform.update(
      updates, state, statistics=_statistics(batch_size, updates)
    )
    found.append(float(scaled[0]))
  # The rate before each update: after 0, 10, 50, 80 and 180 examples.
  np.testing.assert_allclose(found, [2, 1.8, 1, 0.4, 0], atol=1e-6)
  assert state.examples == 181


def test_a_schedule_of_int32_stays_at_its_end_beyond():
  transform = adaopt.scale_by_example_schedule(
    optax.linear_schedule(1.0, 0.25, transition_steps=100)
  )
  updates = jnp.array([1.0])
  state = adaopt.transforms.ScaleByExampleScheduleState(
    jnp.int32(2**31 - 10), jnp.int32(0)
  )
  for _ in range(2):
    scaled, state = transform.update(
      updates, state, statistics=_statistics(64, updates)
    )
  np.testing.assert_array_equal(scaled, [0.25])
  assert (int(state.examples), int(state.turns)) == (118, 1)


@pytest.mark.parametrize(
  ('kwargs', 'expected'),
  [
    (dict(exponent=0), 1.0),
    (dict(), 3.0),
    (dict(exponent=0.5), 3.0),
    (dict(exponent=1), 9.0),
  ],
  ids=['none', 'default_is_sqrt', 'sqrt', 'linear'],
)
def test_scale_by_batch_size_scales_by_a_power_of_the_ratio_to_the_first(
  kwargs, expected
):
  transform = adaopt.scale_by_batch_size(**kwargs)
  updates = {'w': jnp.array([1.0, -2.0])}
  state = transform.init(updates)
  for batch_size, factor in (
    (8, 1.0),
    (72, expected),
    (8, 1.0),
    (72, expected),
    # A batch smaller than the first.
    (2, {1.0: 1.0, 3.0: 0.5, 9.0: 0.25}[expected]),
  ):
    scaled, state = transform.update(
      updates, state, statistics=_statistics(batch_size, updates)
    )
    np.testing.assert_allclose(scaled['w'], [factor, -2 * factor], **FLOAT32)
    assert state.first_batch_size == 8


def test_the_first_batch_of_a_fresh_state_is_the_reference_whatever_its_size():
  transform = adaopt.scale_by_batch_size(1.0)
  updates = jnp.ones(2)
  for batch_size in (1, 7, 2**20):
    scaled, state = transform.update(
      updates,
      transform.init(updates),
      statistics=_statistics(batch_size, updates),
    )
    np.testing.assert_array_equal(scaled, updates)
    assert state.first_batch_size == batch_size


def test_a_saved_state_keeps_its_reference():
  transform = adaopt.scale_by_batch_size(0.5)
  updates = jnp.ones(1)
  _, state = transform.update(
    updates, transform.init(updates), statistics=_statistics(8, updates)
  )
  saved = pickle.dumps(jax.device_get(state))
  # A new process makes a new transform.
  scaled, state = adaopt.scale_by_batch_size(0.5).update(
    updates, pickle.loads(saved), statistics=_statistics(32, updates)
  )
  np.testing.assert_array_equal(scaled, [2.0])
  assert state.first_batch_size == 8


def test_a_run_that_resumes_scales_like_one_that_never_stopped():
  optimizer = optax.chain(
    adaopt.schedule_batch_size(optax.linear_schedule(4, 64, 60)),
    adaopt.scale_by_batch_size(1.0),
    optax.sgd(0.01),
  )
  data = jax.random.normal(jax.random.key(0), [64])
  step = adaopt.train_step(
    lambda params, batch: jnp.mean((params - batch) ** 2),
    optimizer,
    micro_batch_size=16,
  )
  state = adaopt.init_train_state(jnp.array(1.0), optimizer)
  for _ in range(2):
    state, metrics = step(state, data)
  assert metrics.batch_size == 8
  resumed = jax.tree.map(
    jnp.asarray, pickle.loads(pickle.dumps(jax.device_get(state)))
  )
  for _ in range(3):
    state, _ = step(state, data)
    resumed, _ = step(resumed, data)
  chex.assert_trees_all_equal(resumed, state)
  assert optax.tree.get(state.opt_state, 'first_batch_size') == 4


def test_within_a_mask_the_first_batch_is_the_reference():
  transform = optax.masked(adaopt.scale_by_batch_size(1.0), [True, False])
  updates = [jnp.ones(1), jnp.ones(1)]
  state = transform.init(updates)
  for batch_size, factor in ((4, 1.0), (12, 3.0)):
    scaled, state = transform.update(
      updates, state, statistics=_statistics(batch_size, updates)
    )
    np.testing.assert_array_equal(scaled[0], [factor])
    np.testing.assert_array_equal(scaled[1], [1.0])


@HALF
@pytest.mark.parametrize(
  'transform',
  [
    adaopt.scale_by_example_schedule(optax.linear_schedule(0.5, 0, 100)),
    adaopt.scale_by_example_schedule(optax.constant_schedule(0.5)),
  ],
  ids=['schedule', 'constant_schedule'],
)
def test_scaling_by_a_float32_factor_keeps_half_precision(transform, dtype):
  gradient = jnp.array([4], dtype)
  updates, _ = transform.update(
    gradient, transform.init(gradient), statistics=_statistics(8, gradient)
  )
  assert updates.dtype == dtype
  assert updates == 2


@HALF
def test_scaling_by_the_batch_size_keeps_half_precision(dtype):
  transform = adaopt.scale_by_batch_size(exponent=1)
  gradient = jnp.array([4], dtype)
  state = transform.init(gradient)
  for batch_size, expected in ((16, 4), (8, 2)):
    updates, state = transform.update(
      gradient, state, statistics=_statistics(batch_size, gradient)
    )
    assert updates.dtype == dtype
    assert updates == expected


@pytest.mark.parametrize(
  ('name', 'argument'),
  [
    ('scale_by_example_schedule', optax.constant_schedule(1.0)),
    ('scale_by_batch_size', 0.5),
  ],
  ids=['scale_by_example_schedule', 'scale_by_batch_size'],
)
def test_a_missing_batch_size_is_asked_for(name, argument):
  transform = getattr(adaopt, name)(argument)
  gradient = jnp.ones(2)
  state = transform.init(gradient)
  with pytest.raises(ValueError, match=f'{name} needs .* pass statistics='):
    transform.update(gradient, state)
  with pytest.raises(ValueError, match=f'{name} needs the batch size in every'):
    transform.update(gradient, state, statistics=None)
  # The remedy of that sentence.
  updates, _ = transform.update(
    gradient, state, statistics=adaopt.GradientStatistics(8, gradient)
  )
  np.testing.assert_array_equal(updates, gradient)
  for wrong in (8, gradient, {'batch_size': 8}):
    with pytest.raises(ValueError, match=f'{name} needs .*GradientStatistics'):
      transform.update(gradient, state, statistics=wrong)


@pytest.mark.parametrize('value', [-1e-3, np.nan, np.inf, -np.inf, None, '1'])
def test_an_exponent_below_zero_or_not_a_number_is_refused(value):
  with pytest.raises(ValueError, match=f'exponent must be .* got {value!r}'):
    adaopt.scale_by_batch_size(value)


def test_an_example_schedule_that_is_no_function_is_refused():
  with pytest.raises(ValueError, match=r'schedule must be .* got 0\.1'):
    adaopt.scale_by_example_schedule(0.1)


def _quadratic(params):
  return jax.tree.map(lambda p: 2 * (p - 3.0), params)


def _trajectory(optimizer, batch_sizes):
  """The parameters after every step, on a quadratic, from far away."""
  params = {'w': jnp.linspace(-20.0, 20.0, 6).reshape(2, 3), 'b': jnp.ones(2)}
  state = optimizer.init(params)

  @jax.jit
  def step(params, state, batch_size):
    gradient = _quadratic(params)
    updates, state = optimizer.update(
      gradient,
      state,
      params,
      statistics=adaopt.GradientStatistics(batch_size, gradient),
    )
    return optax.apply_updates(params, updates), state

  history = []
  for batch_size in batch_sizes:
    params, state = step(params, state, batch_size)
    history.append(params)
  return history


MAKERS = {
  'adamw': lambda rate: optax.adamw(rate, weight_decay=0.3),
  'sgd, decayed': lambda rate: optax.chain(
    optax.add_decayed_weights(0.2), optax.sgd(rate, momentum=0.9)
  ),
  'lion': lambda rate: optax.lion(rate, weight_decay=0.3),
}
SCHEDULES = {
  'cosine': optax.warmup_cosine_decay_schedule(0.0, 0.02, 64, 256),
  'stages': optax.piecewise_constant_schedule(0.02, {80: 0.1, 160: 0.5}),
}


@pytest.mark.slow
@pytest.mark.parametrize('batch_size', [8, 1])
@pytest.mark.parametrize('schedule', SCHEDULES)
@pytest.mark.parametrize('name', MAKERS)
def test_behind_an_optimizer_it_is_its_schedule_over_examples(
  name, schedule, batch_size
):
  make, over_examples = MAKERS[name], SCHEDULES[schedule]
  found = _trajectory(
    optax.chain(make(1.0), adaopt.scale_by_example_schedule(over_examples)),
    [batch_size] * 30,
  )
  expected = _trajectory(
    make(lambda step: over_examples(step * batch_size)), [batch_size] * 30
  )
  # Two roundings of 6e-8 a step, of numbers up to 20.
  chex.assert_trees_all_close(found, expected, rtol=2e-6, atol=2e-6)
  start = _trajectory(make(0.0), [batch_size])[0]
  moved = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), found[-1], start)
  assert min(map(float, jax.tree.leaves(moved))) > 0.02


def test_the_weight_decay_follows_the_schedule_over_examples():
  # Without a gradient AdamW only decays: x ← x (1 − α(n) λ).
  over_examples = optax.linear_schedule(0.5, 0.0, transition_steps=100)
  optimizer = optax.chain(
    optax.adamw(1.0, weight_decay=0.4),
    adaopt.scale_by_example_schedule(over_examples),
  )
  params = jnp.float32(1.0)
  state = optimizer.init(params)
  expected, examples = 1.0, 0
  for batch_size in (10, 40, 25, 100, 3):
    gradient = jnp.zeros([])
    updates, state = optimizer.update(
      gradient, state, params, statistics=_statistics(batch_size, gradient)
    )
    params = optax.apply_updates(params, updates)
    expected *= 1 - 0.4 * np.interp(examples, [0, 100], [0.5, 0.0])
    examples += batch_size
    np.testing.assert_allclose(params, expected, rtol=1e-6)
