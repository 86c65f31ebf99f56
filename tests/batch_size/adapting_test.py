"""Batch sizes move as the criterion, the policy and the schedule say.

A failure here means a batch size that shrinks, exceeds its cap, is not a
multiple of the devices, follows a gradient that is not finite, never adapts
without a word, or cannot be read inside a wrapper of optax.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training import train_state as linen_train_state
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


def _adapt(criterion=_asked, init_batch_size=8, max_batch_size=64, **options):
  return adaopt.adapt_batch_size(
    criterion,
    init_batch_size=init_batch_size,
    max_batch_size=max_batch_size,
    **options,
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


@pytest.mark.parametrize(
  ('options', 'requirements', 'expected'),
  [
    ({}, [9.001, 10.0, 10.5], [10, 10, 11]),
    (dict(multiple_of=4), [8.5, 12.0, 12.1], [12, 12, 16]),
    ({}, [63.5, 64.5], [64, 64]),
    (dict(multiple_of=8, max_batch_size=48), [40.5], [48]),
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
    (
      dict(policy=adaopt.follow),
      [30.2, 12.0, 1.0, 70.0, 9.0],
      [31, 12, 8, 64, 9],
    ),
    (
      dict(policy=adaopt.follow, multiple_of=4),
      [30.2, 12.0, 0.0, 65.0, 8.5],
      [32, 12, 8, 64, 12],
    ),
    (dict(test_interval=3), [9.0, 20.0, 30.0, 11.0, 40.0], [9, 9, 9, 11, 11]),
    (dict(test_interval=2), [9.0, NO_TEST, NO_TEST, 20.0], [9, 9, 9, 20]),
    ({}, [NO_TEST, 12.0, NO_TEST], [8, 12, 12]),
    ({}, [np.nan, 12.0, np.nan], [8, 12, 12]),
    (dict(policy=adaopt.follow), [12.0, np.nan], [12, 12]),
    ({}, [np.inf], [64]),
    ({}, [-np.inf], [8]),
    (dict(init_batch_size=64), [np.inf, 1.0], [64, 64]),
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


@pytest.mark.slow
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
def _jitted_sizes(init_batch_size, max_batch_size, multiple_of, requirements):
  """The size after each requirement; one program for all bounds."""
  transform = _adapt(
    init_batch_size=init_batch_size,
    max_batch_size=max_batch_size,
    multiple_of=multiple_of,
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
  (size,) = _sizes(_adapt(init_batch_size=b, max_batch_size=2**25), [required])
  assert size >= b


@pytest.mark.parametrize('multiple_of', [1, 7])
def test_the_largest_integer_that_is_a_multiple_can_be_the_cap(multiple_of):
  b_max = (2**31 - 1) // multiple_of * multiple_of
  transform = _adapt(
    init_batch_size=7, max_batch_size=b_max, multiple_of=multiple_of
  )
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
    (dict(init_batch_size=64), [], [False]),
    (dict(policy=adaopt.follow), [64.0, 9.0], [True, True, True]),
    (
      dict(policy=adaopt.batch_size.hysteresis(4.0)),
      [64.0, 32.0, 9.0, 9.0],
      [True] * 5,
    ),
    (
      dict(policy=adaopt.Policy(lambda current, required: required, False)),
      [32.0, 9.0, 64.0, 9.0],
      [True, True, True, False, False],
    ),
    (
      dict(policy=adaopt.Policy(adaopt.capped_growth(8.0))),
      [64.0],
      [True, True],
    ),
    (
      dict(policy=lambda b, required: required),
      [64.0, 9.0],
      [True] + 2 * [False],
    ),
    (dict(policy=adaopt.follow, init_batch_size=64), [], [True]),
    (
      dict(policy=adaopt.batch_size.measure, init_batch_size=64),
      [9.0, np.inf],
      [True, True, True],
    ),
    (
      dict(
        policy=lambda b, required: jnp.clip(required, b, 64), init_batch_size=64
      ),
      [],
      [False],
    ),
    (
      dict(policy=adaopt.follow, test_interval=2),
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
    'at_max_value_by_hysteresis',
    'not_at_max_value_if_it_says_so',
    'at_max_value_if_it_says_so',
    'not_at_max_value_by_a_plain_function_that_shrinks',
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
@pytest.mark.parametrize('policy', [jnp.maximum, adaopt.follow])
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


@pytest.mark.slow
def test_the_tolerance_can_be_mapped_over():
  statistics = adaopt.GradientStatistics(
    jnp.int32(8), mean=jnp.array([3.0, 4.0]), variance=jnp.float32(49.3)
  )

  def next_size(eta):
    transform = _adapt(adaopt.norm_test(eta), max_batch_size=1024)
    _, state = transform.update(
      statistics.mean, transform.init(UPDATES), statistics=statistics
    )
    return state.batch_size

  # 49.3 / 25 / eta²: 197.2, 49.3 and 7.9, below the current 8.
  sizes = jax.vmap(next_size)(jnp.array([0.1, 0.2, 0.5]))
  assert sizes.tolist() == [198, 50, 8]


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
  )(_asked, init_batch_size=8, max_batch_size=64, multiple_of=8)
  state = injected.init(UPDATES)
  assert optax.tree.get(state, 'batch_size') == 8
  # The cap is raised between two steps.
  state.hyperparams['max_batch_size'] = jnp.int32(128)
  _, state = injected.update(
    UPDATES, state, UPDATES, statistics=_statistics(100.0)
  )
  assert optax.tree.get(state, 'batch_size') == 104


@pytest.mark.parametrize(
  ('bad', 'sentence'),
  [
    (
      dict(init_batch_size=128),
      'init_batch_size=128 exceeds max_batch_size=64',
    ),
    (
      dict(init_batch_size=12, multiple_of=8),
      'init_batch_size=12 is not a multiple of multiple_of=8',
    ),
    (
      dict(max_batch_size=65, multiple_of=8),
      'max_batch_size=65 is not a multiple of multiple_of=8',
    ),
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
      for name in (
        'init_batch_size',
        'max_batch_size',
        'multiple_of',
        'test_interval',
      )
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


def test_a_test_without_statistics_is_put_off_not_dropped():
  transform = adaopt.adapt_batch_size(
    lambda statistics: 32.0,
    init_batch_size=8,
    max_batch_size=64,
    test_interval=2,
  )
  updates = jnp.ones(1)
  state = transform.init(updates)
  _, state = transform.update(updates, state, statistics=None)
  assert state.test_due
  statistics = adaopt.GradientStatistics(jnp.int32(8), updates)
  _, state = transform.update(updates, state, statistics=statistics)
  assert int(state.batch_size) == 32
  assert state.test_due  # The third update begins an interval.


@pytest.mark.parametrize(
  ('criterion', 'policy', 'sentence'),
  [
    (
      lambda s: s.mean,
      jnp.maximum,
      r'criterion must return a number, got shape \[2\]',
    ),
    (lambda s: None, jnp.maximum, 'criterion must return a number, got None'),
    (
      lambda s: adaopt.norm_test,
      jnp.maximum,
      'criterion must return a number, got <function',
    ),
    (
      lambda s: 9.0,
      lambda current, required: jnp.stack([current, required]),
      r'policy must return a number, got shape \[2\]',
    ),
    (
      lambda s: 9.0,
      adaopt.Policy(lambda current, required: None),
      'policy must return a number, got None',
    ),
    (
      lambda s: 9.0,
      adaopt.Policy(lambda current, required: adaopt.follow.next_size),
      'policy must return a number, got <function',
    ),
    (
      adaopt.StatefulCriterion(
        lambda params: (), lambda s, state, **_: (None, ())
      ),
      jnp.maximum,
      'criterion must return a number, got None',
    ),
  ],
)
def test_what_is_not_a_number_is_refused(criterion, policy, sentence):
  transform = _adapt(criterion, policy=policy)
  with pytest.raises(ValueError, match=sentence):
    _states(transform, [9.0])


@pytest.mark.parametrize(
  ('options', 'sentence'),
  [
    (
      dict(criterion=adaopt.norm_test),
      r'criterion must be .* norm_test makes one: call it, as in norm_test\(',
    ),
    (dict(criterion=adaopt.debiased_norm_test), 'debiased_norm_test makes one'),
    (dict(policy=adaopt.capped_growth), 'capped_growth makes one: call it'),
    (
      dict(policy=adaopt.batch_size.hysteresis),
      'hysteresis makes one: call it',
    ),
    (
      dict(policy=adaopt.Policy(adaopt.batch_size.geometric_growth)),
      'geometric_growth makes one: call it',
    ),
    (dict(policy=adaopt.Policy(0.5)), r'policy must be a function .* got 0\.5'),
    (
      dict(policy=lambda factor: jnp.maximum),
      'does not take two arguments. Where it makes a policy, call it',
    ),
  ],
)
def test_what_is_left_uncalled_is_refused(options, sentence):
  with pytest.raises(ValueError, match=sentence):
    _adapt(**options)


ADAPTS = {
  'adapt_batch_size': _adapt(),
  'adadagrad': adaopt.adadagrad(
    0.1, adaopt.norm_test(0.5), init_batch_size=8, max_batch_size=64
  ),
  'adaptive': adaopt.adaptive(
    optax.adamw(1.0), 0.1, init_batch_size=8, max_batch_size=64
  ),
  'scale_by_batch_size': adaopt.scale_by_batch_size(),
  'scale_by_example_schedule': adaopt.scale_by_example_schedule(
    optax.constant_schedule(0.1)
  ),
  'scale_by_adascale': adaopt.scale_by_adascale(base_batch_size=8),
}
HOW = 'optimizer.update.*nnx.Optimizer.*TrainState of linen.*adaopt.accumulate'


@pytest.mark.parametrize('name', ADAPTS)
def test_an_update_without_statistics_is_an_error_that_says_what_to_pass(name):
  transform = ADAPTS[name]
  state = transform.init(UPDATES)
  with pytest.raises(ValueError, match=f'needs the statistics.*{HOW}'):
    transform.update(UPDATES, state, UPDATES)
  with pytest.raises(ValueError, match=r'GradientStatistics.*got ndarray'):
    transform.update(UPDATES, state, UPDATES, statistics=np.ones(2))


@pytest.mark.parametrize('name', [*ADAPTS][3:])
def test_what_needs_the_batch_size_takes_no_none(name):
  transform = ADAPTS[name]
  state = transform.init(UPDATES)
  with pytest.raises(ValueError, match='needs the batch size in every update'):
    transform.update(UPDATES, state, UPDATES, statistics=None)


def _squares(params, batch):
  return jnp.mean((batch['x'] @ params['w'] - batch['y']) ** 2)


BATCH = {'x': jnp.eye(4, 3), 'y': jnp.arange(4.0)}


@pytest.mark.parametrize('name', ADAPTS)
def test_the_optimizers_of_flax_raise_the_sentence_instead_of_standing_still(
  name,
):
  state = linen_train_state.TrainState.create(
    apply_fn=None, params={'w': jnp.ones(3)}, tx=ADAPTS[name]
  )
  for step in (
    lambda: state.apply_gradients(grads=state.params),
    lambda: jax.jit(lambda s: s.apply_gradients(grads=s.params))(state),
  ):
    with pytest.raises(ValueError, match=f'needs the statistics.*{HOW}'):
      step()
  model = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
  optimizer = nnx.Optimizer(model, ADAPTS[name], wrt=nnx.Param)
  gradient = nnx.state(model, nnx.Param)
  for update in (
    lambda: optimizer.update(model, gradient),
    lambda: nnx.jit(lambda m, o, g: o.update(m, g))(model, optimizer, gradient),
  ):
    with pytest.raises(ValueError, match=f'needs the statistics.*{HOW}'):
      update()


@pytest.mark.slow
def test_a_linen_train_state_raises_and_the_remedy_works():
  state = linen_train_state.TrainState.create(
    apply_fn=None, params={'w': jnp.ones(3)}, tx=ADAPTS['adadagrad']
  )
  loss, statistics = adaopt.value_and_statistics(_squares)(state.params, BATCH)
  with pytest.raises(ValueError, match='TrainState of linen'):
    state.apply_gradients(grads=statistics.mean)
  updates, opt_state = state.tx.update(
    statistics.mean, state.opt_state, state.params, statistics=statistics
  )
  state = state.replace(
    step=state.step + 1,
    params=optax.apply_updates(state.params, updates),
    opt_state=opt_state,
  )
  assert _squares(state.params, BATCH) < loss
  assert int(optax.tree.get(state.opt_state, 'batch_size')) > 8


@pytest.mark.slow
def test_an_nnx_optimizer_raises_and_the_remedy_works():
  model = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
  optimizer = nnx.Optimizer(model, ADAPTS['adadagrad'], wrt=nnx.Param)
  graph, params = nnx.split(model)
  loss, statistics = adaopt.value_and_statistics(
    lambda params, batch: jnp.mean(
      (nnx.merge(graph, params)(batch['x'])[:, 0] - batch['y']) ** 2
    )
  )(params, BATCH)
  with pytest.raises(ValueError, match=r'nnx\.Optimizer'):
    optimizer.update(model, statistics.mean)
  optimizer.update(model, statistics.mean, statistics=statistics)
  assert jnp.mean((model(BATCH['x'])[:, 0] - BATCH['y']) ** 2) < loss


@pytest.mark.parametrize('required', [NO_TEST, np.nan, 9.0, 100.0])
def test_a_state_above_a_lowered_maximum_comes_down(required):
  held = _adapt(max_batch_size=512)
  state = _states(held, [300.0])[-1]
  assert state.batch_size == 300
  statistics = None if required is NO_TEST else _statistics(required)
  _, state = _adapt(max_batch_size=64).update(
    UPDATES, state, statistics=statistics
  )
  assert state.batch_size == 64
  assert not state.test_due


@pytest.mark.parametrize('test_interval', [1, 10])
def test_a_lowered_maximum_comes_down_between_tests_and_in_jit(test_interval):
  state = _states(_adapt(max_batch_size=512), [300.0])[-1]
  lowered = _adapt(
    max_batch_size=48, policy=adaopt.follow, test_interval=test_interval
  )
  state = state._replace(test_due=jnp.bool_(test_interval == 1))
  update = jax.jit(lowered.update)
  _, state = update(UPDATES, state, statistics=_statistics(60.0))
  assert state.batch_size == 48
  # From there it goes on as ever.
  state = state._replace(test_due=jnp.bool_(True))
  _, state = update(UPDATES, state, statistics=_statistics(20.0))
  assert state.batch_size == 20


def test_a_size_shrinks_again_from_the_largest_by_hysteresis():
  transform = _adapt(policy=adaopt.batch_size.hysteresis(4.0))
  # 16 = 64 / 4 stays; 15.5 does not.
  assert _sizes(transform, [1e9, 16.0, 15.5, 15.0, 4.0, 3.5, np.inf]) == [
    64,
    64,
    16,
    16,
    16,
    8,
    64,
  ]


def test_a_declared_policy_shrinks_from_the_largest_whatever_it_does_at_zero():
  # One that takes no noise at all for no evidence: asked for the size after a
  # requirement of 0, it would seem one that only grows.
  def shrinks_by_noise(current, required):
    shrinks = (required > 0) & (required < current / 4)
    return jnp.where(shrinks, required, jnp.maximum(current, required))

  transform = _adapt(policy=adaopt.Policy(shrinks_by_noise))
  assert _sizes(transform, [1e9, 0.0, 9.0, 0.0]) == [64, 64, 9, 9]


def test_measuring_moves_nothing_and_tests_at_every_size():
  for size in (8, 64):
    transform = _adapt(policy=adaopt.batch_size.measure, init_batch_size=size)
    states = _states(transform, [9.0, np.inf, 2.0, np.nan])
    assert [int(s.batch_size) for s in states] == [size] * 5
    assert all(s.test_due for s in states)
    np.testing.assert_array_equal(
      [s.required for s in states], [np.nan, 9.0, np.inf, 2.0, np.nan]
    )


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
    (dict(policy=adaopt.follow), [64.0, 70.0], [1, 2], [64, 70]),
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
  transform = make(_largest_so_far(), init_batch_size=8, max_batch_size=64)

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
