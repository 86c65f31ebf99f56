"""If these fail, a size moves within the warm-up, or never after it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adaopt
from adaopt.batch_size import hold_until

UPDATES = jnp.ones(1)
RAMP = adaopt.schedule_batch_size(optax.linear_schedule(4, 404, 100))


def _statistics(batch_size, variance=0.0):
  return adaopt.GradientStatistics(
    jnp.asarray(batch_size, jnp.int32), UPDATES, jnp.float32(variance)
  )


def _adapting(criterion=lambda statistics: statistics.variance, **options):
  bounds = dict(init_batch_size=4, max_batch_size=64) | options
  return adaopt.adapt_batch_size(criterion, **bounds)


HELD = jax.jit(hold_until(RAMP, 50).update)
PLAIN = jax.jit(RAMP.update)


@settings(max_examples=30, deadline=None, database=None, derandomize=True)
@given(used=st.lists(st.integers(1, 40), min_size=1, max_size=8))
def test_the_size_is_the_first_one_and_then_the_one_it_would_be(used):
  held, plain = hold_until(RAMP, 50).init(UPDATES), RAMP.init(UPDATES)
  seen = 0
  for b in used:
    seen += b
    _, held = HELD(UPDATES, held, statistics=_statistics(b))
    _, plain = PLAIN(UPDATES, plain, statistics=_statistics(b))
    expected = 4 if seen < 50 else plain.batch_size
    assert optax.tree.get(held, 'batch_size') == expected
    assert held.examples == seen


def test_a_criterion_averages_meanwhile_and_moves_the_size_at_the_end():
  plain = _adapting(
    adaopt.gradient_noise_scale(decay=0.5), policy=adaopt.follow
  )
  held = hold_until(plain, 12)
  state, other = held.init(UPDATES), plain.init(UPDATES)
  sizes, others = [], []
  for variance in (3.0, 9.0, 6.0, 8.0):
    statistics = _statistics(4, variance)
    _, state = held.update(UPDATES, state, statistics=statistics)
    _, other = plain.update(UPDATES, other, statistics=statistics)
    sizes.append(int(optax.tree.get(state, 'batch_size')))
    others.append(int(other.batch_size))
    assert state.inner_state.criterion_state == other.criterion_state
  assert sizes == [4, 4, *others[2:]]
  assert min(others) > 4


def test_a_largest_size_that_was_asked_for_early_comes_after_the_warm_up():
  transform = hold_until(_adapting(), 12)
  state, sizes = transform.init(UPDATES), []
  for _ in range(5):
    _, state = transform.update(UPDATES, state, statistics=_statistics(4, 1e9))
    sizes.append(int(optax.tree.get(state, 'batch_size')))
  assert sizes[:2] == [4, 4]
  assert sizes[3:] == [64, 64]  # At most one update late.


def test_it_goes_around_a_chain_and_passes_on_what_the_chain_takes():
  optimizer = hold_until(
    adaopt.adaptive(
      optax.sgd(1.0),
      0.5,
      init_batch_size=4,
      max_batch_size=64,
      criterion=lambda statistics: statistics.variance,
      policy=jnp.maximum,
    ),
    8,
  )
  state = optimizer.init(UPDATES)
  for expected in (4, 32):
    updates, state = optimizer.update(
      UPDATES, state, UPDATES, statistics=_statistics(4, 32.0)
    )
    np.testing.assert_array_equal(updates, [-0.5])
    assert optax.tree.get(state, 'batch_size') == expected


def test_thresholds_beyond_an_int32_are_reached():
  transform = hold_until(
    adaopt.schedule_batch_size(lambda n: jnp.where(n < 8, 8, 16)), 3 * 10**9
  )
  state = transform.init(UPDATES)
  for expected in (8, 16):
    _, state = transform.update(
      UPDATES, state, statistics=_statistics(3 * 10**9 // 2)
    )
    assert optax.tree.get(state, 'batch_size') == expected


def test_within_accumulate_it_counts_batches():
  optimizer = adaopt.accumulate(hold_until(RAMP, 8), group_size=2)
  state, sizes = optimizer.init(UPDATES), []
  for _ in range(6):
    _, state = optimizer.update(UPDATES, state, UPDATES)
    sizes.append(int(optax.tree.get(state, 'batch_size')))
  assert sizes[:4] == [4, 4, 4, 36]


@pytest.mark.parametrize(
  ('transform', 'sentence'),
  [
    (optax.sgd(0.1), 'holds 0 batch sizes instead of one'),
    (optax.chain(RAMP, RAMP), 'holds 2 batch sizes instead of one'),
    (
      adaopt.accumulate(RAMP, group_size=2),
      'pass it what is within accumulate',
    ),
  ],
)
def test_what_does_not_hold_a_whole_batch_size_is_refused(transform, sentence):
  with pytest.raises(ValueError, match=sentence):
    hold_until(transform, 8).init(UPDATES)
