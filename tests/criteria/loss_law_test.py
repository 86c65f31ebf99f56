"""If these fail, a loss asks for another batch than its power law says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adaopt
from adaopt.criteria import critical_batch_size

NAN, INF = float('nan'), float('inf')
STATISTICS = adaopt.GradientStatistics(jnp.int32(8), jnp.ones(2))
PROPERTY = settings(
  max_examples=60, deadline=None, database=None, derandomize=True
)


def _required(criterion, losses):
  state = criterion.init(STATISTICS.mean)
  for loss in losses:
    required, state = criterion.update(
      STATISTICS, state, value=jnp.float32(loss)
    )
  return required


@PROPERTY
@given(
  losses=st.lists(st.floats(0.05, 20.0), min_size=1, max_size=5),
  alpha=st.floats(0.1, 1.0),
  decay=st.floats(0.0, 0.95),
)
def test_it_is_the_power_of_the_average_loss(losses, alpha, decay):
  criterion = critical_batch_size(
    2e8, alpha, tokens_per_example=2048, decay=decay
  )
  weights = decay ** np.arange(len(losses) - 1, -1, -1, dtype=float)
  average = weights @ np.float64(losses) / weights.sum()
  expected = 2e8 / 2048 / average ** (1 / alpha)
  # A logarithm of up to 50 in float32, and the average to the power of 10.
  np.testing.assert_allclose(_required(criterion, losses), expected, rtol=3e-5)


def test_it_is_the_law_of_the_paper():
  # B_crit = 2·10⁸ tokens / L^(1/0.21), at the losses of its figure's ends.
  criterion = critical_batch_size(2e8, 0.21)
  for loss, tokens in ((1.0, 2e8), (4.0, 271_673), (10.0, 3460.1)):
    np.testing.assert_allclose(_required(criterion, [loss]), tokens, rtol=1e-3)


@pytest.mark.parametrize(
  ('loss', 'expected'),
  [
    (0.0, INF),
    (-1.0, INF),
    (1e-30, INF),
    (NAN, NAN),
    (INF, NAN),
    (-INF, NAN),
    (1e30, NAN),
  ],
)
def test_losses_without_a_power(loss, expected):
  found = _required(critical_batch_size(2e8, 0.21), [loss])
  np.testing.assert_array_equal(found, expected)


def test_a_doubling_policy_keeps_to_powers_of_two_times_the_first_size():
  transform = adaopt.adapt_batch_size(
    critical_batch_size(1000, 0.5, decay=0.0),
    init_batch_size=12,
    max_batch_size=96,
    policy=adaopt.batch_size.geometric_growth(2.0),
  )
  updates = jnp.ones(2)
  state, sizes = transform.init(updates), []
  # The law: 10, 20, 20, 40, still 40, and infinitely many.
  for loss in (10.0, 50**0.5, 50**0.5, 5.0, NAN, 0.0, 0.0):
    _, state = jax.jit(transform.update)(
      updates, state, statistics=STATISTICS, value=jnp.float32(loss)
    )
    sizes.append(int(state.batch_size))
  assert sizes == [12, 24, 24, 48, 48, 96, 96]


def test_the_step_measures_nothing_but_the_loss():
  optimizer = adaopt.adapt_batch_size(
    critical_batch_size(100, 0.5), init_batch_size=2, max_batch_size=64
  )
  step = adaopt.train_step(
    lambda params, batch: jnp.mean((params - batch) ** 2),
    optimizer,
    micro_batch_size=4,
  )
  state = adaopt.init_train_state(jnp.array(0.0), optimizer)
  state, metrics = step(state, 2 * jnp.ones([64]))
  assert np.isnan(metrics.variance)
  np.testing.assert_allclose(metrics.required, 100 / 4**2, rtol=1e-5)


def test_a_missing_loss_is_asked_for():
  criterion = critical_batch_size(2e8, 0.21)
  with pytest.raises(ValueError, match='critical_batch_size needs the loss'):
    criterion.update(STATISTICS, criterion.init(STATISTICS.mean))


@pytest.mark.parametrize('wrong', [NAN, INF, -INF])
def test_a_loss_that_is_not_finite_leaves_the_average(wrong):
  criterion = critical_batch_size(1000, 0.5, decay=0.5)
  expected = _required(criterion, [4.0, 2.0])
  for losses in (
    [wrong, 4.0, 2.0],
    [4.0, wrong, wrong, 2.0],
    [4.0, 2.0, wrong],
  ):
    assert _required(criterion, losses) == expected
  # (4 + 2 · 2) / 3.
  np.testing.assert_allclose(expected, 1000 / (8 / 3) ** 2, rtol=1e-5)


@pytest.mark.parametrize('value', [jnp.ones(2), 1j, 'loss', (1.0, 2.0)])
def test_what_is_no_real_scalar_is_no_loss(value):
  criterion = critical_batch_size(1000, 0.5)
  with pytest.raises(ValueError, match='value= to be the loss, a real scalar'):
    criterion.update(STATISTICS, criterion.init(STATISTICS.mean), value=value)
