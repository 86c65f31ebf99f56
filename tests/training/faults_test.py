"""Updates that are left out: what fit says of them, and of which examples."""

import logging
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adaopt
from adaopt import training
from adaopt.training import faults

N = 1000
BAD = 417  # the index of the example that is not finite
SEED = 3
DATASET = np.random.default_rng(0).normal(1.0, size=[N, 2]).astype(np.float32)
ONE_NAN = DATASET.copy()
ONE_NAN[BAD, 1] = np.nan
WHOLE = optax.chain(adaopt.schedule_batch_size(N), optax.sgd(0.1))
PARAMS = jnp.zeros([1, 2])


def loss_fn(params, batch):
  return jnp.mean((params - batch) ** 2)


def fit(dataset, *, steps=6, optimizer=WHOLE, loss_fn=loss_fn, **options):
  options = (
    dict(num_examples=steps * N, seed=SEED, max_micro_batch_size=256) | options
  )
  return [
    metrics
    for _, metrics in adaopt.fit(loss_fn, optimizer, PARAMS, dataset, **options)
  ]


@pytest.fixture
def warnings(caplog):
  """A function that returns the warnings so far."""
  with caplog.at_level(logging.WARNING, logger='absl'):
    yield lambda text: [
      r.getMessage() for r in caplog.records if text in r.getMessage()
    ]


def left_out(warnings):
  return warnings('updates in a row were left out')


def positions_of(index, epoch, n=N):
  positions = np.arange(epoch * n, (epoch + 1) * n)
  indices = np.asarray(training.example_indices(SEED, positions, n))
  return positions[indices == index].tolist()


@pytest.mark.slow
def test_one_row_in_a_thousand_is_named_once(warnings):
  """Every epoch, a batch, has it; the warning is of the third."""
  history = fit(ONE_NAN)
  assert [bool(m.finite) for m in history] == [False] * 6
  (warning,) = left_out(warnings)
  (position,) = positions_of(BAD, epoch=2)
  assert warning.startswith('3 updates in a row were left out, since the loss')
  assert (
    f'those of the examples at the positions {position} of the stream (in the '
    f'dataset {BAD}) are not'
  ) in warning


def test_the_warning_comes_with_the_third_update(warnings):
  assert faults.PATIENCE == 3
  fit(ONE_NAN, steps=2)
  assert not left_out(warnings)
  fit(ONE_NAN, steps=3)
  assert len(left_out(warnings)) == 1


def test_two_updates_in_a_row_and_a_finite_one_between_raise_no_warning(
  warnings,
):
  """Of batches of 500, every second one has the row."""
  optimizer = optax.chain(adaopt.schedule_batch_size(N // 2), optax.sgd(0.1))
  history = fit(ONE_NAN, optimizer=optimizer)
  finite = [bool(m.finite) for m in history]
  assert finite.count(False) == 6
  run = ''.join('.x'[not f] for f in finite)
  assert 'xxx' not in run
  assert not left_out(warnings)


def test_a_second_fault_after_a_finite_update_is_told_anew(warnings):
  observe = faults.observer(
    training.recipes.recipe_of(
      loss_fn,
      WHOLE,
      micro_batch_size=256,
      group_size=1,
      has_aux=False,
      draw=training.draw,
    ),
    jnp.asarray(ONE_NAN),
  )
  state = adaopt.init_train_state(PARAMS, WHOLE, seed=SEED)
  nothing = dict.fromkeys(adaopt.Metrics._fields)
  metrics = adaopt.Metrics(**nothing)._replace(
    examples=np.int32(N), batch_size=np.int32(N)
  )
  for finite in [False, False, True, *[False] * 5, True, *[False] * 3]:
    observe(state, metrics._replace(finite=np.bool_(finite)))
  assert len(left_out(warnings)) == 2


@pytest.mark.slow
def test_many_rows_are_counted_and_the_first_are_named(warnings):
  many = DATASET.copy()
  many[100:120] = np.inf
  fit(many, steps=3)
  (warning,) = left_out(warnings)
  named = re.search(r'positions ([\d, ]+) of the stream', warning)[1]
  positions = [int(x) for x in named.split(', ')]
  expected = [p for i in range(100, 120) for p in positions_of(i, epoch=2)]
  assert positions == sorted(expected)[: faults.SHOWN]
  indices = re.search(r'in the dataset ([\d, ]+)\)', warning)[1]
  assert set(map(int, indices.split(', '))) <= set(range(100, 120))
  assert f', and {20 - faults.SHOWN} more are not' in warning


@pytest.mark.slow
def test_the_group_of_a_row_is_named_by_its_first_example(warnings):
  fit(ONE_NAN, group_size=4)
  (warning,) = left_out(warnings)
  (position,) = positions_of(BAD, epoch=2)
  first = position - position % 4
  index = int(training.example_indices(SEED, jnp.array(first), N))
  assert (
    f'the groups of examples that start at the positions {first} of the stream '
    f'(in the dataset {index}) are not'
  ) in warning


@pytest.mark.slow
def test_a_sum_that_overflows_is_told_as_such(warnings):
  """Every loss is below the largest number, and their sum is not."""
  large = lambda params, batch: loss_fn(params, batch) + 3e36
  history = fit(DATASET, loss_fn=large, steps=3)
  assert not any(m.finite for m in history)
  (warning,) = left_out(warnings)
  assert 'that of every example is, and only their sum is not' in warning


def test_own_draws_have_positions_and_no_index(warnings):
  def draw(dataset, seed, positions):
    del seed
    return dataset[positions % N]

  fit(ONE_NAN, draw=draw)
  (warning,) = left_out(warnings)
  assert f'the positions {2 * N + BAD} of the stream are not' in warning
  assert 'dataset' not in warning


def test_a_dataset_of_many_arrays_and_an_own_micro_batch(warnings):
  def of_both(params, batch):
    return loss_fn(params, batch['x']) * jnp.mean(batch['scale'])

  rows = {'x': ONE_NAN, 'scale': np.ones(N, np.float32)}
  single = lambda params, batch: jnp.mean(
    batch['scale'] * jnp.mean((params - batch['x']) ** 2, 1)
  )
  fit(rows, loss_fn=single, max_micro_batch_size=48)
  (warning,) = left_out(warnings)
  assert f'(in the dataset {BAD})' in warning


def dropped(params, batch, key):
  keep = jax.random.bernoulli(key, 0.5, batch.shape)
  return jnp.mean((params - jnp.where(keep, batch, 0)) ** 2)


@pytest.mark.slow
def test_the_random_numbers_of_the_step_are_drawn_again(warnings):
  """The row is named only where its mask lets it through."""
  fit(ONE_NAN, loss_fn=dropped, steps=12)
  passed = []
  for epoch in range(12):
    (position,) = positions_of(BAD, epoch)
    key = adaopt.example_keys(SEED, jnp.array([position]))[0]
    passed.append(bool(jax.random.bernoulli(key, 0.5, (1, 2))[0, 1]))
  run = ''.join('.x'[x] for x in passed)
  starts = [m.start() for m in re.finditer('xxx+', run)]
  expected = [positions_of(BAD, start + 2)[0] for start in starts]
  told = [
    int(re.search(r'positions (\d+) of', warning)[1])
    for warning in left_out(warnings)
  ]
  assert told == expected
  assert told


def test_a_check_that_cannot_tell_warns_and_training_goes_on(warnings):
  """The first of the examples is not finite, and those after it are."""
  n = 64
  first = int(training.example_indices(SEED, jnp.array(0), n))
  dataset = DATASET[:n].copy()
  dataset[first] = np.nan
  optimizer = optax.chain(adaopt.schedule_batch_size(8), optax.sgd(0.1))
  history = fit(
    dataset, optimizer=optimizer, num_examples=64, max_micro_batch_size=8
  )
  assert [bool(m.finite) for m in history] == [False] + [True] * 7
  (warning,) = warnings('could not be checked')
  assert 'The gradient of the first 8 examples is not finite' in warning
  assert not left_out(warnings)


def test_numbers_that_only_threefry_draws_cannot_be_checked(warnings):
  """A Poisson number takes keys of threefry, and a check makes others."""

  def noisy(params, batch, key):
    counts = jax.random.poisson(key, 3.0, batch.shape)
    return loss_fn(params, batch + counts)

  optimizer = optax.chain(adaopt.schedule_batch_size(8), optax.sgd(0.1))
  history = fit(
    DATASET,
    loss_fn=noisy,
    optimizer=optimizer,
    num_examples=16,
    max_micro_batch_size=8,
  )
  assert all(m.finite for m in history)
  (warning,) = warnings('could not be checked')
  assert 'poisson' in warning


def test_where_all_is_finite_nothing_is_said(warnings):
  assert all(m.finite for m in fit(DATASET))
  assert not warnings('')


def test_a_run_that_diverges_is_told_to_lower_the_learning_rate(warnings):
  optimizer = optax.chain(adaopt.schedule_batch_size(8), optax.sgd(1e30))
  fit(DATASET, optimizer=optimizer, num_examples=80, max_micro_batch_size=8)
  (warning,) = left_out(warnings)
  assert 'lower the learning rate' in warning


@pytest.mark.parametrize('donate', [False, True])
def test_the_examples_are_named_whatever_the_driver(warnings, donate):
  fit(ONE_NAN, driver=training.dispatched, donate=donate, steps=3)
  (warning,) = left_out(warnings)
  assert f'(in the dataset {BAD})' in warning


def test_a_mask_of_weights_is_followed(warnings):
  """A row that is not finite and has the weight 0 is one of those named."""

  def weighted(params, batch):
    errors = jnp.mean((params - batch['x']) ** 2, 1)
    return adaopt.WeightedLoss(
      jnp.sum(batch['m'] * errors), jnp.sum(batch['m'])
    )

  m = np.ones(N, np.float32)
  m[BAD] = 0
  fit({'x': ONE_NAN, 'm': m}, loss_fn=weighted)
  (warning,) = left_out(warnings)
  assert f'(in the dataset {BAD})' in warning


def fit_feed(dataset, loss_fn=loss_fn):
  """Batches of 100 from micro-batches of 64."""
  optimizer = optax.chain(adaopt.schedule_batch_size(100), optax.sgd(0.1))
  feed = adaopt.feed([*dataset], micro_batch_size=64)
  steps = adaopt.fit(loss_fn, optimizer, PARAMS, feed)
  return [metrics for _, metrics in steps]


def test_of_a_feed_the_first_micro_batch_is_looked_at(warnings):
  dataset = DATASET.copy()
  dataset[[105, 210, 307]] = np.inf
  history = fit_feed(dataset)
  assert [bool(m.finite) for m in history] == [True] + [False] * 3 + [True] * 6
  (warning,) = left_out(warnings)
  assert (
    'In the first micro-batch of the last batch those of the examples at the '
    'positions 307 of the stream are not'
  ) in warning
  dataset[307], dataset[399] = 0, np.inf
  fit_feed(dataset)
  *_, warning = left_out(warnings)
  assert 'In the first micro-batch of the last batch that of every' in warning


def test_a_loss_that_is_no_mean_is_found_in_a_feed():
  total = lambda params, batch: jnp.sum((params - batch) ** 2)
  with pytest.raises(ValueError, match='a sum over the examples'):
    fit_feed(DATASET, total)
