"""Feeds that drop an example, take one twice, or train on other sizes."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adaopt
from adaopt import training

N, M, SEED = 60, 6, 3
rng = np.random.default_rng(0)
DATASET = {
  'x': rng.normal(1.0, size=[N, 3]).astype(np.float32),
  'row': np.eye(N, dtype=np.float32),
}
CRITERIA = {
  'total': adaopt.norm_test(0.4),
  'coordinate': adaopt.coordinate_norm_test(0.6),
  'along': adaopt.inner_product_test(0.3),
}


def loss_fn(params, batch):
  """The aux is the share of each example in the batch."""
  return jnp.mean((params - batch['x']) ** 2), jnp.mean(batch['row'], 0)


def optimizer_of(criterion, **options):
  sizes = dict(init_batch_size=3, max_batch_size=41) | options
  sizes |= dict(policy=adaopt.capped_growth(1.5))
  return optax.chain(
    adaopt.adapt_batch_size(criterion, **sizes), optax.sgd(0.02)
  )


OPTIMIZER = optimizer_of(CRITERIA['total'])
PARAMS = jnp.zeros([1, 3])


def in_stream_order(count):
  """The examples of the dataset in the order of the stream of its seed."""
  indices = training.example_indices(SEED, jnp.arange(count), N)
  return [{name: x[i] for name, x in DATASET.items()} for i in indices.tolist()]


def batched(examples, size=M):
  for start in range(0, len(examples), size):
    batch = examples[start : start + size]
    yield jax.tree.map(lambda *xs: np.stack(xs), *batch)


def train(feed, optimizer=OPTIMIZER, state=None, **options):
  """(state, metrics) of every step, on the host."""
  if state is None:
    state = adaopt.init_train_state(PARAMS, optimizer, seed=SEED)
  options = dict(has_aux=True, check=False) | options
  steps = adaopt.fit(loss_fn, optimizer, state, feed, **options)
  return [jax.device_get(pair) for pair in steps]


def assert_same(actual, expected):
  """Equal but for the order of sums."""
  assert len(actual) == len(expected)
  for (state, metrics), (other, others) in zip(actual, expected, strict=True):
    for name in ('step', 'examples', 'batch_size', 'next_batch_size'):
      assert getattr(metrics, name) == getattr(others, name), name
    chex.assert_trees_all_close(
      (state, metrics._replace(examples=0)),
      (other, others._replace(examples=0)),
      rtol=2e-5,
      atol=1e-6,
    )


@pytest.mark.parametrize('name', CRITERIA)
def test_a_fed_run_is_that_of_arrays_in_the_same_order(name):
  optimizer = optimizer_of(CRITERIA[name])
  expected = train(DATASET, optimizer, num_examples=150, max_micro_batch_size=M)
  sizes = {int(m.batch_size) for _, m in expected}
  assert len(sizes) > 3  # and most of them are no multiples of M
  feed = adaopt.feed(in_stream_order(200), micro_batch_size=M)
  assert_same(train(feed, optimizer, num_examples=150), expected)


def test_micro_batches_are_as_good_as_examples():
  expected = train(adaopt.feed(in_stream_order(200), micro_batch_size=M))
  chex.assert_trees_all_equal(
    train(adaopt.feed(batched(in_stream_order(200)))), expected
  )


@pytest.mark.parametrize('count', [50, 56, 7, 1])
@pytest.mark.parametrize('donate', [False, True])
def test_every_example_of_a_stream_is_taken_once(count, donate):
  """Shares times sizes are numbers of times, of the first `count` examples."""
  examples = [{'x': np.ones(3, 'f4'), 'row': row} for row in np.eye(count, N)]
  feed = adaopt.feed(examples, micro_batch_size=M)
  history = [m for _, m in train(feed, donate=donate)]
  taken = sum(m.batch_size * m.aux for m in history)
  expected = np.float32(np.arange(N) < count)
  np.testing.assert_allclose(taken, expected, rtol=1e-6)
  assert history[-1].examples == count
  # Each batch is as large as it was to be, but the last one.
  for before, m in itertools.pairwise(history[:-1]):
    assert m.batch_size == before.next_batch_size


def test_a_budget_ends_a_fed_run_as_any_other():
  ends = [
    m.examples
    for _, m in train(
      adaopt.feed(in_stream_order(200), micro_batch_size=M), num_examples=50
    )
  ]
  assert ends[-2] < 50 <= ends[-1]
