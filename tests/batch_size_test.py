"""Batch sizes move as the criterion, the policy and the schedule say.

A failure here means a batch size that shrinks, exceeds its cap, is no multiple
of the devices, follows a gradient that is not finite, follows a schedule at
the wrong number of examples, or cannot be read inside a wrapper of optax.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adaopt

UPDATES = jnp.ones(2)
# Distinguishes "no test" from a test without evidence.
NO_TEST = 'no test'


def _asked(statistics):
  """A criterion that requires what the statistics hold as the variance."""
  return statistics.variance


def _statistics(required):
  return adaopt.GradientStatistics(
    jnp.int32(1), UPDATES, variance=jnp.float32(required)
  )


def _adapt(criterion=_asked, init_value=8, max_value=64, **options):
  return adaopt.adapt_batch_size(
    criterion, init_value=init_value, max_value=max_value, **options
  )


def _states(transform, requirements):
  """The state before the first update, and after each."""
  states = [transform.init(UPDATES)]
  for required in requirements:
    statistics = None if required is NO_TEST else _statistics(required)
    updates, state = transform.update(
      UPDATES, states[-1], statistics=statistics
    )
    np.testing.assert_array_equal(updates, UPDATES)
    states.append(state)
  return states


def _sizes(transform, requirements):
  """The batch sizes after each update."""
  return [int(s.batch_size) for s in _states(transform, requirements)[1:]]


def _shrink(current, required):
  del current
  return required


def _stay(current, required):
  del required
  return current


@pytest.mark.parametrize(
  ('options', 'requirements', 'expected'),
  [
    ({}, [9.001, 10.0, 10.5], [10, 10, 11]),
    (dict(multiple_of=4), [8.5, 12.0, 12.1], [12, 12, 16]),
    ({}, [63.5, 64.5], [64, 64]),
    (dict(multiple_of=8, max_value=48), [40.5], [48]),
    ({}, [1e30], [64]),
    ({}, [20.0, 3.0, 0.0, -5.0, 19.0], [20, 20, 20, 20, 20]),
    (
      dict(policy=adaopt.capped_growth(1.5)),
      [9.0, 1000.0, 2.0, 1000.0],
      [9, 14, 14, 21],
    ),
    (
      dict(policy=adaopt.capped_growth(2.0), multiple_of=8),
      [np.inf, np.inf, np.inf, np.inf],
      [16, 32, 64, 64],
    ),
    (dict(policy=_shrink), [30.2, 12.0, 1.0, 70.0, 9.0], [31, 12, 8, 64, 9]),
    (
      dict(policy=_shrink, multiple_of=4),
      [30.2, 12.0, 0.0, 65.0, 8.5],
      [32, 12, 8, 64, 12],
    ),
    (dict(test_interval=3), [9.0, 20.0, 30.0, 11.0, 40.0], [9, 9, 9, 11, 11]),
    (dict(test_interval=2), [9.0, NO_TEST, NO_TEST, 20.0], [9, 9, 9, 20]),
    ({}, [NO_TEST, 12.0, NO_TEST], [8, 12, 12]),
    ({}, [np.nan, 12.0, np.nan], [8, 12, 12]),
    (dict(policy=_shrink), [12.0, np.nan], [12, 12]),
    ({}, [np.inf], [64]),
    ({}, [-np.inf], [8]),
    (dict(init_value=64), [np.inf, 1.0], [64, 64]),
  ],
  ids=[
    'rounded_up',
    'rounded_up_to_multiples',
    'capped',
    'capped_at_a_multiple',
    'capped_beyond_the_integers',
    'never_shrinks',
    'capped_growth',
    'capped_growth_of_multiples',
    'shrinks_to_init_value_and_grows_from_max_value',
    'shrinks_to_multiples',
    'interval',
    'interval_without_statistics_waits_for_them',
    'no_statistics_no_test',
    'nan_is_no_evidence',
    'nan_is_no_evidence_to_shrink_on',
    'inf_saturates',
    'minus_inf_keeps',
    'starts_at_max_value',
  ],
)
def test_batch_sizes_follow_the_requirements(options, requirements, expected):
  assert _sizes(_adapt(**options), requirements) == expected


def test_a_size_stays_where_the_policy_gives_nan():
  transform = _adapt(policy=lambda current, required: current * jnp.nan)
  assert _sizes(transform, [20.0]) == [8]


def test_a_policy_sees_the_current_size_and_what_is_required():
  transform = _adapt(policy=lambda current, required: current + required / 4)
  assert _sizes(transform, [12.0, 40.0]) == [11, 21]


def test_a_policy_of_integers_serves_and_is_not_asked_without_evidence():
  transform = _adapt(policy=lambda current, required: current * 2)
  assert _sizes(transform, [9.0, 9.0, np.nan, 9.0, 9.0]) == [16, 32, 32, 64, 64]


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(
  smallest=st.integers(1, 40),
  largest=st.integers(40, 5000),
  multiple_of=st.integers(1, 64),
  requirements=st.lists(
    st.floats(0, 6000, width=32) | st.floats(width=32), max_size=8
  ),
)
def test_sizes_grow_in_multiples_within_bounds_to_what_is_required(
  smallest, largest, multiple_of, requirements
):
  b_0, b_max = smallest * multiple_of, largest * multiple_of
  padded = requirements + [np.nan] * (8 - len(requirements))
  sizes = _jitted_sizes(b_0, b_max, multiple_of, np.array(padded, np.float32))
  current = b_0
  for required, size in zip(padded, sizes.tolist(), strict=True):
    assert current <= size <= b_max
    assert size % multiple_of == 0
    if math.isnan(required) or required <= current:
      assert size == current
    else:
      assert size >= min(required, b_max)
      assert size - multiple_of < required
    current = size


@jax.jit
def _jitted_sizes(init_value, max_value, multiple_of, requirements):
  """The size after each requirement; one program for all bounds."""
  transform = _adapt(
    init_value=init_value, max_value=max_value, multiple_of=multiple_of
  )

  def step(state, required):
    _, state = transform.update(
      UPDATES, state, statistics=_statistics(required)
    )
    return state, state.batch_size

  return jax.lax.scan(step, transform.init(UPDATES), requirements)[1]


@pytest.mark.parametrize('required', [1.0, 2.0**24 + 1, np.inf])
def test_a_size_that_float32_cannot_hold_does_not_shrink(required):
  b = 2**24 + 1
  (size,) = _sizes(_adapt(init_value=b, max_value=2**25), [required])
  assert size >= b


@pytest.mark.parametrize('multiple_of', [1, 7])
def test_the_largest_integer_that_is_a_multiple_can_be_the_cap(multiple_of):
  b_max = (2**31 - 1) // multiple_of * multiple_of
  transform = _adapt(init_value=7, max_value=b_max, multiple_of=multiple_of)
  assert _sizes(transform, [np.inf]) == [b_max]


def test_state_tells_the_last_requirement_and_the_updates():
  states = _states(
    _adapt(test_interval=2), [20.5, 30.0, np.nan, 31.0, NO_TEST, 32.0]
  )
  np.testing.assert_array_equal(
    [s.required for s in states],
    [np.nan, 20.5, 20.5, np.nan, np.nan, np.nan, 32.0],
  )
  assert [int(s.count) for s in states] == list(range(7))


@pytest.mark.parametrize(
  ('options', 'requirements', 'expected'),
  [
    ({}, [9.0, 9.0], [True, True, True]),
    (dict(test_interval=3), [9.0] * 4, [True, False, False, True, False]),
    ({}, [64.0, 1.0], [True, False, False]),
    (dict(policy=adaopt.capped_growth(8.0)), [64.0], [True, False]),
    (dict(init_value=64), [], [False]),
    (dict(policy=_shrink), [64.0, 9.0], [True, True, True]),
    (dict(policy=_shrink, init_value=64), [], [True]),
    (dict(policy=_stay, init_value=64), [9.0, np.inf], [True, True, True]),
    (
      dict(policy=lambda b, required: jnp.clip(required, b, 64), init_value=64),
      [],
      [False],
    ),
    (
      dict(policy=_shrink, test_interval=2),
      [64.0, 9.0, 9.0],
      [True, False, True, False],
    ),
  ],
  ids=[
    'always',
    'interval',
    'not_at_max_value',
    'not_at_max_value_by_capped_growth',
    'never_if_it_starts_there',
    'at_max_value_if_it_can_shrink',
    'from_the_start_if_it_can_shrink',
    'at_max_value_to_measure',
    'not_at_max_value_by_a_policy_with_a_cap_of_its_own',
    'interval_at_max_value',
  ],
)
def test_a_test_is_due_if_it_can_change_the_size_or_nothing_can(
  options, requirements, expected
):
  states = _states(_adapt(**options), requirements)
  assert [bool(s.test_due) for s in states] == expected


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('field', ['mean', 'variance', 'both'])
@pytest.mark.parametrize('policy', [jnp.maximum, _shrink])
def test_gradients_that_are_not_finite_never_change_the_size(
  value, field, policy
):
  transform = _adapt(adaopt.norm_test(0.5), policy=policy)
  good = adaopt.GradientStatistics(
    jnp.int32(8), mean=jnp.array([1.0, 1.0]), variance=jnp.float32(10)
  )
  bad_mean = good.mean.at[0].set(value)
  bad = {
    'mean': dict(mean=bad_mean),
    'variance': dict(variance=jnp.float32(value)),
    'both': dict(mean=bad_mean, variance=jnp.float32(value)),
  }[field]
  state = transform.init(UPDATES)
  for statistics, expected in (
    (good._replace(**bad), 8),
    (good, 20),
    (good._replace(**bad), 20),
  ):
    _, state = transform.update(UPDATES, state, statistics=statistics)
    assert state.batch_size == expected


@pytest.mark.parametrize(
  ('variance', 'expected'), [(1.0, 64), (0.0, 8)], ids=['noise', 'nothing']
)
def test_without_signal_noise_saturates_and_nothing_keeps_the_size(
  variance, expected
):
  transform = _adapt(adaopt.norm_test(0.5))
  statistics = adaopt.GradientStatistics(
    jnp.int32(8), mean=jnp.zeros(2), variance=jnp.float32(variance)
  )
  _, state = transform.update(
    UPDATES, transform.init(UPDATES), statistics=statistics
  )
  assert state.batch_size == expected


def test_the_tolerance_can_be_mapped_over():
  statistics = adaopt.GradientStatistics(
    jnp.int32(8), mean=jnp.array([3.0, 4.0]), variance=jnp.float32(49.3)
  )

  def next_size(eta):
    transform = _adapt(adaopt.norm_test(eta), max_value=1024)
    _, state = transform.update(
      statistics.mean, transform.init(UPDATES), statistics=statistics
    )
    return state.batch_size

  # 49.3 / 25 / eta²: 197.2, 49.3 and 7.9, below the current 8.
  sizes = jax.vmap(next_size)(jnp.array([0.1, 0.2, 0.5]))
  assert sizes.tolist() == [198, 50, 8]


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
    (lambda examples: 4 + 2.0**40 * examples, [4, 2**30, 2**30]),
    (lambda examples: 2**31 - 1 - examples, [2**30, 2**30 - 1]),
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
    'at_most_2_to_the_30',
    'integers_at_most_2_to_the_30',
  ],
)
def test_scheduled_sizes_are_those_at_the_examples_seen(schedule, expected):
  transform = adaopt.schedule_batch_size(schedule)
  assert _schedule_sizes(transform, len(expected)) == expected


def test_scheduled_examples_saturate_instead_of_wrapping_around():
  transform = adaopt.schedule_batch_size(optax.linear_schedule(8, 100, 100))
  state = adaopt.ScheduleBatchSizeState(jnp.int32(100), jnp.int32(2**31 - 10))
  for _ in range(2):
    _, state = transform.update(UPDATES, state)
  assert state.batch_size == 100
  assert state.examples == 2**31 - 1


@pytest.mark.parametrize(
  'make',
  [_adapt, lambda: adaopt.schedule_batch_size(8)],
  ids=['adapt', 'schedule'],
)
@pytest.mark.parametrize(
  'wrap',
  [
    lambda t: t,
    lambda t: optax.chain(optax.clip(1.0), t, optax.adamw(1e-3)),
    lambda t: optax.masked(t, [True, False]),
    lambda t: optax.MultiSteps(t, every_k_schedule=2),
    lambda t: optax.inject_hyperparams(
      lambda rate: optax.chain(t, optax.sgd(rate))
    )(rate=0.1),
    lambda t: optax.chain(optax.masked(optax.chain(t), [True, False])),
  ],
  ids=[
    'alone',
    'chain',
    'masked',
    'multi_steps',
    'inject_hyperparams',
    'nested',
  ],
)
def test_batch_size_can_be_read_inside_wrappers(make, wrap):
  state = wrap(make()).init([UPDATES, UPDATES])
  assert optax.tree.get(state, 'batch_size') == 8


def test_injected_sizes_are_hyperparams_and_the_batch_size_is_the_state():
  injected = optax.inject_hyperparams(
    adaopt.adapt_batch_size, static_args=('criterion', 'policy')
  )(_asked, init_value=8, max_value=64, multiple_of=8)
  state = injected.init(UPDATES)
  assert optax.tree.get(state, 'batch_size') == 8
  # The cap is raised between two steps.
  state.hyperparams['max_value'] = jnp.int32(128)
  _, state = injected.update(
    UPDATES, state, UPDATES, statistics=_statistics(100.0)
  )
  assert optax.tree.get(state, 'batch_size') == 104


@pytest.mark.parametrize(
  ('bad', 'sentence'),
  [
    (dict(init_value=128), 'init_value=128 exceeds max_value=64'),
    (dict(init_value=12, multiple_of=8), 'init_value=12 is no multiple of 8'),
    (dict(max_value=65, multiple_of=8), 'max_value=65 is no multiple of 8'),
    (dict(policy='grow'), "policy must be a function .* got 'grow'"),
    (dict(policy=None), 'policy must be a function .* got None'),
    (dict(criterion=0.1), r'criterion must be a function .* got 0\.1'),
    (
      dict(criterion=adaopt.StatefulCriterion(None, len)),
      r'criterion\.init must be a function of params, got None',
    ),
    (
      dict(criterion=adaopt.StatefulCriterion(len, 0.1)),
      r'criterion\.update must be a function .* got 0\.1',
    ),
    *(
      ({name: value}, rf'{name} must be an integer .* got {got}')
      for name in ('init_value', 'max_value', 'multiple_of', 'test_interval')
      for value, got in (
        (0, '0'),
        (-8, '-8'),
        (8.0, r'8\.0'),
        (np.nan, 'nan'),
        (True, 'True'),
        (None, 'None'),
      )
    ),
  ],
  ids=lambda x: (
    '-'.join(f'{k}={v}' for k, v in x.items()) if isinstance(x, dict) else ''
  ),
)
def test_adapt_batch_size_refuses(bad, sentence):
  with pytest.raises(ValueError, match=sentence):
    _adapt(**bad)


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


def test_a_test_without_statistics_is_put_off_not_dropped():
  transform = adaopt.adapt_batch_size(
    lambda statistics: 32.0, init_value=8, max_value=64, test_interval=2
  )
  updates = jnp.ones(1)
  state = transform.init(updates)
  _, state = transform.update(updates, state)
  assert state.test_due
  statistics = adaopt.GradientStatistics(jnp.int32(8), updates)
  _, state = transform.update(updates, state, statistics=statistics)
  assert int(state.batch_size) == 32
  assert state.test_due  # The third update begins an interval.


def test_a_schedule_counts_the_examples_that_were_used():
  transform = adaopt.schedule_batch_size(optax.linear_schedule(8, 108, 100))
  updates = jnp.ones(1)
  state = transform.init(updates)
  statistics = adaopt.GradientStatistics(jnp.int32(50), updates)
  _, state = transform.update(updates, state, statistics=statistics)
  assert (int(state.examples), int(state.batch_size)) == (50, 58)


def test_a_criterion_of_many_values_is_refused():
  transform = adaopt.adapt_batch_size(
    lambda statistics: statistics.mean, init_value=8, max_value=64
  )
  updates = jnp.ones(2)
  statistics = adaopt.GradientStatistics(jnp.int32(8), updates)
  with pytest.raises(
    ValueError, match=r'must return a scalar, got shape \[2\]'
  ):
    transform.update(updates, transform.init(updates), statistics=statistics)


def _largest_so_far():
  """A criterion that counts its calls and remembers the largest variance."""

  def update(statistics, state, *, floor=0.0, **extra_args):
    del extra_args
    largest = jnp.maximum(state['largest'], statistics.variance)
    state = {'calls': state['calls'] + 1, 'largest': largest}
    return jnp.maximum(largest, floor), state

  return adaopt.StatefulCriterion(
    lambda params: {
      'calls': jnp.zeros([], jnp.int32),
      'largest': jnp.zeros([], jnp.float32),
    },
    update,
  )


@pytest.mark.parametrize(
  ('options', 'requirements', 'calls', 'largest'),
  [
    ({}, [9.0, 30.0, 20.0], [1, 2, 3], [9, 30, 30]),
    (dict(test_interval=2), [9.0, 30.0, 20.0], [1, 1, 2], [9, 9, 20]),
    ({}, [9.0, NO_TEST, 20.0], [1, 1, 2], [9, 9, 20]),
    ({}, [9.0, np.nan, np.inf, -np.inf], [1, 1, 1, 1], [9, 9, 9, 9]),
    ({}, [64.0, 70.0], [1, 1], [64, 64]),
    (dict(policy=_shrink), [64.0, 70.0], [1, 2], [64, 70]),
  ],
  ids=[
    'every test',
    'none in between tests',
    'none without statistics',
    'none that is not finite',
    'none at the largest size',
    'at the largest size if it can shrink',
  ],
)
def test_a_criterion_remembers_its_tests(options, requirements, calls, largest):
  states = _states(_adapt(_largest_so_far(), **options), requirements)[1:]
  assert [int(s.criterion_state['calls']) for s in states] == calls
  assert [int(s.criterion_state['largest']) for s in states] == largest


def test_a_state_that_overflows_is_not_kept():
  criterion = adaopt.StatefulCriterion(
    lambda params: jnp.float32(1.0),
    lambda statistics, state, **_: (1.0, state * statistics.variance),
  )
  states = _states(_adapt(criterion), [1e30, 1e30, 2.0])
  np.testing.assert_array_equal(
    [s.criterion_state for s in states], np.float32([1, 1e30, 1e30, 2e30])
  )


def test_a_criterion_is_passed_the_extra_arguments_and_no_plain_one_is():
  statistics = _statistics(9.0)
  for criterion, expected in ((_largest_so_far(), 33), (_asked, 9)):
    transform = optax.chain(optax.scale(2.0), _adapt(criterion))
    _, state = transform.update(
      UPDATES, transform.init(UPDATES), statistics=statistics, floor=33.0
    )
    assert optax.tree.get(state, 'batch_size') == expected


def test_a_function_leaves_no_state():
  (state,) = _states(_adapt(), [])
  assert state.criterion_state == ()


def test_a_random_key_can_be_remembered():
  criterion = adaopt.StatefulCriterion(
    lambda params: jax.random.key(0),
    lambda statistics, key, **_: (
      jax.random.uniform(key, minval=20.0, maxval=30.0),
      jax.random.split(key)[0],
    ),
  )
  transform = _adapt(criterion, policy=adaopt.follow)
  assert len(set(_sizes(transform, [1.0] * 4))) > 1


def test_a_criterion_with_memory_scans_maps_and_injects():
  history = jnp.array([9.0, 30.0, np.nan, 20.0, 40.0], jnp.float32)
  make = optax.inject_hyperparams(
    adaopt.adapt_batch_size, static_args=('criterion', 'policy')
  )
  transform = make(_largest_so_far(), init_value=8, max_value=64)

  def run(history):
    def step(state, required):
      _, state = transform.update(
        UPDATES, state, UPDATES, statistics=_statistics(required)
      )
      return state, optax.tree.get(state, 'largest')

    return jax.lax.scan(step, transform.init(UPDATES), history)[1]

  found = jax.jit(jax.vmap(run))(jnp.stack([history, history[::-1]]))
  np.testing.assert_array_equal(
    found, [[9, 30, 30, 30, 40], [40, 40, 40, 40, 40]]
  )
