"""Adam's second moments against gradients of examples, and Adam against both.

A failure here means a preconditioner of another moment than its name says, one
that explodes where nothing was measured, or a step that does not measure.
"""

import functools
import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

import adaopt
from adaopt import criteria, transforms

INF = float('inf')
MOMENTS = {
  'square of mean': transforms.square_of_mean,
  'mean of squares': transforms.mean_of_squares,
  'variance': transforms.variance_of_gradients,
  'at 3': transforms.square_at_batch_size(3, floor=0.1),
  'all signal': transforms.square_at_batch_size(INF),
}


def _expected(name, rows):
  """The moment by its definition over gradients of examples, [b, d]."""
  mean, variance = oracles.mean(rows), oracles.coordinate_variances(rows)
  return {
    'square of mean': abs(mean) ** 2,
    'mean of squares': oracles.mean(abs(rows) ** 2),
    'variance': variance,
    'at 3': np.maximum(
      abs(mean) ** 2 + (1 / 3 - 1 / len(rows)) * variance,
      0.1 * abs(mean) ** 2,
    ),
    'all signal': np.maximum(
      abs(mean) ** 2 - variance / len(rows), 0.01 * abs(mean) ** 2
    ),
  }[name]


def _statistics(rows):
  rows = np.asarray(rows)
  dtype = jnp.complex64 if np.iscomplexobj(rows) else jnp.float32
  return adaopt.GradientStatistics(
    jnp.int32(len(rows)),
    mean=jnp.asarray(oracles.mean(rows), dtype),
    coordinate_variance=jnp.float32(oracles.coordinate_variances(rows)),
  )


def _draws(steps, dim=4, seed=0):
  """Gradients of examples in batches of several sizes."""
  rng = np.random.default_rng(seed)
  sizes = rng.integers(2, 9, size=steps)
  return [rng.normal(0.3, 1, size=(b, dim)) for b in sizes]


@pytest.mark.slow
@pytest.mark.parametrize('name', MOMENTS)
def test_a_moment_is_that_of_the_gradients_of_examples(name):
  rng = np.random.default_rng(0)
  batch = {
    'x': jnp.asarray(rng.normal(size=(6, 3))),
    'y': jnp.asarray(rng.normal(size=6)),
  }
  params = {'w': jnp.asarray(rng.normal(size=3)), 'c': jnp.asarray(0.5)}

  def loss_fn(params, batch):
    errors = jnp.tanh(batch['x'] @ params['w'] + params['c']) - batch['y']
    return jnp.mean(errors**2)

  with jax.enable_x64(True):
    in_float64 = functools.partial(
      jax.tree.map, lambda x: jnp.asarray(np.asarray(x), jnp.float64)
    )
    params, batch = in_float64(params), in_float64(batch)
    _, statistics = adaopt.value_and_statistics(loss_fn)(params, batch)
    found = MOMENTS[name](statistics)
    rows = oracles.sample_gradients(loss_fn, params, batch)
  assert jax.tree.structure(found) == jax.tree.structure(params)
  # V is a difference of sums, whose rounding is about 1e-16 · b ḡ².
  np.testing.assert_allclose(
    oracles.ravel(found), _expected(name, rows), rtol=1e-11
  )


@pytest.mark.parametrize('n', [1, 2, 1.5])
def test_a_square_at_a_size_is_unbiased(n):
  # Over all pairs of draws from three gradients of examples.
  population = np.array([[1.0, 2.0], [3.0, -1.0], [-0.5, 0.5]])
  found = [
    transforms.square_at_batch_size(n)(_statistics(pair))
    for pair in itertools.product(population, repeat=2)
  ]
  variance = oracles.coordinate_variances(population) * 2 / 3
  expected = oracles.mean(population) ** 2 + variance / n
  np.testing.assert_allclose(np.mean(found, 0), expected, rtol=1e-6)


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(
  st.floats(-1e3, 1e3, width=32),
  st.floats(0, 1e6, width=32),
  st.integers(2, 10**6),
  st.floats(0.5, 1e6),
)
def test_moments_fall_with_the_size_between_their_ends(g, v, b, n):
  statistics = adaopt.GradientStatistics(
    jnp.int32(b), jnp.float32(g), coordinate_variance=jnp.float32(v)
  )
  at = lambda size: float(transforms.square_at_batch_size(size)(statistics))
  # Sums of three numbers of that order.
  atol = 1e-6 * (g**2 + 4 * v)
  assert at(1) == float(transforms.mean_of_squares(statistics))
  assert abs(at(b) - float(transforms.square_of_mean(statistics))) <= atol
  assert at(INF) <= at(2 * n) + atol <= at(n) + 2 * atol
  # Below 1e-30 squares are not normal numbers of float32.
  assert at(INF) >= 0.0099 * g**2 - 1e-30


def _oracle(name, draws, b1, b2, eps, eps_root):
  """Adam in float64, from averages as weighted sums."""
  updates = []
  for t in range(1, len(draws) + 1):
    average = lambda xs, beta, t=t: (
      sum(beta ** (t - 1 - i) * xs[i] for i in range(t))
      / sum(beta**i for i in range(t))
    )
    m = average([oracles.mean(rows) for rows in draws], b1)
    nu = average([_expected(name, rows) for rows in draws], b2)
    updates.append(m / (np.sqrt(nu + eps_root) + eps))
  return updates


def _run(transform, draws):
  step = jax.jit(lambda s, state: transform.update(s.mean, state, statistics=s))
  state = transform.init(_statistics(draws[0]).mean)
  found = []
  for rows in draws:
    update, state = step(_statistics(rows), state)
    found.append(update)
  return found, state


@pytest.mark.parametrize('name', MOMENTS)
def test_updates_are_those_of_the_formula(name):
  constants = dict(b1=0.8, b2=0.9, eps=1e-3, eps_root=1e-4)
  draws = _draws(steps=6)
  transform = transforms.scale_by_adam(**constants, second_moment=MOMENTS[name])
  found, _ = _run(transform, draws)
  # A dozen float32 operations; 1 − β is one of them.
  np.testing.assert_allclose(
    found, _oracle(name, draws, **constants), rtol=2e-5, atol=1e-6
  )


@pytest.mark.parametrize('is_complex', [False, True])
def test_the_square_of_the_mean_makes_it_that_of_optax(is_complex):
  draws = _draws(steps=5)
  if is_complex:
    draws = [rows + 1j * rows[:, ::-1] for rows in draws]
  ours = transforms.scale_by_adam(second_moment=transforms.square_of_mean)
  theirs = optax.scale_by_adam()
  found, state = _run(ours, draws)
  mean = _statistics(draws[0]).mean
  expected_state = theirs.init(mean)
  for rows, update in zip(draws, found, strict=True):
    expected, expected_state = theirs.update(
      _statistics(rows).mean, expected_state
    )
    np.testing.assert_allclose(update, expected, rtol=1e-5)
  assert isinstance(state, optax.ScaleByAdamState)
  assert state.nu.dtype == jnp.float32


def test_the_preconditioned_norm_test_reads_its_state():
  transform = transforms.scale_by_adam(eps=0.0)
  draws = _draws(steps=3)
  _, state = _run(transform, draws)
  d = criteria.adam_preconditioner(eps=0.0)(state)
  weights = 0.999 ** np.arange(2, -1, -1)
  moments = [_expected('mean of squares', rows) for rows in draws]
  nu = weights @ moments / weights.sum()
  np.testing.assert_allclose(d, nu**-0.5, rtol=1e-4)


@pytest.mark.parametrize('missing', [None, np.nan, np.inf])
def test_what_was_not_measured_leaves_the_preconditioner(missing):
  transform = transforms.scale_by_adam(b1=0.0, b2=0.9, eps=0.0)
  measured = _statistics([[1.0, 2.0], [3.0, -4.0]])
  unknown = None
  if missing is not None:
    unknown = measured._replace(
      coordinate_variance=jnp.full(2, jnp.float32(missing))
    )
  g = jnp.array([2.0, -1.0])
  state = transform.init(g)
  # First of all there is only the square of the gradient.
  first, state = transform.update(g, state, statistics=unknown)
  np.testing.assert_allclose(first, [1.0, -1.0], rtol=1e-5)
  for statistics in (measured, unknown, unknown):
    update, state = transform.update(g, state, statistics=statistics)
    # (1 + 9) / 2 and (4 + 16) / 2, behind the squares of 2 and −1.
    nu = (0.9 * np.array([4, 1]) + np.array([5, 10])) / 1.9
    np.testing.assert_allclose(update, g / np.sqrt(nu), rtol=1e-5)


def test_a_gradient_in_half_precision_is_averaged_in_float32():
  transform = transforms.scale_by_adam(second_moment=transforms.square_of_mean)
  g = jnp.full(3, 1e-3, jnp.bfloat16)
  state = transform.init(g)
  for _ in range(3):
    statistics = adaopt.GradientStatistics(jnp.int32(4), g)
    update, state = transform.update(g, state, statistics=statistics)
  assert update.dtype == jnp.bfloat16
  assert state.mu.dtype == state.nu.dtype == jnp.float32
  np.testing.assert_allclose(np.float32(update), 1.0, rtol=2**-7)


def test_a_mask_leaves_its_tensors_out():
  rows = np.array([[1.0, 2.0], [3.0, -4.0]])
  both = _statistics(rows)
  tree = lambda x: None if x is None else {'a': x[0], 'b': x[1]}
  statistics = both._replace(
    mean=tree(both.mean), coordinate_variance=tree(both.coordinate_variance)
  )
  transform = optax.masked(
    transforms.scale_by_adam(eps=0.0), {'a': True, 'b': False}
  )
  state = transform.init(statistics.mean)
  updates, _ = transform.update(statistics.mean, state, statistics=statistics)
  np.testing.assert_allclose(updates['a'], 2 / np.sqrt(5), rtol=1e-5)
  assert updates['b'] == -1.0


def test_a_partition_trains_some_of_the_tensors():
  adam = optax.chain(transforms.scale_by_adam(eps=0.0), optax.scale(-1.0))
  optimizer = optax.chain(
    adaopt.schedule_batch_size(2),
    optax.partition(
      {'adam': adam, 'frozen': optax.set_to_zero()},
      {'a': 'adam', 'b': 'frozen'},
    ),
  )
  step = adaopt.train_step(
    lambda params, batch: jnp.mean((params['a'] + params['b'] - batch) ** 2),
    optimizer,
    micro_batch_size=2,
    draw=lambda dataset, seed, positions: dataset[positions % 2],
  )
  params = {'a': jnp.array(0.0), 'b': jnp.array(0.0)}
  state = adaopt.init_train_state(params, optimizer)
  state, _ = step(state, jnp.array([1.0, 3.0]))
  # Gradients of −2 and −6.
  np.testing.assert_allclose(state.params['a'], 4 / np.sqrt(20), rtol=1e-5)
  assert state.params['b'] == 0


def test_decays_follow_the_batch_size():
  adam = optax.inject_hyperparams(
    transforms.scale_by_adam, static_args=('second_moment',)
  )
  optimizer = adaopt.follow_batch_size(
    adam(b1=0.0, b2=0.5, eps=0.0, second_moment=transforms.mean_of_squares),
    decays='b2',
  )
  small = _statistics([[1.0], [3.0]])
  large = _statistics([[1.0], [3.0], [2.0], [2.0]])
  state = optimizer.init(small.mean)
  _, state = optimizer.update(small.mean, state, statistics=small)
  unknown = large._replace(coordinate_variance=jnp.full(1, jnp.nan))
  for statistics in (large, unknown):
    update, state = optimizer.update(large.mean, state, statistics=statistics)
    # β = ¼ for twice the batch: a moment of 5 with the weight ⅛ of the
    # average, of 4.5 with ¾, over their sum ⅞.
    nu = (5 / 8 + 4.5 * 3 / 4) / (7 / 8)
    np.testing.assert_allclose(update, 2 / np.sqrt(nu), rtol=1e-5)


@pytest.mark.parametrize(
  'hold',
  [
    lambda: adaopt.schedule_batch_size(4),
    lambda: adaopt.adapt_batch_size(
      adaopt.norm_test(1e6),
      init_batch_size=4,
      max_batch_size=8,
      test_interval=100,
    ),
  ],
  ids=['scheduled', 'between tests'],
)
def test_every_step_measures(hold):
  optimizer = optax.chain(
    hold(),
    transforms.scale_by_adam(b2=0.5, eps=0.0),
    optax.scale(-1e-6),  # so small that the gradients stay
  )
  step = adaopt.train_step(
    lambda params, batch: jnp.mean((params - batch) ** 2),
    optimizer,
    micro_batch_size=2,
    draw=lambda dataset, seed, positions: dataset[positions % 4],
  )
  state = adaopt.init_train_state(jnp.array(0.0), optimizer)
  for t in (1, 2, 3):
    state, _ = step(state, jnp.array([1.0, 3.0, 2.0, 2.0]))
    # g = −2x, and their mean of squares is 4 (1 + 9 + 4 + 4) / 4.
    np.testing.assert_allclose(
      optax.tree.get(state.opt_state, 'nu'), 18 * (1 - 0.5**t), rtol=1e-5
    )


def test_a_moment_without_variance_costs_no_statistics():
  optimizer = optax.chain(
    adaopt.schedule_batch_size(1),
    transforms.scale_by_adam(second_moment=transforms.square_of_mean),
    optax.scale(-0.1),
  )
  step = adaopt.train_step(
    lambda params, batch: jnp.mean((params - batch) ** 2), optimizer
  )
  state = adaopt.init_train_state(jnp.array(0.0), optimizer)
  _, metrics = step(state, jnp.array([1.0, 3.0]))
  assert metrics.batch_size == 1
  assert np.isnan(metrics.variance)


def test_accumulated_gradients_measure_between_micro_batches():
  optimizer = adaopt.accumulate(
    optax.chain(
      adaopt.schedule_batch_size(8),
      transforms.scale_by_adam(eps=0.0),
      optax.scale(-1.0),
    ),
    group_size=4,
  )
  params = jnp.zeros(1)
  state = optimizer.init(params)
  for gradient in (1.0, 3.0):
    updates, state = optimizer.update(jnp.array([gradient]), state, params)
  # ḡ = 2 of 8 examples, V = 4 · 2: 4 + 7/8 · 8.
  np.testing.assert_allclose(updates, -2 / np.sqrt(11), rtol=1e-5)


@pytest.mark.slow
def test_it_trains():
  optimizer = adaopt.adaptive(
    optax.chain(
      transforms.scale_by_adam(b2=0.9, second_moment=MOMENTS['at 3']),
      optax.scale(-1.0),
    ),
    0.1,
    init_batch_size=8,
    max_batch_size=32,
    scaling=adaopt.scale_by_batch_size(0.5),
  )
  target = jnp.array([1.0, -2.0])
  data = target[None] + jax.random.normal(jax.random.key(0), [256, 2])
  *_, (state, _) = adaopt.fit(
    lambda params, batch: jnp.mean(jnp.sum((params[None] - batch) ** 2, -1)),
    optimizer,
    jnp.zeros(2),
    data,
    num_examples=2500,
  )
  # The mean of 256 draws is within 1/16 or so, and the noise of the last steps.
  np.testing.assert_allclose(state.params, target, atol=0.4)


def test_wrong_calls_are_told():
  with pytest.raises(ValueError, match=r'b2 must be below 1, got 1\.0'):
    transforms.scale_by_adam(b2=1.0)
  with pytest.raises(ValueError, match='second_moment must be a function'):
    transforms.scale_by_adam(second_moment='variance')
  with pytest.raises(ValueError, match='batch_size must be positive'):
    transforms.square_at_batch_size(0)
  transform = transforms.scale_by_adam()
  g = jnp.ones(2)
  state = transform.init(g)
  with pytest.raises(ValueError, match=r'scale_by_adam needs .* pass stat'):
    transform.update(g, state)
  with pytest.raises(ValueError, match=r'mean_of_squares needs .*coor'):
    transform.update(
      g, state, statistics=adaopt.GradientStatistics(jnp.int32(4), g)
    )


@pytest.mark.parametrize(
  'moment',
  [
    transforms.mean_of_squares,
    transforms.square_at_batch_size(1),
    transforms.square_at_batch_size(1.0, floor=1.0),
  ],
)
@pytest.mark.parametrize('flag', [False, True])
def test_of_one_example_it_is_the_square_without_a_variance(moment, flag):
  g = jnp.array([3.0, -0.5])
  with jax.debug_nans(flag), jax.debug_infs(flag):
    missing = jnp.full(2, -1.0 if flag else jnp.nan)
    statistics = adaopt.GradientStatistics(
      jnp.int32(1), g, coordinate_variance=missing
    )
    np.testing.assert_array_equal(moment(statistics), [9.0, 0.25])
    # So every step counts, not the first alone.
    transform = transforms.scale_by_adam(b2=0.5, second_moment=moment)
    state = transform.init(g)
    for factor in (1, 2):
      step = statistics._replace(mean=factor * g)
      _, state = transform.update(step.mean, state, statistics=step)
  np.testing.assert_allclose(
    state.nu, np.array([9, 0.25]) * (0.25 + 0.5 * 4), rtol=1e-6
  )


@pytest.mark.parametrize('name', [n for n in MOMENTS if n != 'square of mean'])
@pytest.mark.parametrize('flag', [jax.debug_nans, jax.debug_infs])
def test_what_was_not_measured_does_not_count_under_a_debugging_flag(
  name, flag
):
  g = jnp.array([2.0, -1.0])
  measured = _statistics([[1.0, 2.0], [3.0, -4.0]])
  transform = transforms.scale_by_adam(b2=0.9, second_moment=MOMENTS[name])

  def run(missing):
    state = transform.init(g)
    unknown = measured._replace(coordinate_variance=jnp.full(2, missing))
    for statistics in (unknown, measured, unknown):
      updates, state = transform.update(g, state, statistics=statistics)
    return updates, MOMENTS[name](unknown)

  expected, unmeasured = run(jnp.nan)
  assert np.all(np.isnan(unmeasured))
  with flag(True):
    found, unmeasured = run(-1.0)
  np.testing.assert_array_equal(unmeasured, [-1, -1])
  np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize('infinity', [np.float32(INF), np.array(INF)])
def test_every_infinite_size_is_one(infinity):
  statistics = _statistics([[1.0, 2.0], [3.0, -4.0]])
  found = transforms.square_at_batch_size(infinity)(statistics)
  np.testing.assert_array_equal(found, MOMENTS['all signal'](statistics))
