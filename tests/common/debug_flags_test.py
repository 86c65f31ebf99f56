"""If these fail, a debugging flag of JAX stops a run that has no fault."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adaopt
from adaopt import batch_size, criteria, noise, transforms

SIZES = dict(init_batch_size=8, max_batch_size=64)

CRITERIA = {
  'norm_test': lambda: adaopt.norm_test(0.5),
  'coordinate_norm_test': lambda: adaopt.coordinate_norm_test(0.5),
  'gradient_noise_scale': lambda: adaopt.gradient_noise_scale(),
  'sign_noise_scale': lambda: criteria.sign_noise_scale(0.5),
  'gradient_diversity': lambda: criteria.gradient_diversity(
    0.5, num_examples=16
  ),
  'preconditioned_by_adagrad': lambda: criteria.preconditioned_norm_test(
    0.5, criteria.adagrad_preconditioner()
  ),
}

POLICIES = {
  'follow': adaopt.follow,
  'capped_growth': adaopt.capped_growth(1.5),
}

LINEAR = optax.linear_schedule(1.0, 0.5, 100)


def _preconditioned_by_adam():
  test = criteria.preconditioned_norm_test(0.5, criteria.adam_preconditioner())
  return optax.chain(
    adaopt.adapt_batch_size(test, **SIZES), optax.scale_by_adam()
  )


MAKERS = (
  {
    name: lambda make=make: adaopt.adadagrad(1.0, make(), **SIZES)
    for name, make in CRITERIA.items()
  }
  | {
    name: lambda policy=policy: adaopt.adapt_batch_size(
      adaopt.norm_test(0.5), policy=policy, multiple_of=4, **SIZES
    )
    for name, policy in POLICIES.items()
  }
  | {
    'adapt_batch_size': lambda: adaopt.adapt_batch_size(
      adaopt.norm_test(0.5), test_interval=2, **SIZES
    ),
    'preconditioned_by_adam': _preconditioned_by_adam,
    'noise_scale': lambda: adaopt.noise_scale(half_life=100),
    'between_steps': lambda: noise.between_steps(
      adaopt.noise_scale(half_life=100), batch_size=8
    ),
    'average_of': lambda: noise.average_of(
      noise.stopping_evidence, half_life=100
    ),
    'scale_by_adam': lambda: transforms.scale_by_adam(),
    'scale_by_adam_by_the_signal': lambda: transforms.scale_by_adam(
      second_moment=transforms.square_at_batch_size(float('inf'))
    ),
    'schedule_batch_size': lambda: adaopt.schedule_batch_size(8),
    'schedule_batch_size_by_a_schedule': lambda: adaopt.schedule_batch_size(
      optax.linear_schedule(8.0, 64.0, 100)
    ),
    'seesaw': lambda: adaopt.schedule_batch_size(
      adaopt.seesaw(0.1, 8, [16])[1]
    ),
    'adaptive': lambda: adaopt.adaptive(
      optax.sgd(1.0, momentum=0.9), 0.1, **SIZES
    ),
    'adaptive_by_a_schedule': lambda: adaopt.adaptive(
      optax.sgd(1.0), LINEAR, scaling=adaopt.scale_by_batch_size(1.0), **SIZES
    ),
    'adadagrad_norm': lambda: adaopt.adadagrad_norm(
      LINEAR, adaopt.norm_test(0.5), **SIZES
    ),
    'adagrad': lambda: adaopt.adagrad(0.1),
    'adagrad_norm': lambda: adaopt.adagrad_norm(LINEAR),
    'scale_by_adascale': lambda: adaopt.scale_by_adascale(
      base_batch_size=8, schedule=LINEAR
    ),
    'scale_by_batch_size': lambda: adaopt.scale_by_batch_size(),
    'scale_by_example_schedule': lambda: adaopt.scale_by_example_schedule(
      LINEAR
    ),
    'normalized_lr_gd': lambda: adaopt.normalized_lr_gd(0.1),
    'critical_batch_size': lambda: adaopt.adapt_batch_size(
      criteria.critical_batch_size(100.0, 0.5), **SIZES
    ),
    'stage_schedule': lambda: adaopt.schedule_batch_size(
      batch_size.stage_schedule('0:8 12:16 3B:32')
    ),
    'hold_until': lambda: batch_size.hold_until(
      adaopt.adapt_batch_size(adaopt.norm_test(0.5), **SIZES), 12
    ),
    'seesaw_from_schedule': lambda: adaopt.scale_by_example_schedule(
      batch_size.seesaw_from_schedule(LINEAR, 8, 16, num_examples=100)[0]
    ),
    'scale_by_legw': lambda: transforms.scale_by_legw(
      base_batch_size=4, warmup_examples=16
    ),
    'scale_by_power_schedule': lambda: transforms.scale_by_power_schedule(
      max_learning_rate=0.1, tokens_per_example=16
    ),
    'reset_moments': lambda: transforms.reset_moments(optax.trace(0.5)),
    'rescale_second_moment': lambda: transforms.rescale_second_moment(
      optax.scale_by_rms()
    ),
  }
)

FLAGS = {
  'nans': lambda: jax.debug_nans(True),
  'infs': lambda: jax.debug_infs(True),
  'dtypes': lambda: jax.numpy_dtype_promotion('strict'),
  'ranks': lambda: jax.numpy_rank_promotion('raise'),
  'leaks': lambda: jax.checking_leaks(),
  'transfers': lambda: jax.transfer_guard('disallow'),
}

PARAMS = {'w': jnp.ones([2, 3]), 'b': jnp.ones([2])}
# Noise and signal, noise alone, and neither: a requirement, infinitely many
# examples, and no evidence.
MEANS = {'w': 1.0, 'b': 0.5}, {'w': 0.0, 'b': 0.0}, {'w': 0.0, 'b': 0.0}
NOISES = 20.0, 20.0, 0.0


def _statistics(means, noise):
  full = lambda x, like: jnp.full(jnp.shape(like), x, jnp.float32)
  return adaopt.GradientStatistics(
    batch_size=jnp.int32(8),
    mean=jax.tree.map(full, means, PARAMS),
    variance=jax.tree.map(lambda p: jnp.float32(noise * p.size), PARAMS),
    coordinate_variance=jax.tree.map(lambda p: full(noise, p), PARAMS),
    variance_along_mean=jnp.float32(noise),
  )


STATISTICS = [_statistics(*args) for args in zip(MEANS, NOISES, strict=True)]
EXTRA_ARGS = dict(value=jnp.float32(2.0), mean_residual=jnp.float32(0.5))


def _update(transform, state, statistics, params):
  return optax.with_extra_args_support(transform).update(
    statistics.mean,
    state,
    params,
    statistics=statistics,
    opt_state=state,
    **EXTRA_ARGS,
  )


def _run(transform, all_statistics, jit):
  """The updates and states of some steps."""
  update = lambda *args: _update(transform, *args)
  init, update = map(jit, (transform.init, update))
  state = init(PARAMS)
  found = [state]
  for statistics in all_statistics:
    updates, state = update(state, statistics, PARAMS)
    found += [updates, state]
  return found


def _assert_same(found, expected):
  for x, y in zip(
    jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
  ):
    x, y = np.array(x), np.array(y)
    assert x.dtype == y.dtype
    if np.issubdtype(y.dtype, np.floating):
      # −1 and the largest number stand for NaN and infinity.
      largest = np.finfo(y.dtype).max
      x = np.where(x == -1, np.nan, np.where(x == largest, np.inf, x))
      y = np.where(y == -1, np.nan, y)
    np.testing.assert_allclose(x, y, rtol=1e-6)


def _skip_if_optax_stops(name, flag):
  if (name, flag) == ('preconditioned_by_adam', 'dtypes'):
    pytest.skip('optax.scale_by_adam itself mixes dtypes')


@pytest.mark.slow
@pytest.mark.parametrize('flag', FLAGS)
@pytest.mark.parametrize('name', MAKERS)
def test_a_flag_stops_no_program_and_changes_no_update(name, flag):
  _skip_if_optax_stops(name, flag)
  expected = _run(MAKERS[name](), STATISTICS, jax.jit)
  with FLAGS[flag]():
    found = _run(MAKERS[name](), STATISTICS, jax.jit)
  _assert_same(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize('flag', [f for f in FLAGS if f != 'transfers'])
@pytest.mark.parametrize('name', MAKERS)
def test_a_flag_stops_no_update_without_jit(name, flag):
  _skip_if_optax_stops(name, flag)
  expected = _run(MAKERS[name](), STATISTICS, lambda f: f)
  with FLAGS[flag]():
    found = _run(MAKERS[name](), STATISTICS, lambda f: f)
  _assert_same(found, expected)


@pytest.mark.parametrize('flag', ['nans', 'infs'])
def test_a_state_without_the_flag_serves_with_it_and_back(flag):
  make = MAKERS['adapt_batch_size']
  state = make().init(PARAMS)
  assert np.isnan(state.required)
  with FLAGS[flag]():
    debug = jax.jit(lambda *args: _update(make(), *args))
    _, debugged = debug(state, STATISTICS[2], PARAMS)
    assert debugged.required == -1
    _, untested = debug(
      state._replace(test_due=jnp.bool_(False)), STATISTICS[0], PARAMS
    )
    assert untested.required == -1
  assert debugged.batch_size == untested.batch_size == 8
  plain = jax.jit(lambda *args: _update(make(), *args))
  _, state = plain(
    debugged._replace(test_due=jnp.bool_(True)), STATISTICS[1], PARAMS
  )
  assert np.isinf(state.required)
  assert state.batch_size == 64


@pytest.mark.slow
@pytest.mark.parametrize('dtype', ['bfloat16', 'float16', 'complex64'])
@pytest.mark.parametrize('name', MAKERS)
def test_gradients_of_other_dtypes_are_cast_by_intent(name, dtype):
  if name == 'preconditioned_by_adam':
    pytest.skip('optax.scale_by_adam itself mixes dtypes')
  if (name, dtype) == ('rescale_second_moment', 'complex64'):
    pytest.skip('optax.scale_by_rms itself mixes dtypes')
  cast = lambda tree: jax.tree.map(lambda x: x.astype(dtype), tree)
  params = cast(PARAMS)
  statistics = STATISTICS[0]._replace(mean=cast(STATISTICS[0].mean))

  def run():
    transform = MAKERS[name]()
    state = jax.jit(transform.init)(params)
    return jax.jit(lambda *args: _update(transform, *args))(
      state, statistics, params
    )

  expected = run()
  with FLAGS['dtypes']():
    found = run()
  for x, y in zip(
    jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
  ):
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(x, y)


def test_the_metric_of_adam_mixes_no_dtypes():
  state = optax.scale_by_adam().init(PARAMS)
  state = state._replace(count=jnp.int32(3), nu=PARAMS)
  find = criteria.adam_preconditioner()
  expected = find(state)
  with FLAGS['dtypes']():
    _assert_same(find(state), expected)


def test_all_flags_together_stop_nothing():
  with contextlib.ExitStack() as stack:
    for flag in FLAGS.values():
      stack.enter_context(flag())
    found = _run(MAKERS['adaptive'](), STATISTICS, jax.jit)
  _assert_same(found, _run(MAKERS['adaptive'](), STATISTICS, jax.jit))
