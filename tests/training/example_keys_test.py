"""Random numbers of a loss function: a pure function of seed and position.

The masks of dropout are made known by an aux: the mean over the batch of every
example's mask in its own row. The oracle draws them by jax.random.fold_in and
trains in float64 numpy.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adaopt
from adaopt import training

N, HIDDEN, SEED, RATE = 24, 6, 11, 0.05
DRIVERS = {'traced': training.traced, 'dispatched': training.dispatched}
rng = np.random.default_rng(0)
DATASET = {
  'x': rng.normal(size=[N, 3]).astype(np.float32),
  'y': rng.normal(size=[N]).astype(np.float32),
  'row': np.eye(N, dtype=np.float32),
}
PARAMS = {
  'w': rng.normal(size=[3, HIDDEN]).astype(np.float32),
  'v': rng.normal(size=[HIDDEN]).astype(np.float32),
}


def loss_fn(params, batch, key):
  hidden = jnp.tanh(batch['x'] @ params['w'])
  mask = jax.random.bernoulli(key, 0.5, hidden.shape).astype(jnp.float32)
  outputs = (2 * mask * hidden) @ params['v']
  loss = jnp.mean((outputs - batch['y']) ** 2)
  return loss, (batch['row'].T @ mask / len(mask),)


def optimizer_of(criterion, size=8, largest=None, **options):
  return optax.chain(
    adaopt.adapt_batch_size(
      criterion, init_batch_size=size, max_batch_size=largest or size, **options
    ),
    optax.sgd(RATE),
  )


GROWING = optimizer_of(adaopt.norm_test(0.5), 6, 20)
INNER = optimizer_of(adaopt.inner_product_test(0.5), 7, 8 * N)
FIXED = optax.chain(adaopt.schedule_batch_size(8), optax.sgd(RATE))


def run(optimizer, steps, *, state=None, **options):
  """(state, metrics) of every step, on the host."""
  step = adaopt.train_step(loss_fn, optimizer, has_aux=True, **options)
  if state is None:
    state = adaopt.init_train_state(PARAMS, optimizer, seed=SEED)
  history = []
  for _ in range(steps):
    state, metrics = step(state, DATASET)
    history.append(jax.device_get((state, metrics)))
  return history


def fit(state, num_examples=80, **options):
  return [
    jax.device_get(pair)
    for pair in adaopt.fit(
      loss_fn,
      GROWING,
      state,
      DATASET,
      num_examples=num_examples,
      max_micro_batch_size=8,
      has_aux=True,
      **options,
    )
  ]


def seen(metrics):
  """The masks of a step, by the index of the example. [N, HIDDEN]."""
  size = int(metrics.batch_size)
  masks = np.asarray(metrics.aux[0], np.float64) * size
  np.testing.assert_allclose(masks, np.round(masks), atol=1e-4)
  return np.round(masks)


def positions_of(metrics):
  end, size = int(metrics.examples), int(metrics.batch_size)
  return np.arange(end - size, end)


def indices_of(positions):
  return np.asarray(training.example_indices(SEED, positions, N))


def drawn(positions):
  """The masks at positions of the stream, one key after the other."""
  key = jax.random.key(SEED)
  return np.stack(
    [
      jax.random.bernoulli(jax.random.fold_in(key, int(p)), 0.5, (1, HIDDEN))[0]
      for p in positions
    ]
  ).astype(np.float64)


def by_index(positions, masks):
  """The sum of the masks of each example, where an epoch ends in a batch."""
  total = np.zeros([N, HIDDEN])
  np.add.at(total, indices_of(positions), masks)
  return total


def gradients(params, positions, masks):
  """Of every example, in float64: w, then v. [b, 3 HIDDEN + HIDDEN]."""
  w, v = (np.asarray(params[k], np.float64) for k in ('w', 'v'))
  rows = []
  for i, mask in zip(indices_of(positions), masks, strict=True):
    x, y = (np.asarray(DATASET[k][i], np.float64) for k in ('x', 'y'))
    hidden = np.tanh(x @ w)
    error = 2 * ((2 * mask * hidden) @ v - y)
    inner = error * 2 * mask * v * (1 - hidden**2)
    rows.append(
      np.concatenate([np.outer(x, inner).ravel(), error * 2 * mask * hidden])
    )
  return np.stack(rows)


def flat(params):
  return np.concatenate([np.ravel(params['w']), np.ravel(params['v'])])


@pytest.fixture(scope='module')
def reference():
  return run(GROWING, 6, micro_batch_size=4, driver=training.traced)


@pytest.mark.slow
def test_every_mask_is_that_of_its_position(reference):
  sizes = [int(metrics.batch_size) for _, metrics in reference]
  assert len(set(sizes)) > 1
  assert int(reference[-1][1].examples) > N  # into another epoch
  for _, metrics in reference:
    positions = positions_of(metrics)
    expected = by_index(positions, drawn(positions))
    np.testing.assert_array_equal(seen(metrics), expected)


@pytest.mark.slow
def test_an_example_has_another_mask_in_every_epoch():
  positions = np.arange(2 * N)
  order = np.argsort(indices_of(positions), kind='stable')
  pairs = drawn(positions[order]).reshape(N, 2, HIDDEN)
  assert np.mean(np.any(pairs[:, 0] != pairs[:, 1], -1)) > 0.8


@pytest.mark.slow
def test_every_update_is_that_of_its_masks(reference):
  """Each against numpy, from the parameters before it."""
  before = PARAMS
  for state, metrics in reference:
    positions = positions_of(metrics)
    g = gradients(before, positions, drawn(positions))
    expected = flat(before) - RATE * g.mean(0)
    np.testing.assert_allclose(flat(state.params), expected, rtol=0, atol=3e-6)
    np.testing.assert_allclose(
      metrics.squared_norm, g.mean(0) @ g.mean(0), rtol=1e-4
    )
    if np.isfinite(metrics.variance):
      np.testing.assert_allclose(
        metrics.variance, g.var(0, ddof=1).sum(), rtol=1e-4
      )
    before = state.params


@pytest.mark.slow
@pytest.mark.parametrize('driver', DRIVERS.values(), ids=DRIVERS)
@pytest.mark.parametrize('micro_batch_size', [4, 8, 16])
def test_no_micro_batch_and_no_driver_changes_a_mask(
  reference, micro_batch_size, driver
):
  found = run(GROWING, 6, micro_batch_size=micro_batch_size, driver=driver)
  for (state, metrics), (like_state, like) in zip(
    found, reference, strict=True
  ):
    assert metrics.batch_size == like.batch_size
    np.testing.assert_array_equal(seen(metrics), seen(like))
    chex.assert_trees_all_close(state.params, like_state.params, atol=3e-6)


@pytest.mark.slow
def test_a_run_resumes_from_every_state_to_the_last_bit():
  history = fit(PARAMS, seed=SEED)
  assert len(history) > 4
  for done in range(1, len(history)):
    resumed = fit(history[done - 1][0])
    chex.assert_trees_all_equal(resumed, history[done:])


def test_fit_draws_the_masks_of_train_step(reference):
  history = fit(PARAMS, seed=SEED)
  for (_, metrics), (_, like) in zip(history, reference, strict=False):
    np.testing.assert_array_equal(seen(metrics), seen(like))


def test_another_seed_draws_other_masks():
  masks = [
    np.asarray(jax.random.bernoulli(key, 0.5, (64,)))
    for key in adaopt.example_keys(SEED + 1, jnp.arange(3))
  ]
  keys = jax.vmap(jax.random.fold_in, (None, 0))(
    jax.random.key(SEED), jnp.arange(3)
  )
  others = [np.asarray(jax.random.bernoulli(key, 0.5, (64,))) for key in keys]
  assert all(np.any(x != y) for x, y in zip(masks, others, strict=True))


@pytest.mark.slow
def test_every_hidden_unit_moves():
  """One mask for all would leave half of them where they were."""
  *_, (state, _) = run(FIXED, 3)
  moved = state.params['w'] != PARAMS['w']
  assert np.all(moved)
  assert np.all(state.params['v'] != PARAMS['v'])


@pytest.mark.slow
@pytest.mark.parametrize('optimizer', [GROWING, INNER], ids=['norm', 'inner'])
def test_a_loop_of_its_own_on_the_same_positions_is_the_step(optimizer):
  estimate = jax.jit(adaopt.value_and_statistics(loss_fn, has_aux=True))
  params, state = PARAMS, optimizer.init(PARAMS)
  start = 0
  for like_state, like in run(optimizer, 3, micro_batch_size=4):
    size = int(optax.tree.get(state, 'batch_size'))
    assert size == like.batch_size
    positions = start + jnp.arange(size)
    (loss, aux), statistics = estimate(
      params,
      adaopt.draw(DATASET, SEED, positions),
      key=adaopt.example_keys(SEED, positions),
    )
    updates, state = optimizer.update(
      statistics.mean, state, params, statistics=statistics
    )
    params, start = optax.apply_updates(params, updates), start + size
    np.testing.assert_allclose(loss, like.loss, rtol=1e-5)
    np.testing.assert_array_equal(
      np.round(np.asarray(aux[0]) * size), seen(like)
    )
    chex.assert_trees_all_close(params, like_state.params, atol=3e-6)


@pytest.mark.slow
def test_one_key_is_folded_with_the_index_of_an_example():
  """The key of the seed, at the beginning of the stream."""
  positions = jnp.arange(8)
  batch = adaopt.draw(DATASET, SEED, positions)
  estimate = adaopt.value_and_statistics(loss_fn, has_aux=True)
  chex.assert_trees_all_equal(
    estimate(PARAMS, batch, key=jax.random.key(SEED)),
    estimate(PARAMS, batch, key=adaopt.example_keys(SEED, positions)),
  )


@pytest.mark.slow
def test_accumulated_micro_batches_are_the_step():
  optimizer = adaopt.accumulate(FIXED)
  estimate = adaopt.value_and_statistics(loss_fn, has_aux=True)

  @jax.jit
  def step(params, state, start):
    positions = start + jnp.arange(4)
    _, statistics = estimate(
      params,
      adaopt.draw(DATASET, SEED, positions),
      key=adaopt.example_keys(SEED, positions),
    )
    updates, state = optimizer.update(
      statistics.mean, state, params, statistics=statistics
    )
    return optax.apply_updates(params, updates), state

  params, state = PARAMS, optimizer.init(PARAMS)
  for i, (like, _) in enumerate(run(FIXED, 3, micro_batch_size=8)):
    for start in (8 * i, 8 * i + 4):
      params, state = step(params, state, start)
    assert adaopt.has_updated(state)
    chex.assert_trees_all_close(params, like.params, atol=3e-6)


@pytest.mark.slow
@pytest.mark.parametrize('driver', DRIVERS.values(), ids=DRIVERS)
def test_steps_with_and_without_a_test_draw_the_same_masks(driver):
  """The policy lets the size stay, whatever a test requires."""
  histories = [
    run(
      optimizer_of(
        adaopt.norm_test(0.5),
        8,
        64,
        test_interval=interval,
        policy=adaopt.batch_size.measure,
      ),
      4,
      micro_batch_size=4,
      driver=driver,
    )
    for interval in (1, 2, 4)
  ]
  tested = [[bool(np.isfinite(m.variance)) for _, m in h] for h in histories]
  assert tested[0] == [True] * 4
  assert tested[1].count(False) == 2
  assert tested[2].count(False) == 3
  for steps in zip(*histories, strict=True):
    states, metrics = zip(*steps, strict=True)
    for one, state in zip(metrics, states, strict=True):
      np.testing.assert_array_equal(seen(one), seen(metrics[0]))
      chex.assert_trees_all_close(state.params, states[0].params, atol=3e-6)


@pytest.mark.slow
@pytest.mark.parametrize('driver', DRIVERS.values(), ids=DRIVERS)
def test_the_second_pass_of_the_inner_product_test_sees_the_same_masks(driver):
  before = PARAMS
  for state, metrics in run(INNER, 3, micro_batch_size=4, driver=driver):
    positions = positions_of(metrics)
    g = gradients(before, positions, drawn(positions))
    mean = g.mean(0)
    expected = np.var(g @ mean, ddof=1) / (mean @ mean)
    np.testing.assert_allclose(metrics.variance_along_mean, expected, rtol=1e-4)
    other = gradients(before, positions, drawn(positions + 1000))
    assert (
      abs(np.var(other @ mean, ddof=1) / (mean @ mean) / expected - 1) > 0.01
    )
    before = state.params


@pytest.mark.slow
def test_a_group_draws_by_the_key_of_its_first_example():
  grouped = optax.chain(adaopt.schedule_batch_size(8), optax.sgd(RATE))
  ((_, metrics),) = run(grouped, 1, group_size=2, micro_batch_size=4)
  key = jax.random.key(SEED)
  masks = np.concatenate(
    [
      jax.random.bernoulli(jax.random.fold_in(key, p), 0.5, (2, HIDDEN))
      for p in range(0, 8, 2)
    ]
  )
  expected = by_index(np.arange(8), masks)
  np.testing.assert_array_equal(seen(metrics), expected)


@pytest.mark.slow
def test_a_state_at_a_late_position_draws_by_it():
  """Positions beyond 2²⁴ are told apart, which float32 would not do."""
  late = 2**29 + 1
  state = adaopt.init_train_state(PARAMS, FIXED, seed=SEED)
  state = state._replace(examples=jnp.int32(late))
  ((_, metrics),) = run(FIXED, 1, state=state, micro_batch_size=4)
  positions = late + np.arange(8)
  np.testing.assert_array_equal(
    seen(metrics), by_index(positions, drawn(positions))
  )
