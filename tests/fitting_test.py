"""A loop that stops early or late, loses metrics, or spoils its arguments."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adaopt
from adaopt import drivers, fitting

OPTIMIZER = adaopt.adadagrad(
  0.5, adaopt.norm_test(0.5), init_batch_size=4, max_batch_size=64
)
DATASET = np.random.default_rng(0).normal(1.0, size=256).astype(np.float32)


def loss_fn(params, batch):
  return jnp.mean((params - batch) ** 2)


@functools.cache
def cached_step(micro_batch_size, driver):
  return adaopt.train_step(
    loss_fn, OPTIMIZER, micro_batch_size=micro_batch_size, driver=driver
  )


def start():
  return adaopt.init_train_state(jnp.zeros([]), OPTIMIZER, seed=1)


def fit(num_examples, state=None, driver=drivers.traced, **options):
  """(state on the host, metrics) of every iteration."""
  return [
    jax.device_get(pair)
    for pair in adaopt.fit(
      functools.partial(cached_step, driver=driver),
      start() if state is None else state,
      jnp.asarray(DATASET),
      num_examples=num_examples,
      **options,
    )
  ]


@pytest.mark.parametrize(
  ('batch_size', 'largest', 'expected'),
  [
    (2, 1024, 4),
    (5, 1024, 16),
    (60_000, 1024, 1024),
    (1024, 1024, 1024),
    (1, 1, 1),
    (2, 48, 3),
    (5, 48, 12),
    (100, 7, 7),
  ],
)
def test_rung_is_the_smallest_quartering_that_holds_the_batch(
  batch_size, largest, expected
):
  assert fitting.rung(batch_size, largest) == expected


def test_budget_ends_with_the_first_step_that_reaches_it():
  history = [metrics for _, metrics in fit(100)]
  ends = [int(m.examples) for m in history]
  assert ends[-2] < 100 <= ends[-1]
  assert [int(m.step) for m in history] == list(range(1, len(ends) + 1))
  sizes = [int(m.batch_size) for m in history]
  assert ends == np.cumsum(sizes).tolist()
  assert [int(m.next_batch_size) for m in history[:-1]] == sizes[1:]


def test_a_budget_of_one_step_yields_it_with_its_own_state():
  ((state, metrics),) = fit(1)
  assert int(state.examples) == int(metrics.examples) == 4


def test_the_state_is_a_step_ahead_except_at_the_end():
  pairs = fit(60)
  ahead = [int(state.step) - int(metrics.step) for state, metrics in pairs]
  assert ahead == [1] * (len(pairs) - 1) + [0]


def test_the_callers_state_stays_valid():
  state = start()
  fit(20, state)
  assert float(state.params) == 0.0


def test_a_run_resumed_from_any_of_its_states_is_the_run_to_the_last_bit():
  whole = fit(200)
  micro_batches = {fitting.rung(int(m.batch_size), 256) for _, m in whole}
  assert len(micro_batches) > 1
  for state, _ in whole[:-2]:
    rest = fit(200, jax.tree.map(jnp.asarray, state))
    assert 0 < len(rest) == len(whole) - int(state.step)
    chex.assert_trees_all_equal(whole[-len(rest) :], rest)


def test_a_spent_budget_yields_nothing():
  state = fit(50)[-1][0]
  assert fit(50, jax.tree.map(jnp.asarray, state)) == []


def test_drivers_agree():
  traced, dispatched = fit(150), fit(150, driver=drivers.dispatched)
  # The same sums, compiled apart.
  chex.assert_trees_all_close(traced, dispatched, rtol=1e-5)


def test_micro_batch_size_changes_nothing_but_rounding():
  for (_, a), (_, b) in zip(
    fit(150), fit(150, max_micro_batch_size=4), strict=True
  ):
    assert a.batch_size == b.batch_size
    np.testing.assert_allclose(a.loss, b.loss, rtol=1e-5)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'num_examples': 0}, 'num_examples .* got 0'),
    ({'num_examples': 1.5}, 'num_examples .* got 1.5'),
    ({'num_examples': 2**30}, 'too large'),
    ({'num_examples': 9, 'max_micro_batch_size': -1}, 'got -1'),
  ],
)
def test_bad_budgets_are_rejected_at_the_call(options, message):
  with pytest.raises(ValueError, match=message):
    adaopt.fit(cached_step, start(), DATASET, **options)
