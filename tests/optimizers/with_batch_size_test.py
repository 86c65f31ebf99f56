"""Optimizers with a batch size against the algorithms, step by step by hand.

A failure here means that a chain is put together wrongly: the new batch size
applies a step early or late, an option is lost on its way to a transform, the
sign is wrong, or a learning-rate schedule counts steps instead of examples.
"""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adaopt

ETA, B_0, B_MAX, STEPS = 0.3, 4, 100, 12
CURVATURE = np.array([2.0, 0.5, 1.0])
TARGETS = np.random.default_rng(1).normal([3, -2, 5], [1, 2, 4], size=(999, 3))

NORMS = pytest.mark.parametrize(
  'norm', [False, True], ids=['adadagrad', 'adadagrad_norm']
)


def _mean_and_variance(x, position, batch_size):
  """ḡ and tr Cov(g_i) for the losses ½ Σ_k a_k (x_k − d_ik)²."""
  gradients = CURVATURE * (x - TARGETS[position : position + batch_size])
  return gradients.mean(0), gradients.var(0, ddof=1).sum()


def _by_hand(norm, rate, multiple_of, test_interval, s_0, eps):
  """The batch sizes and parameters of all steps, in float64."""
  x, s, b, examples = np.zeros(3), s_0, B_0, 0
  sizes, params = [], []
  for k in range(STEPS):
    mean, variance = _mean_and_variance(x, examples, b)
    s = s + ((mean**2).sum() if norm else mean**2)
    x = x - rate(examples) * mean / (np.sqrt(s) + eps)
    examples += b
    required = variance / (ETA**2 * (mean**2).sum())
    if k % test_interval == 0 and required > b:
      b = min(math.ceil(required / multiple_of) * multiple_of, B_MAX)
    sizes.append(b)
    params.append(x)
  return sizes, params


def _by_optimizer(optimizer):
  """The same from the optimizer, which sees the examples it asks for."""
  x, examples = jnp.zeros(3), 0
  state = optimizer.init(x)
  sizes, params = [], []
  for _ in range(STEPS):
    b = int(optax.tree.get(state, 'batch_size'))
    mean, variance = _mean_and_variance(np.asarray(x), examples, b)
    statistics = adaopt.GradientStatistics(
      jnp.int32(b), mean=jnp.asarray(mean), variance=jnp.asarray(variance)
    )
    updates, state = optimizer.update(
      statistics.mean, state, x, statistics=statistics
    )
    x = optax.apply_updates(x, updates)
    examples += b
    sizes.append(optax.tree.get(state, 'batch_size'))
    params.append(x)
  return sizes, params


@pytest.mark.slow
@NORMS
@pytest.mark.parametrize(
  ('learning_rate', 'rate', 'options'),
  [
    (1.0, lambda examples: 1.0, {}),
    (
      optax.linear_schedule(1.5, 0.5, 60),
      lambda examples: np.interp(examples, [0, 60], [1.5, 0.5]),
      {},
    ),
    (1.0, lambda examples: 1.0, dict(multiple_of=4)),
    (1.0, lambda examples: 1.0, dict(test_interval=3)),
    (1.0, lambda examples: 1.0, dict(s_0=2.0, eps=0.3)),
  ],
  ids=['defaults', 'rate_by_examples', 'multiples', 'interval', 'constants'],
)
def test_sizes_and_params_are_those_of_the_algorithm_by_hand(
  norm, learning_rate, rate, options
):
  options = dict(multiple_of=1, test_interval=1, s_0=0.0, eps=1e-10) | options
  hand_sizes, hand_params = _by_hand(norm, rate, **options)
  # It grows, and more than once.
  assert len(set(hand_sizes)) >= 3

  options['initial_accumulator_value'] = options.pop('s_0')
  with jax.enable_x64(True):
    sizes, params = _by_optimizer(
      (adaopt.adadagrad_norm if norm else adaopt.adadagrad)(
        learning_rate,
        adaopt.norm_test(ETA),
        init_batch_size=B_0,
        max_batch_size=B_MAX,
        **options,
      )
    )
  # The norm is summed, and optax's schedules are evaluated, in float32.
  rtol = 1e-6 if norm or callable(learning_rate) else 1e-12
  np.testing.assert_array_equal(sizes, hand_sizes)
  np.testing.assert_allclose(params, hand_params, rtol=rtol, atol=0)


def _updates(optimizer, batch_sizes):
  """The updates for a gradient of 1 from batches of the sizes given."""
  gradient = jnp.ones(1)
  state = optimizer.init(gradient)
  found = []
  for batch_size in batch_sizes:
    updates, state = optimizer.update(
      gradient,
      state,
      statistics=adaopt.GradientStatistics(
        jnp.int32(batch_size), mean=gradient, variance=jnp.float32(0)
      ),
    )
    found.append(float(updates[0]))
  return found


@pytest.mark.parametrize('make', [adaopt.adadagrad, adaopt.adadagrad_norm])
def test_schedules_of_adadagrad_count_examples(make):
  schedule = optax.linear_schedule(1.0, 0.0, transition_steps=100)
  optimizer = make(
    schedule, adaopt.norm_test(1.0), init_batch_size=8, max_batch_size=8
  )
  found = _updates(optimizer, [10, 40, 30])
  # After 0, 10 and 50 examples; divided as above.
  expected = [-1, -0.9 / np.sqrt(2), -0.5 / np.sqrt(3)]
  np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_adadagrad_hands_eps_root_to_adagrad():
  optimizer = adaopt.adadagrad(
    1.0,
    adaopt.norm_test(1.0),
    init_batch_size=8,
    max_batch_size=8,
    eps=0.0,
    eps_root=3.0,
  )
  assert _updates(optimizer, [8]) == [-0.5]


@NORMS
def test_a_policy_decides_over_the_next_size(norm):
  optimizer = (adaopt.adadagrad_norm if norm else adaopt.adadagrad)(
    1.0,
    adaopt.norm_test(1.0),
    init_batch_size=8,
    max_batch_size=64,
    policy=adaopt.capped_growth(2.0),
  )
  gradient = jnp.ones(1)
  statistics = adaopt.GradientStatistics(
    jnp.int32(8), mean=gradient, variance=jnp.float32(50)
  )
  _, state = optimizer.update(
    gradient, optimizer.init(gradient), statistics=statistics
  )
  assert optax.tree.get(state, 'batch_size') == 16


@NORMS
def test_with_none_for_statistics_adadagrad_is_adagrad(norm):
  gradient = jnp.array([3.0, -4.0])
  adapting, plain = (
    (adaopt.adadagrad_norm, adaopt.adagrad_norm)
    if norm
    else (adaopt.adadagrad, adaopt.adagrad)
  )
  optimizer = adapting(
    0.5, adaopt.norm_test(1.0), init_batch_size=8, max_batch_size=64
  )
  updates, state = optimizer.update(
    gradient, optimizer.init(gradient), statistics=None
  )
  expected, _ = plain(0.5).update(gradient, plain(0.5).init(gradient))
  np.testing.assert_array_equal(updates, expected)
  assert optax.tree.get(state, 'batch_size') == 8
  assert optax.tree.get(state, 'test_due')


@NORMS
def test_a_schedule_without_statistics_asks_for_them(norm):
  optimizer = (adaopt.adadagrad_norm if norm else adaopt.adadagrad)(
    optax.constant_schedule(0.5),
    adaopt.norm_test(1.0),
    init_batch_size=8,
    max_batch_size=64,
  )
  state = optimizer.init(jnp.ones(1))
  with pytest.raises(ValueError, match='pass statistics='):
    optimizer.update(jnp.ones(1), state)
  with pytest.raises(ValueError, match='needs the batch size in every update'):
    optimizer.update(jnp.ones(1), state, statistics=None)


@NORMS
@pytest.mark.parametrize(
  ('bad', 'sentence'),
  [
    (dict(init_batch_size=0), 'got 0'),
    (dict(max_batch_size=4), '8 exceeds .*4'),
    (dict(multiple_of=3), '8 is not a multiple of multiple_of=3'),
    (dict(test_interval=0), 'test_interval .* got 0'),
    (dict(policy='grow'), "policy .* got 'grow'"),
    (dict(criterion=0.1), r'criterion .* got 0\.1'),
    (dict(eps=-1.0), r'eps .* got -1\.0'),
    (dict(initial_accumulator_value=-1.0), r'got -1\.0'),
  ],
  ids=lambda bad: next(iter(bad)) if isinstance(bad, dict) else '',
)
def test_bad_options_are_refused_at_construction(norm, bad, sentence):
  options = dict(
    criterion=adaopt.norm_test(1.0), init_batch_size=8, max_batch_size=64
  )
  make = adaopt.adadagrad_norm if norm else adaopt.adadagrad
  with pytest.raises(ValueError, match=sentence):
    make(0.1, **(options | bad))


def _noisy(size, key=0):
  """Gradients and variances of as many steps, of two tensors."""
  rng = np.random.default_rng(key)
  return [
    (
      {'w': rng.normal(size=(2, 2)) + 0.5, 'b': rng.normal(size=2)},
      {'w': rng.uniform(2, 60), 'b': rng.uniform(2, 60)},
    )
    for _ in range(size)
  ]


def _walk(optimizer, steps, batch_sizes=None):
  """Sizes after, and parameters of, every step; of the sizes held, or given."""
  as_arrays = lambda tree: jax.tree.map(jnp.asarray, tree)
  params = as_arrays(jax.tree.map(np.zeros_like, steps[0][0]))
  state = optimizer.init(params)
  update = jax.jit(optimizer.update)
  sizes, history = [], []
  for i, (gradient, variance) in enumerate(steps):
    b = batch_sizes[i] if batch_sizes else optax.tree.get(state, 'batch_size')
    statistics = adaopt.GradientStatistics(
      jnp.int32(b), as_arrays(gradient), as_arrays(variance)
    )
    updates, state = update(
      statistics.mean, state, params, statistics=statistics
    )
    params = optax.apply_updates(params, updates)
    sizes.append(int(optax.tree.get(state, 'batch_size')))
    history.append(params)
  return sizes, history


def _adaptive_by_hand(steps, rate, b_0, b_max, gain):
  """The default criterion and policy of `adaptive` around SGD, in float64.

  b ← min(max(b, v̄ / max(m̄ − …, 0.01 …)), 1.1 b), averages of decay 0.95;
  x ← x − α(n) gain ḡ, with b that of this batch.
  """
  x = jax.tree.map(np.zeros_like, steps[0][0])
  b, examples, parts = b_0, 0, []
  sizes, history = [], []
  for gradient, variance in steps:
    power = sum((g**2).sum() for g in gradient.values())
    noise = sum(variance.values())
    parts.append((noise, power - noise / b, 0.01 * power))
    weights = 0.95 ** np.arange(len(parts) - 1, -1, -1)
    v, signal, floor = weights @ np.array(parts)
    factor = rate(examples) * gain(b, b_0)
    x = jax.tree.map(lambda p, g, f=factor: p - f * g, x, gradient)
    examples += b
    required = v / max(signal, floor)
    b = math.ceil(min(max(b, required), 1.1 * b, b_max))
    sizes.append(b)
    history.append(x)
  return sizes, history


@pytest.mark.slow
@pytest.mark.parametrize(
  ('options', 'gain'),
  [
    ({}, lambda b, b_0: b / b_0),
    (
      dict(scaling=adaopt.scale_by_batch_size(0.5)),
      lambda b, b_0: (b / b_0) ** 0.5,
    ),
    (dict(scaling=optax.identity()), lambda b, b_0: 1.0),
  ],
  ids=['default', 'root', 'none'],
)
@pytest.mark.parametrize(
  ('learning_rate', 'rate'),
  [
    (0.3, lambda examples: 0.3),
    (
      optax.linear_schedule(0.5, 0.1, 500),
      lambda examples: np.interp(examples, [0, 500], [0.5, 0.1]),
    ),
  ],
  ids=['number', 'schedule'],
)
def test_adaptive_is_its_algorithm_by_hand(options, gain, learning_rate, rate):
  steps = _noisy(24)
  # By a tenth, and not at all; and at once by what is required.
  for b_0, first, last in (4, [5, 6, 7, 8, 9], 37), (61, [64, 64], 64):
    hand_sizes, hand_params = _adaptive_by_hand(steps, rate, b_0, 200, gain)
    assert hand_sizes[: len(first)] == first
    assert hand_sizes[-4:] == 4 * [last]
    sizes, params = _walk(
      adaopt.adaptive(
        optax.sgd(1.0),
        learning_rate,
        init_batch_size=b_0,
        max_batch_size=200,
        **options,
      ),
      steps,
    )
    assert sizes == hand_sizes
    chex.assert_trees_all_close(params, hand_params, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_adaptive_has_the_criterion_policy_and_scaling_that_it_says():
  sizes = dict(init_batch_size=20, max_batch_size=5000)
  make = lambda **options: adaopt.adaptive(
    optax.adamw(1.0, weight_decay=0.1), 0.1, **sizes, **options
  )
  # ‖ḡ‖² = 24 and v = 360: 360 / (24 − 360 / 20) = 60 at first, and then less.
  gradient = {'w': np.full((2, 2), 2.0), 'b': np.full(2, 2.0)}
  steps = 10 * [(gradient, {'w': 200.0, 'b': 160.0})]
  default, found = _walk(make(), steps)
  explicit = dict(
    criterion=adaopt.debiased_norm_test(1.0),
    policy=adaopt.capped_growth(1.1),
    scaling=adaopt.scale_by_batch_size(1.0),
    multiple_of=1,
    test_interval=1,
  )
  same, expected = _walk(make(**explicit), steps)
  assert default == same
  assert default[:2] == [22, 25]
  assert default[-1] == default[-2]
  chex.assert_trees_all_equal(found, expected)
  for other in (
    dict(criterion=adaopt.norm_test(1.0)),
    dict(criterion=adaopt.debiased_norm_test(0.5)),
    dict(policy=jnp.maximum),
    dict(test_interval=2),
  ):
    assert _walk(make(**other), steps)[0] != default, other


@pytest.mark.slow
@pytest.mark.parametrize(
  ('learning_rate', 'scale'),
  [
    (0.1, optax.scale(0.1)),
    (
      optax.linear_schedule(0.1, 0.0, 300),
      adaopt.scale_by_example_schedule(optax.linear_schedule(0.1, 0.0, 300)),
    ),
  ],
  ids=['number', 'schedule'],
)
@pytest.mark.parametrize(
  'inner',
  [optax.adamw(1.0, weight_decay=0.3), optax.sgd(1.0, momentum=0.9)],
  ids=['adamw', 'momentum'],
)
def test_adaptive_is_the_chain_that_it_stands_for(inner, learning_rate, scale):
  options = dict(
    init_batch_size=4,
    max_batch_size=1024,
    multiple_of=2,
    test_interval=2,
    policy=adaopt.follow,
  )
  criterion = adaopt.gradient_noise_scale()
  chain = optax.chain(
    adaopt.adapt_batch_size(criterion, **options),
    inner,
    adaopt.scale_by_adascale(base_batch_size=4),
    scale,
  )
  adaptive = adaopt.adaptive(
    inner,
    learning_rate,
    criterion=criterion,
    scaling=adaopt.scale_by_adascale(base_batch_size=4),
    **options,
  )
  sizes, params = _walk(adaptive, _noisy(12))
  expected_sizes, expected = _walk(chain, _noisy(12))
  assert sizes == expected_sizes
  assert len(set(sizes)) > 2
  chex.assert_trees_all_equal(params, expected)


def test_adaptive_at_one_size_is_the_optimizer_with_that_rate():
  steps = _noisy(8)
  _, found = _walk(
    adaopt.adaptive(
      optax.adamw(1.0, weight_decay=0.3),
      0.05,
      init_batch_size=8,
      max_batch_size=8,
    ),
    steps,
  )
  _, expected = _walk(
    optax.chain(
      adaopt.schedule_batch_size(8), optax.adamw(0.05, weight_decay=0.3)
    ),
    steps,
  )
  # The rate times a sum in place of a sum of products.
  chex.assert_trees_all_close(found, expected, rtol=2e-6, atol=1e-7)


SIZES = dict(init_batch_size=8, max_batch_size=64)
BY_RATE = {
  'adaptive': lambda rate: adaopt.adaptive(optax.sgd(1.0), rate, **SIZES),
  'adadagrad': lambda rate: adaopt.adadagrad(
    rate, adaopt.norm_test(1.0), **SIZES
  ),
  'adadagrad_norm': lambda rate: adaopt.adadagrad_norm(
    rate, adaopt.norm_test(1.0), **SIZES
  ),
}


@pytest.mark.parametrize('name', BY_RATE)
@pytest.mark.parametrize(
  ('rate', 'sentence'),
  [
    (np.nan, 'learning_rate must be finite, got nan'),
    (-0.1, 'learning_rate must be at least 0, got -0.1: updates descend'),
    (jnp.float32(np.inf), 'learning_rate must be finite, got inf'),
    (None, 'learning_rate must be a number, got None'),
    ('0.5', "learning_rate must be a number, got '0.5'"),
    ([0.1], r'learning_rate must be a number, got \[0\.1\]'),
    (jnp.ones(2), 'learning_rate must be a number, got Array'),
  ],
  ids=['nan', 'negative', 'inf', 'none', 'string', 'list', 'array'],
)
def test_what_is_not_a_learning_rate_is_refused(name, rate, sentence):
  with pytest.raises(ValueError, match=sentence):
    BY_RATE[name](rate)


@pytest.mark.parametrize('name', BY_RATE)
def test_a_learning_rate_may_be_an_array_or_traced(name):
  def first_update(rate):
    gradient = jnp.array([3.0, -4.0])
    optimizer = BY_RATE[name](rate)
    return optimizer.update(
      gradient,
      optimizer.init(gradient),
      statistics=adaopt.GradientStatistics(8, gradient, jnp.float32(1)),
    )[0]

  expected = first_update(0.5)
  for rate in (np.float64(0.5), jnp.bfloat16(0.5), jnp.array(0.5)):
    np.testing.assert_array_equal(first_update(rate), expected)
  np.testing.assert_allclose(jax.jit(first_update)(0.5), expected, rtol=1e-6)
  assert np.all(np.sign(expected) == [-1, 1])


@pytest.mark.parametrize(
  ('bad', 'sentence'),
  [
    (dict(optimizer=None), 'optimizer must be an optax optimizer, got None'),
    (
      dict(optimizer=optax.sgd),
      r'got <function sgd .*call it first, as in sgd',
    ),
    (dict(optimizer=adaopt.adagrad), r'call it first, as in adagrad\('),
    (dict(criterion=adaopt.norm_test), r'norm_test makes one: call it, as in'),
    (dict(policy=adaopt.capped_growth), 'capped_growth makes one: call it'),
    (dict(scaling=1.0), r'scaling must be an optax optimizer, got 1\.0'),
    (
      dict(scaling=adaopt.scale_by_adascale),
      r'scaling .*call it first, as in scale_by_adascale\(…\)',
    ),
    (dict(init_batch_size=0), 'init_batch_size must be an integer .* got 0'),
    (dict(init_batch_size=128), 'init_batch_size=128 exceeds .*=64'),
    (dict(multiple_of=3), '8 is not a multiple of multiple_of=3'),
    (dict(test_interval=0), 'test_interval .* got 0'),
  ],
  ids=lambda bad: next(iter(bad)) if isinstance(bad, dict) else '',
)
def test_adaptive_refuses(bad, sentence):
  good = dict(optimizer=optax.sgd(1.0), learning_rate=0.1, **SIZES)
  with pytest.raises(ValueError, match=sentence):
    adaopt.adaptive(**(good | bad))


CONTRIB = {
  'dog': optax.contrib.dog(),
  'dowg': optax.contrib.dowg(),
  'prodigy': optax.contrib.prodigy(),
  'cocob': optax.contrib.cocob(),
  'mechanize': optax.contrib.mechanize(optax.adamw(1e-3)),
  'dadapt_adamw': optax.contrib.dadapt_adamw(),
  'schedule_free': optax.contrib.schedule_free_sgd(0.1),
  'muon': optax.contrib.muon(0.1),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', CONTRIB)
def test_optimizers_of_optax_contrib_adapt_and_step_as_they_do_alone(name):
  inner = CONTRIB[name]
  adapt = adaopt.adapt_batch_size(
    adaopt.norm_test(1.0), init_batch_size=4, max_batch_size=64
  )
  steps = _noisy(6)
  sizes, found = _walk(optax.chain(adapt, inner), steps)
  _, expected = _walk(optax.chain(adaopt.schedule_batch_size(4), inner), steps)
  chex.assert_trees_all_equal(found, expected)
  requirements = [
    sum(v.values()) / sum((g**2).sum() for g in gradient.values())
    for gradient, v in steps
  ]
  largest = np.maximum.accumulate(np.clip(np.ceil(requirements), 4, 64))
  assert sizes == largest.tolist()
  assert any(np.any(x != 0) for x in jax.tree.leaves(found[-1]))


@pytest.mark.slow
@pytest.mark.parametrize('name', CONTRIB)
def test_optimizers_of_optax_contrib_train_with_a_batch_size(name):
  optimizer = optax.chain(
    adaopt.adapt_batch_size(
      adaopt.norm_test(0.3), init_batch_size=4, max_batch_size=64
    ),
    CONTRIB[name],
  )
  target = jnp.array([[1.0, -2.0], [3.0, 0.5]])
  data = target[None] + jax.random.normal(jax.random.key(0), [128, 2, 2])
  step = adaopt.train_step(
    lambda w, batch: jnp.mean(jnp.sum((w[None] - batch) ** 2, (1, 2))),
    optimizer,
    micro_batch_size=16,
  )
  state = adaopt.init_train_state(jnp.zeros([2, 2]), optimizer)
  for _ in range(3):
    state, metrics = step(state, data)
  assert metrics.finite
  assert np.all(np.isfinite(state.params))
  assert np.any(np.asarray(state.params) != 0)
