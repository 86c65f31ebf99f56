"""Feeds that drop an example, take one twice, or train on other sizes."""

import itertools

import chex
import grain
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
FIXED = optax.chain(adaopt.schedule_batch_size(M), optax.sgd(0.02))
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_smaller_batches_run_in_parts_of_a_micro_batch():
  """Of 32, 8 and 2, each with its program; the sums are the same."""
  examples = in_stream_order(150)
  expected = train(adaopt.feed(examples, micro_batch_size=M))
  assert_same(train(adaopt.feed(examples, micro_batch_size=32)), expected)


@pytest.mark.slow
def test_groups_are_whole_and_a_rest_that_fills_none_is_left_out():
  optimizer = optimizer_of(
    CRITERIA['total'], init_batch_size=4, max_batch_size=42, multiple_of=2
  )
  options = dict(optimizer=optimizer, group_size=2)
  examples = in_stream_order(51)
  expected = train(DATASET, num_examples=30, max_micro_batch_size=M, **options)
  feed = adaopt.feed(examples, micro_batch_size=M)
  actual = train(feed, **options)
  assert_same(actual[: len(expected)], expected)
  assert actual[-1][1].examples == 50


def dropped(params, batch, key):
  keep = jax.random.bernoulli(key, 0.5, batch['x'].shape)
  return loss_fn(params, {**batch, 'x': jnp.where(keep, batch['x'], 0)})


@pytest.mark.slow
def test_keys_are_those_of_the_positions():
  def train_dropped(dataset, **options):
    state = adaopt.init_train_state(PARAMS, OPTIMIZER, seed=SEED)
    options = dict(num_examples=40, has_aux=True, check=False) | options
    steps = adaopt.fit(dropped, OPTIMIZER, state, dataset, **options)
    return [jax.device_get(pair) for pair in steps]

  feed = adaopt.feed(in_stream_order(60), micro_batch_size=M)
  expected = train_dropped(DATASET, max_micro_batch_size=M)
  assert_same(train_dropped(feed), expected)


def test_a_model_state_is_merged_over_micro_batches_in_part():
  def moving(params, batch, model_state):
    mean = jnp.mean(batch['x'], 0)
    return loss_fn(params, batch)[0], 0.9 * model_state + 0.1 * mean

  def train_moving(dataset, **options):
    steps = adaopt.fit(
      moving,
      FIXED,
      PARAMS,
      dataset,
      model_state=jnp.zeros([3]),
      seed=SEED,
      check=False,
      num_examples=40,
      **options,
    )
    return [jax.device_get(pair) for pair in steps]

  expected = train_moving(DATASET, max_micro_batch_size=5)
  feed = adaopt.feed(in_stream_order(60), micro_batch_size=5)
  assert_same(train_moving(feed), expected)


def test_a_loop_of_ones_own_takes_the_same_steps():
  step = adaopt.feed_step(loss_fn, OPTIMIZER, has_aux=True)
  state = adaopt.init_train_state(PARAMS, OPTIMIZER, seed=SEED)
  feed = adaopt.feed(in_stream_order(50), micro_batch_size=M)
  expected = train(adaopt.feed(in_stream_order(50), micro_batch_size=M))
  history = []
  for _ in expected:
    state, metrics = step(state, feed)
    history.append(jax.device_get((state, metrics)))
  assert_same(history, expected)
  with pytest.raises(StopIteration, match='ended at 50'):
    step(state, feed)


def test_an_example_outside_of_the_batch_is_not_computed_with():
  """Its loss is not finite, and 0 times that is none either."""
  examples = in_stream_order(24)
  examples[9] = examples[9] | {'x': np.float32([np.inf, 1, 1])}
  feed = adaopt.feed(examples, micro_batch_size=8)
  finite = [bool(m.finite) for _, m in train(feed, FIXED)]
  assert finite == [True, False, True, True]


def test_a_buffer_may_be_filled_again():
  """As readers do that spare an allocation."""

  def filled_again():
    buffer = {'x': np.zeros(3, 'f4'), 'row': np.zeros(N, 'f4')}
    for example in in_stream_order(60):
      for name, x in example.items():
        buffer[name][:] = x
      yield buffer

  def batches_filled_again():
    buffer = {'x': np.zeros([M, 3], 'f4'), 'row': np.zeros([M, N], 'f4')}
    for batch in batched(in_stream_order(60)):
      for name, x in batch.items():
        buffer[name][:] = x
      yield buffer

  expected = train(adaopt.feed(in_stream_order(60), micro_batch_size=M))
  actual = train(adaopt.feed(filled_again(), micro_batch_size=M))
  chex.assert_trees_all_equal(actual, expected)
  chex.assert_trees_all_equal(
    train(adaopt.feed(batches_filled_again())), expected
  )


def test_one_micro_batch_is_read_ahead_and_no_more():
  read = 0

  def counted():
    nonlocal read
    for example in in_stream_order(60):
      read += 1
      yield example

  step = adaopt.feed_step(loss_fn, FIXED, has_aux=True)
  state = adaopt.init_train_state(PARAMS, FIXED)
  feed = adaopt.feed(counted(), micro_batch_size=M)
  for end in (1, 2, 3):
    state, _ = step(state, feed)
    assert read == (end + 1) * M


def test_an_update_that_a_line_search_makes_cannot_be_fed():
  optimizer = optax.chain(
    adaopt.schedule_batch_size(4),
    optax.sgd(1.0),
    optax.scale_by_backtracking_linesearch(5),
  )
  with pytest.raises(ValueError, match='a feed gives a batch once'):
    train(adaopt.feed(in_stream_order(60), micro_batch_size=M), optimizer)


SHAPES = [np.zeros(3, 'f4')] * 13 + [np.zeros(4, 'f4')]
BATCHES = [np.zeros([4, 3], 'f4'), np.zeros([3, 3], 'f4')]
BAD = {
  'ragged examples': (
    SHAPES,
    M,
    r'element 13 is float32\[4\], where the first one is float32\[3\]; pad',
  ),
  'other names': ([{'x': np.ones(3)}, {'y': np.ones(3)}], M, r"is \['y'\]"),
  'other dtype': ([np.zeros(3), np.zeros(3, 'f4')], M, r'element 1 is float32'),
  'short batch': (
    [*BATCHES, BATCHES[0]],
    None,
    'has 3 examples, fewer than the 4 of the first, and is not the last one',
  ),
  'long batch': (BATCHES[::-1], None, r'element 1 is float32\[4, 3\]'),
  'scalars as batches': (range(9), None, 'a scalar; every array of a feed'),
  'ragged batch': (
    [{'x': np.ones([4, 3]), 'y': np.ones(3)}],
    None,
    'leading axes of a feed must be equal',
  ),
  'objects': ([np.array([None, 1])], M, 'feed is of type object; a feed holds'),
  'strings': ([{'x': 'a'}], M, r"feed\['x'\] is of type <U1"),
  'nothing': ([], M, r'ended before the first 1 example\(s\)'),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', BAD)
def test_a_bad_source_meets_a_sentence(name):
  source, m, message = BAD[name]
  loss = lambda params, batch: jnp.mean((params - batch) ** 2)
  with pytest.raises(ValueError, match=message):
    for _ in adaopt.fit(
      loss,
      OPTIMIZER,
      PARAMS,
      adaopt.feed(source, micro_batch_size=m),
      check=False,
    ):
      pass


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'draw': adaopt.draw}, 'a feed has its own order.*pass draw with arrays'),
    ({'driver': training.traced}, 'pass driver with arrays only'),
    ({'max_micro_batch_size': 8}, 'pass max_micro_batch_size with arrays only'),
    ({'group_size': 4}, r'has 6 examples.* and that of group_size=4'),
    ({'num_examples': 0}, 'num_examples .* got 0'),
  ],
)
def test_options_that_a_feed_cannot_take_are_rejected(options, message):
  feed = adaopt.feed(in_stream_order(60), micro_batch_size=M)
  with pytest.raises(ValueError, match=message):
    train(feed, **options)


@pytest.mark.parametrize(
  'make',
  [
    lambda: iter([DATASET]),
    lambda: (x for x in [DATASET]),
    lambda: grain.MapDataset.source(DATASET['x']),
    lambda: {'x': grain.MapDataset.range(9).to_iter_dataset()},
  ],
)
def test_a_source_without_a_feed_meets_a_sentence(make):
  message = r'one element after the other; pass adaopt\.feed\(it\)'
  with pytest.raises(ValueError, match=message):
    train(make(), num_examples=10)


def test_what_no_feed_is_made_of_meets_a_sentence():
  with pytest.raises(ValueError, match='got ndarray; pass arrays to fit'):
    adaopt.feed(np.zeros([4, 3]))
  with pytest.raises(ValueError, match=r'micro_batch_size .* got 0'):
    adaopt.feed([1, 2], micro_batch_size=0)


def test_an_error_of_the_source_is_that_of_the_run():
  def broken():
    yield from in_stream_order(20)
    raise OSError('the disk is gone')

  feed = adaopt.feed(broken(), micro_batch_size=M)
  step = adaopt.feed_step(loss_fn, FIXED, has_aux=True)
  state = adaopt.init_train_state(PARAMS, FIXED)
  for _ in range(3):
    state, _ = step(state, feed)
  for _ in range(2):  # And not the end of a stream, when it is tried again.
    with pytest.raises(OSError, match='the disk is gone'):
      step(state, feed)
