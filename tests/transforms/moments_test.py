"""Moments at a change of batch size, against their definition in float64.

A failure here means that an average of other sizes stays, that a state begins
anew at every step, or that a second moment is scaled the wrong way.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adaopt
from adaopt.transforms import rescale_second_moment, reset_moments

NAN, INF = float('nan'), float('inf')
G = {'w': jnp.array([3.0, 0.0]), 'b': jnp.array(-4.0)}
PROPERTY = settings(
  max_examples=30, deadline=None, database=None, derandomize=True
)
SIZES = st.lists(st.integers(1, 10**6), min_size=1, max_size=7)


def _statistics(batch_size, variance=None, mean=G):
  if variance is not None:
    variance = {'w': jnp.float32(variance), 'b': jnp.float32(0)}
  return adaopt.GradientStatistics(jnp.int32(batch_size), mean, variance)


RESET = reset_moments(optax.scale_by_adam(), factor=2.0)
ADAM = optax.scale_by_adam()
RESET_UPDATE, ADAM_UPDATE = jax.jit(RESET.update), jax.jit(ADAM.update)


@PROPERTY
@given(sizes=SIZES)
def test_the_state_is_new_where_the_size_has_moved_by_the_factor(sizes):
  found, expected, base = RESET.init(G), ADAM.init(G), sizes[0]
  for b in sizes:
    if max(b, base) >= 2 * min(b, base):
      expected, base = ADAM.init(G), b
    one, found = RESET_UPDATE(G, found, G, statistics=_statistics(b))
    other, expected = ADAM_UPDATE(G, expected, G)
    chex.assert_trees_all_equal(found.inner_state, expected)
    chex.assert_trees_all_equal(one, other)
    assert found.base_batch_size == base


def test_sizes_that_creep_up_are_compared_with_the_last_reset():
  transform = reset_moments(optax.trace(1.0), factor=1.5)
  state, lengths = transform.init(G), []
  for b in (10, 11, 12, 13, 14, 15, 16, 22, 23):
    updates, state = transform.update(G, state, statistics=_statistics(b))
    lengths.append(float(updates['b']) / -4)
  assert lengths == [1, 2, 3, 4, 5, 1, 2, 3, 1]


def test_a_reset_reads_no_variance_and_a_rescaled_moment_does():
  loss_fn = lambda params, batch: jnp.mean((params - batch) ** 2)
  for transform, measures in (
    (reset_moments(optax.scale_by_adam()), False),
    (rescale_second_moment(optax.scale_by_adam()), True),
  ):
    optimizer = optax.chain(adaopt.schedule_batch_size(4), transform)
    step = adaopt.train_step(loss_fn, optimizer, micro_batch_size=4)
    state = adaopt.init_train_state(jnp.array(0.0), optimizer)
    _, metrics = step(state, jnp.arange(8.0))
    assert np.isfinite(metrics.variance) == measures


RESCALED = rescale_second_moment(
  optax.scale_by_rms(decay=0.9), decay=0.5, floor=0.1
)
RESCALED_UPDATE = jax.jit(RESCALED.update)


@PROPERTY
@given(
  sizes=SIZES,
  variances=st.lists(st.floats(0.0, 1e4), min_size=7, max_size=7),
)
def test_the_second_moment_is_scaled_by_its_expectation(sizes, variances):
  state = RESCALED.init(G)
  nu, last = np.zeros(3), sizes[0]
  parts = []
  for b, v in zip(sizes, np.float32(variances).astype(float), strict=False):
    _, state = RESCALED_UPDATE(G, state, statistics=_statistics(b, v))
    parts.append([v, 25 - v / b, 0.1 * 25])
    weights = 0.5 ** np.arange(len(parts), 0, -1)
    noise, signal, floor = weights @ np.array(parts)
    expected = lambda b, v=noise, m=max(signal, floor): m + v / b
    nu = 0.9 * nu * expected(b) / expected(last) + 0.1 * np.array([9, 0, 16])
    last = b
    found = optax.tree.get(state, 'nu')
    # Differences of float32, ‖ḡ‖² − v / b, down to a tenth of ‖ḡ‖².
    np.testing.assert_allclose([*found['w'], found['b']], nu, rtol=1e-4)


def test_of_averages_that_have_converged_it_is_what_the_new_size_would_have():
  # Gradients of N(F, v / b), long enough at 8 examples, then at 128.
  rng = np.random.default_rng(0)
  optimizer = rescale_second_moment(optax.scale_by_rms(decay=0.999), decay=0.99)
  gradient, deviation, d = 0.5, 3.0, 400
  mean_of = lambda b: gradient + deviation / np.sqrt(b) * rng.normal(size=d)
  update = jax.jit(optimizer.update)
  state = optimizer.init(jnp.zeros(d))

  def step(state, b):
    mean = jnp.asarray(mean_of(b), jnp.float32)
    statistics = adaopt.GradientStatistics(
      jnp.int32(b), mean, jnp.float32(d * deviation**2)
    )
    return update(mean, state, statistics=statistics)[1]

  for _ in range(300):
    state = step(state, 8)
  before = float(optax.tree.get(state, 'nu').mean())
  after = float(optax.tree.get(step(state, 128), 'nu').mean())
  ratio = (gradient**2 + 9 / 128) / (gradient**2 + 9 / 8)
  # 400 coordinates over some 100 steps: their mean is known to 1 or 2 %.
  np.testing.assert_allclose(after / before, ratio, rtol=0.03)


@pytest.mark.parametrize(
  ('mean', 'variance', 'sizes', 'expected'),
  [
    (0.0, 0.0, (8, 32), 1.0),  # Neither noise nor signal.
    (2.0, 0.0, (8, 32), 1.0),  # Signal alone.
    (1e-3, 1e6, (8, 32), 0.25),  # Noise alone.
    (1e-3, 1e6, (32, 8), 4.0),
    (2.0, None, (8, 32), 1.0),  # Nothing was measured.
    (2.0, NAN, (8, 32), 1.0),
    (2.0, INF, (8, 32), 1.0),
    (1e-3, 1e6, (8, 8), 1.0),
  ],
)
def test_degenerate_statistics_have_a_ratio(mean, variance, sizes, expected):
  transform = rescale_second_moment(optax.scale_by_rms(decay=1.0))
  mean = {'w': jnp.array([mean, 0.0]), 'b': jnp.float32(0)}
  state = optax.tree.set(transform.init(mean), nu=G)
  for b in sizes:
    statistics = _statistics(b, variance, mean)
    _, state = transform.update(mean, state, statistics=statistics)
  found = optax.tree.get(state, 'nu')
  np.testing.assert_allclose(found['b'] / G['b'], expected, rtol=1e-6)


def test_every_second_moment_of_a_chain_is_scaled():
  optimizer = rescale_second_moment(
    optax.chain(
      optax.masked(optax.scale_by_adam(b2=1.0), {'w': True, 'b': False}),
      optax.inject_hyperparams(optax.scale_by_rms)(decay=1.0),
    )
  )
  state = optimizer.init(G)
  ones = lambda nu: jax.tree.map(jnp.ones_like, nu)
  masked, injected = state.inner_state
  (adam,) = masked
  state = state._replace(
    inner_state=(
      masked._replace(inner_state=adam._replace(nu=ones(adam.nu))),
      injected._replace(
        inner_state=injected.inner_state._replace(
          nu=ones(injected.inner_state.nu)
        )
      ),
    )
  )
  noisy = jax.tree.map(lambda g: 1e-6 * g, G)
  for b in (8, 32):
    statistics = _statistics(b, 1e9, noisy)
    _, state = optimizer.update(noisy, state, noisy, statistics=statistics)
  masked, injected = state.inner_state
  nus = masked.inner_state.nu, injected.inner_state.nu
  assert [len(jax.tree.leaves(nu)) for nu in nus] == [1, 2]
  for nu in jax.tree.leaves(nus):
    np.testing.assert_allclose(nu, 0.25 * np.ones_like(nu), rtol=1e-6)


@pytest.mark.parametrize(
  'state',
  [
    optax.add_noise(0.1, 0.0, key=0).init(G),
    optax.AddNoiseState(jnp.int32(0), jax.random.PRNGKey(0)),
    (optax.EmptyState(), {'of mine': jax.random.key(0)}),
  ],
  ids=['of optax', 'old style', 'of no field'],
)
def test_random_draws_do_not_begin_anew(state):
  noisy = optax.identity()._replace(init=lambda params: state)
  with pytest.raises(ValueError, match=r'random key .* would repeat its draws'):
    reset_moments(noisy).init(G)
  # A parameter may have that name.
  reset_moments(optax.trace(0.9)).init({'key': G, 'rng_key': G})


@pytest.mark.parametrize(
  ('optimizer', 'sentence'),
  [
    (optax.adabelief(0.1), 'AdaBelief, which averages'),
    (optax.amsgrad(0.1), 'nu_max of AMSGrad'),
    (optax.masked(optax.amsgrad(0.1), {'w': True, 'b': False}), 'nu_max'),
  ],
)
def test_second_moments_of_another_kind_are_refused(optimizer, sentence):
  with pytest.raises(ValueError, match=sentence):
    rescale_second_moment(optimizer).init(G)


def test_the_variance_of_every_coordinate_moves_the_moment_as_their_sum():
  mean = {'w': jnp.array([3.0, 0.0]), 'b': jnp.float32(-4.0)}
  by_coordinate = {'w': jnp.array([100.0, 40.0]), 'b': jnp.float32(20.0)}
  transform = rescale_second_moment(optax.scale_by_rms(decay=1.0), decay=0.0)
  state = optax.tree.set(transform.init(mean), nu=G)
  for b in (8, 32):
    statistics = adaopt.GradientStatistics(
      jnp.int32(b), mean, coordinate_variance=by_coordinate
    )
    _, state = transform.update(mean, state, statistics=statistics)
  # v / b = 20, 5 and μ² = 25 − 5 = 20: 25 / 40.
  found = optax.tree.get(state, 'nu')['b']
  np.testing.assert_allclose(found, -4 * 25 / 40, rtol=1e-6)


def test_what_cannot_be_moved_is_refused():
  with pytest.raises(ValueError, match='a second moment, a field nu'):
    rescale_second_moment(optax.sgd(0.1)).init(G)
  held = optax.chain(adaopt.schedule_batch_size(4), optax.adam(0.1))
  with pytest.raises(ValueError, match='chain what holds it outside'):
    reset_moments(held).init(G)
  with pytest.raises(ValueError, match=r'factor must be above 1 .* got 1\.0'):
    reset_moments(optax.adam(0.1), factor=1.0)
