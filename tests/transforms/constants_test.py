"""Constants that follow the batch, against float64 formulas and optax.

A failure here means that an average remembers updates where it says examples,
that its bias is corrected for decays that it never had, or that a constant
batch is not left alone.
"""

import functools
import pickle

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adaopt
from adaopt._common import fields
from adaopt.experiments import compilations
from adaopt.statistics import reading, trained
from adaopt.transforms import follow_batch_size

PARAMS = {'w': jnp.linspace(-2.0, 2.0, 6).reshape(2, 3), 'b': jnp.ones(2)}
BOTH = ('b1', 'b2')
inject = optax.inject_hyperparams


def _statistics(batch_size, gradient):
  return adaopt.GradientStatistics(jnp.int32(batch_size), gradient)


def _gradient(step, params):
  """Some gradient like the parameters, another one in each step."""
  return jax.tree.map(
    lambda p: jnp.sin(3.0 * p + step) + 0.1 * step * jnp.cos(p), params
  )


def _trajectory(optimizer, batch_sizes, params=PARAMS, gradient_of=_gradient):
  """Parameters, updates and state after every step."""
  state = optimizer.init(params)

  @jax.jit
  def step(params, state, count, batch_size):
    gradient = gradient_of(count, params)
    updates, state = optimizer.update(
      gradient, state, params, statistics=_statistics(batch_size, gradient)
    )
    return optax.apply_updates(params, updates), updates, state

  history = []
  for count, batch_size in enumerate(batch_sizes):
    params, updates, state = step(params, state, count * 1.0, batch_size)
    history.append((params, updates, state))
  return history


def _adamw_by_examples(
  gradients, batch_sizes, x, rate, decays, weight_decay, follow
):
  """AdamW with half-lives in examples, rate ∝ √b and decay ∝ √b, float64."""
  (b1, b2), b0 = decays, batch_sizes[0]
  m = v = np.zeros_like(x)
  kept1 = kept2 = 1.0  # Π β_s
  for g, b in zip(gradients, batch_sizes, strict=True):
    beta1 = b1 ** (b / b0) if 'b1' in follow else b1
    beta2 = b2 ** (b / b0) if 'b2' in follow else b2
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    kept1, kept2 = kept1 * beta1, kept2 * beta2
    u = (m / (1 - kept1)) / (np.sqrt(v / (1 - kept2)) + 1e-8)
    x = x - rate * np.sqrt(b / b0) * (u + weight_decay * np.sqrt(b / b0) * x)
  return x


@pytest.mark.parametrize(
  'batch_sizes',
  [
    [8, 16, 32, 64, 128, 256, 512, 1024, 1024, 1024],
    [8, 8, 8, 9, 11, 400, 3, 7, 64, 1],
    [100, 10, 1, 1000, 31, 31, 31, 7],
  ],
  ids=['doubling', 'jumping', 'shrinking'],
)
@pytest.mark.parametrize('decays', [BOTH, ('b2',)], ids=['both', 'b2'])
def test_adamw_agrees_with_float64_half_lives_in_examples(batch_sizes, decays):
  with jax.enable_x64(True):
    gradients = np.random.default_rng(0).normal(size=[len(batch_sizes), 5])
    optimizer = follow_batch_size(
      inject(optax.adamw)(0.02, b2=0.99, weight_decay=0.3),
      decays=decays,
      scaled={'weight_decay': 0.5, 'learning_rate': 0.5},
    )
    history = _trajectory(
      optimizer,
      batch_sizes,
      params=jnp.linspace(-1.0, 2.0, 5),
      gradient_of=lambda i, _: jnp.asarray(gradients)[jnp.int32(i)],
    )
    expected = _adamw_by_examples(
      gradients,
      batch_sizes,
      np.linspace(-1.0, 2.0, 5),
      rate=0.02,
      decays=(0.9, 0.99),
      weight_decay=0.3,
      follow=decays,
    )
  np.testing.assert_allclose(history[-1][0], expected, rtol=1e-9)


# What follows in each optimizer, and the optimizer.
OPTIMIZERS = {
  'adam': (dict(decays=BOTH), inject(optax.adam)(0.1)),
  'b2 alone': (dict(decays='b2'), inject(optax.adam)(0.1)),
  'adamw': (
    dict(decays=BOTH, scaled={'weight_decay': 0.5, 'eps': -0.5}),
    inject(optax.adamw)(0.1, weight_decay=0.3),
  ),
  'nadam': (dict(decays=BOTH), inject(optax.nadam)(0.1)),
  'amsgrad': (dict(decays=BOTH), inject(optax.amsgrad)(0.1)),
  'radam': (dict(decays=BOTH), inject(optax.radam)(0.1, b2=0.9)),
  'adabelief': (dict(decays=BOTH), inject(optax.adabelief)(0.1)),
  'lion': (dict(decays=BOTH), inject(optax.lion)(0.1)),
  'rmsprop': (
    dict(decays='decay'),
    inject(optax.rmsprop)(0.1, bias_correction=True),
  ),
  'adan': (dict(decays=('b1', 'b2', 'b3')), inject(optax.adan)(0.1)),
  'ademamix': (dict(decays='b2'), inject(optax.contrib.ademamix)(0.1)),
  'adamax': (dict(decays=BOTH), inject(optax.adamax)(0.1)),
  'yogi': (dict(decays=BOTH), inject(optax.yogi)(0.1)),
  'muon': (
    dict(decays=('beta', 'adam_b1', 'adam_b2')),
    inject(optax.contrib.muon, static_args='ns_coeffs')(0.1),
  ),
  'momentum': (dict(trace='momentum'), inject(optax.sgd)(0.1, momentum=0.9)),
  'nesterov': (
    dict(trace='momentum'),
    inject(optax.sgd)(0.1, momentum=0.9, nesterov=True),
  ),
  'ema': (dict(decays='decay'), inject(optax.ema)(0.9)),
  'chain': (
    dict(decays=BOTH),
    optax.chain(optax.clip_by_global_norm(0.5), inject(optax.adam)(0.1)),
  ),
  'partition': (
    dict(decays=BOTH),
    optax.partition(
      {'adam': inject(optax.adam)(0.1), 'none': optax.set_to_zero()},
      {'w': 'adam', 'b': 'none'},
    ),
  ),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', OPTIMIZERS)
def test_batches_of_the_base_size_are_left_alone_to_the_last_bit(name):
  options, optimizer = OPTIMIZERS[name]
  plain = optax.with_extra_args_support(optimizer)
  expected = _trajectory(plain, [6] * 6)
  following = follow_batch_size(optimizer, **options)
  found = _trajectory(following, [6, 6, 6, 6, 24, 3])
  for i, (params, updates, state) in enumerate(found[:4]):
    chex.assert_trees_all_equal(params, expected[i][0])
    chex.assert_trees_all_equal(updates, expected[i][1])
    chex.assert_trees_all_equal(state.inner_state, expected[i][2])
  # Of another size they weigh otherwise, and the state keeps its form.
  moved = jax.tree.map(
    lambda a, b: jnp.max(jnp.abs(a - b)), found[-1][0], expected[-1][0]
  )
  assert max(map(float, jax.tree.leaves(moved))) > 1e-3
  chex.assert_trees_all_equal_shapes_and_dtypes(
    found[-1][2], following.init(PARAMS)
  )
  assert found[-1][2].examples == 51
  assert found[-1][2].base_batch_size == 6
  assert found[-1][2].count == 6


def _last_updates(optimizer):
  """(gradients [8, d], batch sizes [8]) → the updates after the last."""

  @jax.jit
  def last(gradients, batch_sizes):
    def step(state, inputs):
      gradient, b = inputs
      updates, state = optimizer.update(
        gradient, state, statistics=_statistics(b, gradient)
      )
      return state, updates

    inputs = gradients, batch_sizes
    return jax.lax.scan(step, optimizer.init(gradients[0]), inputs)[1][-1]

  return last


LINEAR = {
  'average': (
    _last_updates(
      follow_batch_size(
        inject(optax.ema)(0.9, debias=False),
        decays='decay',
        base_batch_size=16,
      )
    ),
    1.0,
  ),
  'trace': (
    _last_updates(
      follow_batch_size(
        inject(optax.trace)(0.9), trace='decay', base_batch_size=16
      )
    ),
    10.0,
  ),
}


@pytest.mark.parametrize('name', LINEAR)
@hypothesis.given(
  batch_sizes=st.lists(st.integers(1, 200), min_size=8, max_size=8)
)
@hypothesis.settings(max_examples=30, deadline=None)
def test_examples_weigh_the_same_in_whatever_batches_they_come(
  name, batch_sizes
):
  last, total = LINEAR[name]
  found = last(jnp.eye(8), jnp.array(batch_sizes))
  # The weight of a batch is that of its examples: with κ = β^(1 / b_0), from
  # the last example on, (1 − κ) κ^j.
  ends = np.cumsum(batch_sizes[::-1])[::-1]
  starts = ends - batch_sizes
  kappa = 0.9 ** (1 / 16)
  expected = total * (kappa**starts - kappa**ends)
  # 1 − β in float32 is known to 6e-8 / (1 − κ).
  np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize('half_life', [16, 48, 400])
def test_half_of_an_average_is_left_after_its_half_life(half_life):
  average = follow_batch_size(
    inject(optax.ema)(0.5 ** (16 / half_life), debias=False),
    decays='decay',
    base_batch_size=16,
  )
  one, zero = jnp.ones([]), jnp.zeros([])
  _, state = average.update(
    one, average.init(one), statistics=_statistics(16, one)
  )
  (start,) = fields.find_all(state, 'ema')
  for b in (half_life // 2, half_life // 4, half_life // 4):
    left, state = average.update(zero, state, statistics=_statistics(b, zero))
  np.testing.assert_allclose(left, start / 2, rtol=1e-5)


# Adam, whose decays count examples, both or one of them.
ADAM = {
  decays: _last_updates(
    follow_batch_size(
      inject(optax.scale_by_adam)(b2=0.99, eps=0.0),
      decays=decays,
      base_batch_size=32,
    )
  )
  for decays in (BOTH, 'b1', 'b2')
}


@pytest.mark.parametrize('decays', ADAM)
@hypothesis.given(
  batch_sizes=st.lists(st.integers(1, 500), min_size=8, max_size=8)
)
@hypothesis.settings(max_examples=30, deadline=None)
def test_the_averages_of_adam_have_no_bias_in_whatever_batches(
  decays, batch_sizes
):
  # Of a constant gradient the averages are that gradient and its square.
  gradient = jnp.array([2.0, -0.5])
  updates = ADAM[decays](jnp.stack([gradient] * 8), jnp.array(batch_sizes))
  # Where b = 1, 1 − β₂ = 3e-4 is known to 2e-4 in float32, half of it in √v̂.
  np.testing.assert_allclose(updates, [1.0, -1.0], rtol=4e-4)


def test_the_correction_of_optax_would_leave_the_bias_that_is_documented():
  moved = inject(optax.scale_by_adam)(eps=0.0)
  gradient = jnp.ones(1)
  state = moved.init(gradient)
  for exponent in range(8):
    state.hyperparams['b2'] = jnp.float32(0.999 ** (2**exponent))
    updates, state = moved.update(gradient, state, gradient)
  # n = 255 b_0, and b = 128 b_0 in the eighth update.
  bias = (1 - 0.999 ** (8 * 128)) / (1 - 0.999**255)
  assert round(bias, 2) == 2.85
  np.testing.assert_allclose(updates, bias**0.5, rtol=1e-4)


def test_the_rate_of_momentum_stays_as_a_trace_and_falls_as_a_decay():
  gradient = jnp.ones(1)
  for options, effective in (
    (dict(trace='momentum'), 1 / (1 - 0.9)),
    (dict(decays='momentum'), 1 / (1 - 0.9**8)),
  ):
    sgd = follow_batch_size(
      inject(optax.sgd)(1.0, momentum=0.9), base_batch_size=4, **options
    )
    state = sgd.init(gradient)
    for _ in range(60):
      updates, state = sgd.update(
        gradient, state, statistics=_statistics(32, gradient)
      )
    np.testing.assert_allclose(updates, -effective, rtol=1e-5)


@pytest.mark.parametrize(
  ('exponent', 'power'), [(0.5, 0.5), (0.0, 1.0), (1.0, 0.0)]
)
def test_weights_decay_by_examples_with_one_less_the_exponent(exponent, power):
  # 3200 examples without a gradient, so that AdamW only decays.
  decayed = []
  for batch_sizes in ([8] * 400, [8] * 100 + [32] * 75, [8, 64] * 44 + [32]):
    assert sum(batch_sizes) == 3200
    optimizer = optax.chain(
      follow_batch_size(
        inject(optax.adamw)(1.0, weight_decay=0.1),
        decays=BOTH,
        scaled={'weight_decay': power},
      ),
      adaopt.scale_by_batch_size(exponent),
      optax.scale(0.02),
    )
    history = _trajectory(
      optimizer,
      batch_sizes,
      params=jnp.ones([]),
      gradient_of=lambda step, params: jnp.zeros([]),
    )
    decayed.append(float(history[-1][0]))
  # e^(−n α λ / b_0), to second order in α λ b / b_0 ≤ 0.016.
  np.testing.assert_allclose(decayed, np.exp(-0.8), rtol=0.01)


def test_a_constant_is_scaled_by_a_power_of_the_batch():
  scale = follow_batch_size(
    inject(optax.scale)(3.0), scaled={'step_size': -0.5}, base_batch_size=4
  )
  one = jnp.ones(1)
  state = scale.init(one)
  for batch_size, expected in ((4, 3.0), (16, 1.5), (1, 6.0), (0, 6.0)):
    updates, state = scale.update(
      one, state, statistics=_statistics(batch_size, one)
    )
    np.testing.assert_allclose(updates, [expected], rtol=1e-6)


def test_a_learning_rate_that_is_scaled_is_scale_by_batch_size():
  sizes = [6, 24, 3, 100]
  adam = inject(optax.adam)(0.1)
  found = _trajectory(
    follow_batch_size(adam, scaled={'learning_rate': 0.5}), sizes
  )
  expected = _trajectory(
    optax.chain(adam, adaopt.scale_by_batch_size(0.5)), sizes
  )
  chex.assert_trees_all_close(found[-1][0], expected[-1][0], rtol=1e-6)


@pytest.mark.parametrize('name', ['adam', 'b2 alone', 'momentum', 'ema'])
def test_empty_batches_count_as_one_example_and_are_finite(name):
  options, optimizer = OPTIMIZERS[name]
  optimizer = follow_batch_size(optimizer, **options)
  empty = _trajectory(optimizer, [0, 0, 8, 0])
  assert empty[-1][2].examples == 11
  assert [int(s.base_batch_size) for _, _, s in empty] == [0, 0, 8, 8]
  assert jnp.isfinite(optax.tree.norm(empty[-1][:2]))


def test_examples_beyond_the_largest_integer_do_not_wrap_around():
  optimizer = follow_batch_size(inject(optax.adam)(0.1), decays=BOTH)
  gradient = jnp.ones(2)
  state = optimizer.init(gradient)._replace(
    examples=jnp.int32(2**31 - 100), base_batch_size=jnp.int32(8)
  )
  for _ in range(2):
    updates, state = optimizer.update(
      gradient, state, statistics=_statistics(64, gradient)
    )
  assert state.examples == 2**31 - 1
  assert jnp.all(jnp.isfinite(updates))


def test_constants_in_the_state_are_those_at_the_base_size_and_can_be_changed():
  optimizer = follow_batch_size(
    inject(optax.ema)(0.5, debias=False), decays='decay', base_batch_size=8
  )
  one = jnp.ones(1)
  state = optimizer.init(one)
  _, state = optimizer.update(one, state, statistics=_statistics(64, one))
  assert optax.tree.get(state, 'decay') == 0.5
  state.inner_state.hyperparams['decay'] = 0.25
  _, state = optimizer.update(one * 0, state, statistics=_statistics(16, one))
  found = optax.tree.get(state, 'ema') / (1 - 0.5**8)
  np.testing.assert_allclose(found, [0.25**2], rtol=1e-6)
  assert optax.tree.get(state, 'decay') == 0.25


def test_a_saved_state_resumes_to_the_last_bit():
  def make():
    return follow_batch_size(inject(optax.adam)(0.1), decays=BOTH)

  gradient = jnp.array([1.0, -2.0])
  update = lambda state, b: make().update(
    gradient, state, statistics=_statistics(b, gradient)
  )
  _, state = update(make().init(gradient), 8)
  saved = pickle.loads(pickle.dumps(jax.device_get(state)))
  chex.assert_trees_all_equal(update(saved, 100), update(state, 100))
  assert state.base_batch_size == 8


# In the toolkit: steps, accumulation, masks and traces.


def _adaptive(optimizer, **options):
  return adaopt.adaptive(
    optimizer,
    0.05,
    **dict(init_batch_size=4, max_batch_size=64, multiple_of=4) | options,
  )


def _adamw():
  return follow_batch_size(
    inject(optax.adamw)(1.0, weight_decay=0.1),
    decays=BOTH,
    scaled={'weight_decay': 0.5},
  )


def _loss_fn(params, batch):
  return jnp.mean(
    jnp.sum((params['w'][None] - batch) ** 2, (1, 2))
  ) + 0.1 * jnp.sum(params['b'] ** 2)


def _dataset():
  return 0.5 + jax.random.normal(jax.random.key(0), [256, 2, 3])


@pytest.mark.slow
def test_fit_counts_its_examples_and_compiles_no_more_as_the_batch_grows():
  before = compilations.count()
  double = lambda statistics: 2.0 * statistics.batch_size
  optimizer = adaopt.adaptive(
    _adamw(),
    0.05,
    init_batch_size=2,
    max_batch_size=64,
    criterion=double,
    policy=adaopt.capped_growth(2.0),
  )
  steps = list(
    adaopt.fit(
      _loss_fn,
      optimizer,
      PARAMS,
      _dataset(),
      num_examples=250,
      max_micro_batch_size=16,
      check=False,
    )
  )
  state, metrics = steps[-1]
  (following,) = fields.states_of(
    state.opt_state, adaopt.transforms.FollowBatchSizeState
  )
  sizes = [int(metrics.batch_size) for _, metrics in steps]
  assert sizes == [2, 4, 8, 16, 32, 64, 64, 64]
  assert following.examples == metrics.examples == 254
  assert following.base_batch_size == 2
  # Six sizes, and micro-batches of two.
  assert compilations.count() - before <= 2


def test_it_reads_the_batch_size_and_none_of_the_noise():
  optimizer = _adamw()
  update = lambda statistics, params, state: optimizer.update(
    statistics.mean, state, params, statistics=statistics
  )
  every = reading.shapes_of(PARAMS)
  reads = reading.reads_of(update, every, PARAMS, optimizer.init(PARAMS))
  assert reads.untested.batch_size
  assert not any(reading.noise_read(reads.tested))


def test_a_tensor_that_it_never_moves_is_known_not_to_be_trained():
  optimizer = optax.partition(
    {'adamw': _adamw(), 'none': optax.set_to_zero()},
    {'w': 'adamw', 'b': 'none'},
  )
  update = lambda gradient, state, params: optimizer.update(
    gradient, state, params, statistics=_statistics(8, gradient)
  )[0]
  state = optimizer.init(PARAMS)
  found = trained.trained_tensors(update, PARAMS, state, PARAMS)
  assert found == {'w': True, 'b': False}


def test_behind_a_mask_it_follows_the_whole_batch():
  masked = optax.masked(
    follow_batch_size(
      inject(optax.ema)(0.9, debias=False),
      decays='decay',
      base_batch_size=4,
    ),
    {'w': False, 'b': True},
  )
  updates, _ = masked.update(
    PARAMS, masked.init(PARAMS), statistics=_statistics(8, PARAMS)
  )
  np.testing.assert_allclose(updates['b'], [1 - 0.9**2] * 2, rtol=1e-6)
  np.testing.assert_array_equal(updates['w'], PARAMS['w'])


def test_accumulated_micro_batches_are_one_update_of_the_whole_batch():
  whole = optax.chain(adaopt.schedule_batch_size(8), _adamw())
  accumulated = adaopt.accumulate(whole, group_size=4)
  state, whole_state = accumulated.init(PARAMS), whole.init(PARAMS)
  for step in range(3):
    gradient = _gradient(step, PARAMS)
    for _ in range(2):
      updates, state = jax.jit(accumulated.update)(gradient, state, PARAMS)
    expected, whole_state = jax.jit(whole.update)(
      gradient, whole_state, PARAMS, statistics=_statistics(8, gradient)
    )
    chex.assert_trees_all_close(updates, expected, rtol=1e-6)
  chex.assert_trees_all_close(state.inner_state, whole_state, rtol=1e-6)


def test_within_scan_and_vmap_it_is_what_it_is_outside():
  sizes = [4, 8, 64, 16]
  optimizer = _adamw()

  def run(params):
    def step(carry, inputs):
      params, state = carry
      count, b = inputs
      gradient = _gradient(count, params)
      updates, state = optimizer.update(
        gradient, state, params, statistics=_statistics(b, gradient)
      )
      return (optax.apply_updates(params, updates), state), None

    carry = params, optimizer.init(params)
    inputs = jnp.arange(4.0), jnp.array(sizes)
    return jax.lax.scan(step, carry, inputs)[0]

  params, state = jax.jit(run)(PARAMS)
  expected = _trajectory(optimizer, sizes)[-1]
  chex.assert_trees_all_close(params, expected[0], rtol=1e-5)
  chex.assert_trees_all_close(state, expected[2], rtol=1e-5)
  two = jax.tree.map(lambda p: jnp.stack([p, p]), PARAMS)
  chex.assert_trees_all_close(
    jax.tree.map(lambda x: x[1], jax.jit(jax.vmap(run))(two)[0]),
    params,
    rtol=1e-5,
  )


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_decays_in_half_precision_are_refused_and_the_remedy_works(dtype):
  params = jax.tree.map(lambda p: p.astype(dtype), PARAMS)
  with pytest.raises(ValueError, match=r'b1 is held in .*16.*hyperparam_dtype'):
    follow_batch_size(inject(optax.adam)(0.1), decays=BOTH).init(params)
  optimizer = follow_batch_size(
    inject(optax.adam, static_args='mu_dtype', hyperparam_dtype=jnp.float32)(
      0.1, mu_dtype=jnp.float32
    ),
    decays=BOTH,
  )
  state = optimizer.init(params)
  updates, later = optimizer.update(
    params, state, params, statistics=_statistics(8, params)
  )
  chex.assert_trees_all_equal_shapes_and_dtypes(later, state)
  np.testing.assert_allclose(jnp.abs(updates['b']), 0.1, rtol=1e-2)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (dict(), r"follows no constant; name some, as in decays=\('b1', 'b2'\)"),
    (dict(decays='b1', scaled={'b1': 1.0}), 'b1 is named twice'),
    (dict(decays=('b1', 'b1')), 'b1 is named twice'),
    (dict(decays='b1', trace='b1'), 'b1 is named twice'),
    (dict(scaled={'eps': np.nan}), 'finite powers of b / b_0, got nan for eps'),
    (dict(scaled={'eps': '1'}), "finite powers of b / b_0, got '1' for eps"),
    (dict(scaled={'eps': None}), 'finite powers of b / b_0, got None for eps'),
    (dict(decays='b1', base_batch_size=0), 'base_batch_size must be .* got 0'),
    (
      dict(decays='b1', base_batch_size=1.5),
      r'base_batch_size must .* got 1\.5',
    ),
  ],
)
def test_wrong_arguments_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    follow_batch_size(inject(optax.adam)(0.1), **options)


@pytest.mark.parametrize(
  ('optimizer', 'options', 'message'),
  [
    (
      optax.adam(0.1),
      dict(decays='b1'),
      'needs an optimizer with injected constants, .* the state tuple',
    ),
    (
      inject(optax.adam)(0.1),
      dict(decays='momentum'),
      r'momentum is not an injected .* there are b1, b2, eps, eps_root, le',
    ),
    (
      inject(optax.adam)(0.1),
      dict(scaled={'weight_decay': 0.5}),
      'weight_decay is not an injected constant',
    ),
    (
      inject(optax.adam, static_args='b1')(0.1),
      dict(decays='b1'),
      'b1 is not an injected constant',
    ),
    (
      inject(optax.adam)(0.1, b1=optax.constant_schedule(0.9)),
      dict(decays='b1'),
      'b1 is a schedule, which counts updates .* inject_hyperparams a number',
    ),
    (
      inject(optax.adam)(0.1, b1=1.0),
      dict(decays='b1'),
      r'b1 must be in \[0, 1\) to have a half-life, got 1\.0',
    ),
    (
      inject(optax.ema)(-0.5),
      dict(decays='decay'),
      r'decay must be in \[0, 1\) .* got -0\.5',
    ),
    (
      optax.chain(*[inject(optax.trace)(0.9)] * 2),
      dict(trace='decay'),
      "trace='decay' must be a constant of one injected optimizer, got 2",
    ),
  ],
)
def test_what_cannot_follow_is_refused_at_init(optimizer, options, message):
  following = follow_batch_size(optimizer, **options)
  with pytest.raises(ValueError, match=message):
    following.init(PARAMS)


def test_a_missing_batch_size_is_asked_for():
  optimizer = follow_batch_size(inject(optax.adam)(0.1), decays=BOTH)
  gradient = jnp.ones(2)
  update = functools.partial(
    optimizer.update, gradient, optimizer.init(gradient)
  )
  with pytest.raises(ValueError, match=r'follow_batch_size needs .* pass stat'):
    update()
  with pytest.raises(
    ValueError, match='follow_batch_size needs the batch size'
  ):
    update(statistics=None)
  with pytest.raises(ValueError, match='must be an optax optimizer'):
    follow_batch_size(optax.adam, decays='b1')
