"""The optimizers against the algorithms of the papers, step by step by hand.

A failure here means that a chain is put together wrongly: the new batch size
applies a step early or late, an option is lost on its way to a transform, the
sign is wrong, or a learning-rate schedule counts steps instead of examples.
"""

import math

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


@pytest.mark.parametrize('make', [adaopt.adagrad, adaopt.adagrad_norm])
def test_schedules_of_adagrad_count_steps(make):
  schedule = optax.linear_schedule(1.0, 0.0, transition_steps=4)
  found = _updates(make(schedule), [10, 40, 30])
  # The rate over the root of the number of gradients, all of them 1.
  expected = [-1, -0.75 / np.sqrt(2), -0.5 / np.sqrt(3)]
  np.testing.assert_allclose(found, expected, rtol=1e-6)


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
def test_without_statistics_adadagrad_is_adagrad(norm):
  gradient = jnp.array([3.0, -4.0])
  adaptive, plain = (
    (adaopt.adadagrad_norm, adaopt.adagrad_norm)
    if norm
    else (adaopt.adadagrad, adaopt.adagrad)
  )
  optimizer = adaptive(
    0.5, adaopt.norm_test(1.0), init_batch_size=8, max_batch_size=64
  )
  updates, state = optimizer.update(gradient, optimizer.init(gradient))
  expected, _ = plain(0.5).update(gradient, plain(0.5).init(gradient))
  np.testing.assert_array_equal(updates, expected)
  assert optax.tree.get(state, 'batch_size') == 8


@NORMS
def test_a_schedule_without_statistics_asks_for_them(norm):
  optimizer = (adaopt.adadagrad_norm if norm else adaopt.adadagrad)(
    optax.constant_schedule(0.5),
    adaopt.norm_test(1.0),
    init_batch_size=8,
    max_batch_size=64,
  )
  with pytest.raises(ValueError, match='pass statistics='):
    optimizer.update(jnp.ones(1), optimizer.init(jnp.ones(1)))


@pytest.mark.parametrize(
  ('make', 'bad'),
  [
    (adaopt.adagrad, dict(eps=-1.0)),
    (adaopt.adagrad, dict(eps_root=-1.0)),
    (adaopt.adagrad, dict(initial_accumulator_value=-1.0)),
    (adaopt.adagrad_norm, dict(eps=-1.0)),
    (adaopt.adagrad_norm, dict(initial_accumulator_value=-1.0)),
  ],
)
def test_negative_constants_are_refused_at_construction(make, bad):
  (name,) = bad
  with pytest.raises(ValueError, match=rf'{name} must be .* got -1\.0'):
    make(0.1, **bad)


@NORMS
@pytest.mark.parametrize(
  ('bad', 'sentence'),
  [
    (dict(init_batch_size=0), 'got 0'),
    (dict(max_batch_size=4), '8 exceeds .*4'),
    (dict(multiple_of=3), '8 is no multiple of 3'),
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
