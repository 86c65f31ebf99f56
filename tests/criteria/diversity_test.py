"""DiveBatch against the gradients of all examples of an epoch.

A failure here means that an epoch ends early or late, that examples are
counted twice or lost between epochs, or that the batch size follows another
ratio than the paper's.
"""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import adaopt

RNG = np.random.default_rng(0)


def _statistics(g):
  """The statistics of a batch with per-example gradients g [b, d]."""
  return adaopt.GradientStatistics(
    jnp.int32(len(g)),
    jnp.asarray(oracles.mean(g), jnp.float32),
    jnp.float32(oracles.total_variance(g)),
  )


def _requirement(g, delta):
  """δ n Δ of n gradients [n, d]."""
  squares = sum(oracles.squared_norm(row) for row in g)
  return delta * len(g) * squares / oracles.squared_norm(g.sum(0))


@pytest.mark.parametrize('num_epochs', [1, 2])
def test_requirements_are_those_of_all_gradients_of_the_epochs(num_epochs):
  criterion = adaopt.criteria.gradient_diversity(
    0.1, num_examples=20, num_epochs=num_epochs
  )
  g = RNG.normal(size=(120, 3)) + 0.3
  sizes = [4, 6, 9, 7, 11, 3, 30, 16, 19, 15]
  assert sum(sizes) == len(g)
  state = criterion.init(jnp.zeros(3))
  position = start = 0
  complete = 0
  for size in sizes:
    required, state = criterion.update(
      _statistics(g[position : position + size]), state
    )
    position += size
    if position - start < 20 * num_epochs:
      assert jnp.isnan(required)
      assert state.examples == position - start
      continue
    # Float32 sums of up to 50 numbers of one size.
    np.testing.assert_allclose(
      required, _requirement(g[start:position], 0.1), rtol=1e-5
    )
    assert all(not jnp.any(leaf) for leaf in jax.tree.leaves(state))
    start, complete = position, complete + 1
  # 4 + 6 + 9 + 7 ≥ 20, 11 + 3 + 30, 16 + 19; or 4 + … + 3 ≥ 40, 30 + 16.
  assert complete == {1: 3, 2: 2}[num_epochs]


def test_equal_gradients_ask_for_delta_and_orthogonal_ones_for_n_times_it():
  # Δ = 1/n where all gradients are equal, 1 where they are orthogonal.
  for g, expected in ((np.ones((8, 8)), 0.5), (np.eye(8), 4.0)):
    criterion = adaopt.criteria.gradient_diversity(0.5, num_examples=8)
    required, _ = criterion.update(_statistics(g), criterion.init(jnp.zeros(8)))
    np.testing.assert_allclose(required, expected, rtol=1e-6)


def test_a_batch_size_moves_once_an_epoch_and_never_shrinks():
  transform = adaopt.adapt_batch_size(
    adaopt.criteria.gradient_diversity(1.0, num_examples=16),
    init_batch_size=8,
    max_batch_size=64,
  )
  updates = jnp.zeros(32)
  state = transform.init(updates)
  sizes = []
  # Orthogonal gradients, n Δ = 16; then equal ones, n Δ = 1.
  g = np.concatenate([np.eye(16, 32), np.ones((16, 32))])
  for batch in np.split(g, [8, 16]):
    _, state = transform.update(updates, state, statistics=_statistics(batch))
    sizes.append(int(state.batch_size))
  assert sizes == [8, 16, 16]


def test_a_batch_that_is_not_finite_is_left_out_of_the_epoch():
  transform = adaopt.adapt_batch_size(
    adaopt.criteria.gradient_diversity(1.0, num_examples=16),
    init_batch_size=8,
    max_batch_size=64,
  )
  g = RNG.normal(size=(16, 4))
  updates = jnp.zeros(4)
  state = transform.init(updates)
  bad = _statistics(g[:8])._replace(mean=jnp.full(4, jnp.inf))
  for stats in (_statistics(g[:8]), bad, _statistics(g[8:])):
    _, state = transform.update(updates, state, statistics=stats)
  np.testing.assert_allclose(state.required, _requirement(g, 1.0), rtol=1e-5)


@pytest.mark.parametrize(
  ('batch', 'expected'),
  [(np.zeros((4, 2)), np.nan), (np.array([[1.0, 0], [-1, 0]] * 2), np.inf)],
  ids=['no gradient', 'gradients that cancel'],
)
def test_degenerate_epochs(batch, expected):
  criterion = adaopt.criteria.gradient_diversity(1.0, num_examples=4)
  required, _ = criterion.update(
    _statistics(batch), criterion.init(jnp.zeros(2))
  )
  np.testing.assert_array_equal(required, expected)


def test_half_precision_gradients_add_up_in_float32():
  criterion = adaopt.criteria.gradient_diversity(1.0, num_examples=10**6)
  params = jnp.zeros(1, jnp.bfloat16)
  state = criterion.init(params)
  stats = adaopt.GradientStatistics(
    jnp.int32(1001), jnp.ones(1, jnp.bfloat16), jnp.float32(0)
  )
  for _ in range(2):
    _, state = criterion.update(stats, state)
  assert state.gradient.dtype == jnp.float32
  assert state.gradient == 2002


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (dict(delta=0.0), r'delta must be positive .* got 0\.0'),
    (dict(num_examples=0), 'num_examples must be an integer .* got 0'),
    (dict(num_epochs=1.5), r'num_epochs must be an integer .* got 1\.5'),
    (dict(num_epochs=2**30), r'num_epochs \* num_examples must be an integer'),
  ],
)
def test_a_constant_out_of_range_is_refused(options, message):
  with pytest.raises(ValueError, match=message):
    adaopt.criteria.gradient_diversity(
      **dict(delta=1.0, num_examples=4) | options
    )


def test_gradients_unlike_params_and_a_missing_variance_meet_a_sentence():
  criterion = adaopt.criteria.gradient_diversity(1.0, num_examples=4)
  stats = _statistics(np.eye(2))
  with pytest.raises(ValueError, match=r'outside of optax\.masked'):
    criterion.update(stats, criterion.init({'w': jnp.zeros(2)}))
  with pytest.raises(ValueError, match=r'gradient_diversity needs .*variance'):
    criterion.update(
      stats._replace(variance=None), criterion.init(jnp.zeros(2))
    )
