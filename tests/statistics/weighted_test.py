"""If these fail, a mean over tokens has another gradient, or another noise.

The reference starts from every example's ∇a_i and w_i in float64.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adaopt
from adaopt import training
from adaopt._common import losses
from adaopt.statistics import estimators, merging, reading
from tests.statistics import recording

DRIVERS = {'traced': training.traced, 'dispatched': training.dispatched}
RTOL = 1e-9  # of float64, where sums of squares lose a few digits
B, LENGTH = 12, 5


def make_params(dtype=np.float64):
  rng = np.random.default_rng(1)
  draw = lambda *shape: rng.normal(size=shape).astype(dtype)
  return {'embed': draw(7, 3), 'kernel': draw(3, 4), 'bias': draw(4)}


def make_batch(n=B, dtype=np.int32):
  """Sequences of up to five tokens; the fourth is all padding."""
  rng = np.random.default_rng(2)
  lengths = rng.integers(1, LENGTH + 1, size=n)
  lengths[3] = 0
  return {
    'token': rng.integers(7, size=(n, LENGTH)),
    'label': rng.integers(4, size=(n, LENGTH)),
    'class': rng.integers(4, size=n),
    'mask': (np.arange(LENGTH) < lengths[:, None]).astype(dtype),
  }


def _nll(logits, label):
  picked = jnp.take_along_axis(logits, label[..., None], -1)[..., 0]
  return jax.nn.logsumexp(logits, -1) - picked


def _logits(params, batch):
  hidden = jnp.tanh(params['embed'][batch['token']])
  bias = params['bias'].reshape(*[1] * (hidden.ndim - 1), -1)
  return jnp.tanh(hidden @ params['kernel'] + bias)


def token_mean(params, batch):
  nll = _nll(_logits(params, batch), batch['label'])
  mask = batch['mask']
  return adaopt.WeightedLoss(
    jnp.sum(jnp.where(mask != 0, nll, 0)), jnp.sum(mask)
  )


def class_weighted(params, batch):
  logits = jnp.mean(_logits(params, batch), 1)
  weight = jnp.asarray([0.5, 1.0, 3.0, 0.0])[batch['class']]
  nll = _nll(logits, batch['class'])
  return adaopt.WeightedLoss(jnp.sum(weight * nll), jnp.sum(weight))


LOSSES = {'tokens': token_mean, 'classes': class_weighted}


@functools.cache
def parts_of(loss_fn):
  """(params, batch) → the total, and the weight."""
  total = jax.jit(lambda params, batch: loss_fn(params, batch).total)
  weight = jax.jit(lambda params, batch: loss_fn(params, batch).weight)
  return total, weight


@functools.cache
def estimator(loss_fn, **options):
  return jax.jit(adaopt.value_and_statistics(loss_fn, **options))


def rows_of(loss_fn, params, batch, size=1):
  """A [J, d], w [J] and totals [J], of groups."""
  count = len(jax.tree.leaves(batch)[0])
  total, weight = parts_of(loss_fn)
  with jax.enable_x64(True):
    a = oracles.sample_gradients(total, params, batch, size)
    parts = [
      jax.tree.map(lambda x, i=i: x[i : i + size], batch)
      for i in range(0, count, size)
    ]
    w = np.array([float(weight(params, part)) for part in parts])
    t = np.array([float(total(params, part)) for part in parts])
  return a, w, t


def estimate(loss_fn, params, batch, **options):
  """(value, statistics) in float64."""
  with jax.enable_x64(True):
    run = estimator(loss_fn, **options)
    return jax.device_get(run(params, batch))


def close(actual, expected, rtol=RTOL, atol=1e-13):
  np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)


def assert_matrices(found, a, w, size, params, rtol):
  """The variances of matrices, the largest of whose numbers is the scale."""
  expected = oracles.ratio_matrix_variances(a, w, params, size)
  for actual, matrix in zip(jax.tree.leaves(found), expected, strict=True):
    close(actual, matrix, rtol, rtol * np.max(np.abs(matrix)))


def assert_statistics(found, a, w, size=1, params=None, rtol=RTOL):
  """The statistics of rows, of those that were computed."""
  params = make_params() if params is None else params
  close(oracles.ravel(found.mean), oracles.ratio(a, w), rtol)
  assert found.batch_size == size * len(a)
  close(found.weight, sum(w), rtol)
  if found.variance is not None:
    expected = oracles.ratio_tensor_variances(a, w, params, size)
    close(oracles.ravel(found.variance), expected, rtol)
  if found.coordinate_variance is not None:
    expected = oracles.ratio_coordinate_variances(a, w, size)
    close(oracles.ravel(found.coordinate_variance), expected, rtol)
  if found.matrix_variance is not None:
    assert_matrices(found.matrix_variance, a, w, size, params, rtol)
  if found.variance_along_mean is not None:
    expected = oracles.ratio_variance_along_mean(a, w, size)
    close(found.variance_along_mean, expected, rtol)


def every_only():
  names = reading.NOISE
  return [
    chosen
    for count in range(len(names) + 1)
    for chosen in itertools.combinations(names, count)
  ]


@pytest.mark.slow
@pytest.mark.parametrize('size', [1, 2, 3])
@pytest.mark.parametrize('name', LOSSES)
def test_the_statistics_are_those_of_a_ratio(name, size):
  params, batch = make_params(), make_batch()
  a, w, t = rows_of(LOSSES[name], params, batch, size)
  value, found = estimate(LOSSES[name], params, batch, group_size=size)
  close(value, sum(t) / sum(w))
  assert_statistics(found, a, w, size)


def test_the_sums_of_groups_are_those_of_their_examples():
  a, w, _ = rows_of(token_mean, make_params(), make_batch())
  groups, weights, _ = rows_of(token_mean, make_params(), make_batch(), 3)
  close(oracles.group_sums(a, 3), groups)
  close(oracles.group_sums(w, 3), weights)


@pytest.mark.slow
@pytest.mark.parametrize('only', every_only())
def test_any_choice_of_statistics_is_right_and_no_other_comes(only):
  params, batch = make_params(), make_batch()
  a, w, t = rows_of(token_mean, params, batch)
  value, found = estimate(token_mean, params, batch, only=only)
  close(value, sum(t) / sum(w))
  for name in reading.NOISE:
    assert (getattr(found, name) is not None) == (name in only)
  assert_statistics(found, a, w)


@pytest.mark.slow
@pytest.mark.parametrize('only', [reading.NOISE, ()])
def test_the_mean_is_the_gradient_of_the_ratio(only):
  def whole(params):
    loss = token_mean(params, make_batch())
    return loss.total / loss.weight

  with jax.enable_x64(True):
    expected = jax.value_and_grad(whole)(make_params())
  value, found = estimate(token_mean, make_params(), make_batch(), only=only)
  close(value, expected[0])
  jax.tree.map(close, found.mean, jax.device_get(expected[1]))


@pytest.mark.slow
@pytest.mark.parametrize('dtype', [bool, np.int32, np.uint8, np.float64])
def test_masks_of_any_type_weigh_alike(dtype):
  a, w, t = rows_of(token_mean, make_params(), make_batch())
  value, found = estimate(token_mean, make_params(), make_batch(dtype=dtype))
  close(value, sum(t) / sum(w))
  assert_statistics(found, a, w)


@pytest.mark.slow
@pytest.mark.parametrize('size', [1, 2])
@pytest.mark.parametrize('weight', [1.0, 3.0])
def test_equal_weights_are_no_weights(size, weight):
  batch = make_batch(dtype=np.float64)
  nll = lambda params, batch: _nll(_logits(params, batch), batch['label'])
  mean = lambda params, batch: jnp.mean(nll(params, batch))
  weighted = lambda params, batch: adaopt.WeightedLoss(
    weight * jnp.sum(jnp.mean(nll(params, batch), 1)),
    weight * len(batch['label']),
  )
  value, plain = estimate(mean, make_params(), batch, group_size=size)
  other, found = estimate(weighted, make_params(), batch, group_size=size)
  close(other, value)
  assert found.weight == weight * B
  close(found.weight_variance, 0)
  for name in ('batch_size', 'mean', *reading.NOISE):
    jax.tree.map(
      functools.partial(close, rtol=1e-11),
      getattr(found, name),
      getattr(plain, name),
    )
  assert (
    plain.weight is plain.weight_variance is plain.weight_covariance is None
  )


@pytest.mark.slow
@pytest.mark.parametrize('factor', [1e-3, 64.0])
def test_a_unit_of_weight_changes_nothing(factor):
  def scaled(params, batch):
    total, weight = token_mean(params, batch)
    weight = weight.astype(float)
    return adaopt.WeightedLoss(factor * total, factor * weight)

  value, plain = estimate(token_mean, make_params(), make_batch())
  other, found = estimate(scaled, make_params(), make_batch())
  close(other, value)
  close(found.weight, factor * plain.weight)
  jax.tree.map(close, found._replace(weight=plain.weight), plain)


@pytest.mark.slow
def test_an_example_without_weight_counts_among_the_examples_only():
  batch = make_batch()
  rest = jax.tree.map(lambda x: np.delete(x, 3, axis=0), batch)
  value, whole = estimate(token_mean, make_params(), batch)
  other, found = estimate(token_mean, make_params(), rest)
  close(value, other)
  jax.tree.map(close, whole.mean, found.mean)
  # (n / W)² M / (n − 1) for n = 12 and 11.
  share = (12**2 / 11) / (11**2 / 10)
  close(whole.variance_along_mean, share * found.variance_along_mean)


# Micro-batches.


def from_rows(a, w, size=1):
  """Moments of rows ∇a_j and weights of groups, by their sums."""
  with jax.enable_x64(True):
    return merging.from_sums(
      jnp.int32(len(a)),
      size,
      value=jnp.sum(jnp.asarray(w)),
      aux=(),
      mean=merging.divided(jnp.sum(jnp.asarray(a), 0), jnp.sum(jnp.asarray(w))),
      norms=jnp.sum(jnp.abs(a) ** 2),
      squares=jnp.sum(jnp.abs(a) ** 2, 0),
      weights=(
        jnp.sum(jnp.asarray(w)),
        jnp.sum(jnp.asarray(w) ** 2),
        jnp.asarray(w) @ jnp.asarray(a),
      ),
    )


def assert_finished(found, a, w, size, rtol):
  close(found.mean, oracles.ratio(a, w), rtol, rtol)
  close(found.weight, sum(w))
  variance = oracles.ratio_variance(a, w, size)
  close(found.variance, variance, rtol, rtol * variance)
  coordinates = oracles.ratio_coordinate_variances(a, w, size)
  close(found.coordinate_variance, coordinates, rtol, rtol * variance)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(
  sizes=st.lists(st.integers(1, 5), min_size=2, max_size=6),
  empty=st.sets(st.integers(0, 5)),
  q=st.integers(1, 3),
  seed=st.integers(0, 100),
)
def test_any_split_has_the_statistics_of_the_whole(sizes, empty, q, seed):
  """Also where whole micro-batches have no weight."""
  rng = np.random.default_rng(seed)
  count = sum(sizes)
  w = rng.integers(0, 6, size=count) * 1.0
  for index, part in enumerate(np.split(np.arange(count), np.cumsum(sizes))):
    if index in empty:
      w[part] = 0
  w[rng.integers(count)] = 2.0
  a = w[:, None] * (3 + rng.normal(size=(count, 4)))
  bounds = np.cumsum(sizes)[:-1]
  parts = [
    from_rows(rows, weights, q)
    for rows, weights in zip(
      np.split(a, bounds), np.split(w, bounds), strict=True
    )
  ]
  with jax.enable_x64(True):
    zeros = merging.zeros_like(parts[0])
    for order in (parts, parts[::-1]):
      merged = functools.reduce(merging.merge, order, zeros)
      assert_finished(merging.finish(merged), a, w, q, 1e-10)
    assert merged.examples == q * count


def test_totals_without_weight_are_left_at_zero_in_a_merge():
  a = np.zeros((2, 3))
  empty = from_rows(a, np.zeros(2))
  with jax.enable_x64(True):
    both = merging.merge(empty, empty)
    assert np.all(np.isnan(merging.finish(both).mean))
    assert not np.any(np.isnan(both.mean))


@pytest.mark.slow
@pytest.mark.parametrize('driver', DRIVERS.values(), ids=DRIVERS)
@pytest.mark.parametrize(
  ('micro_batch_size', 'size'),
  [(1, 1), (4, 1), (12, 1), (64, 1), (2, 2), (9, 3)],
)
def test_a_step_has_the_statistics_of_its_batch(driver, micro_batch_size, size):
  params, dataset = make_params(), make_batch(40)
  # Positions 0 … 11 of the stream: the seed has the empty example among them.
  seed = 0
  positions = np.asarray(
    adaopt.training.example_indices(seed, np.arange(B), 40)
  )
  batch = jax.tree.map(lambda x: x[positions], dataset)
  batch['mask'][2] = 0
  dataset['mask'][positions[2]] = 0
  a, w, t = rows_of(token_mean, params, batch, size)
  with jax.enable_x64(True):
    optimizer = recording.optimizer(B)
    step = adaopt.train_step(
      token_mean,
      optimizer,
      micro_batch_size=micro_batch_size,
      group_size=size,
      driver=driver,
    )
    state = adaopt.init_train_state(params, optimizer, seed=seed)
    state, metrics = step(state, dataset)
  found = recording.last(state.opt_state)
  assert found.examples == metrics.batch_size == B
  close(metrics.loss, sum(t) / sum(w))
  close(found.value, sum(t) / sum(w))
  close(oracles.ravel(found.mean), oracles.ratio(a, w))
  close(
    oracles.ravel(found.variance),
    oracles.ratio_tensor_variances(a, w, params, size),
  )
  close(
    oracles.ravel(found.coordinate_variance),
    oracles.ratio_coordinate_variances(a, w, size),
  )
  assert_matrices(found.matrix_variance, a, w, size, params, RTOL)
  close(metrics.variance, oracles.ratio_variance(a, w, size))


@pytest.mark.slow
@pytest.mark.parametrize('driver', DRIVERS.values(), ids=DRIVERS)
def test_a_step_measures_along_the_mean(driver):
  params, dataset = make_params(), make_batch()
  a, w, _ = rows_of(token_mean, params, dataset)
  with jax.enable_x64(True):
    optimizer = optax.chain(
      adaopt.adapt_batch_size(
        lambda s: s.variance_along_mean,
        init_batch_size=B,
        max_batch_size=64,
        policy=adaopt.batch_size.measure,
      ),
      optax.sgd(0.1),
    )
    step = adaopt.train_step(
      token_mean, optimizer, micro_batch_size=5, driver=driver
    )
    state, _ = step(adaopt.init_train_state(params, optimizer), dataset)
  required = optax.tree.get(state.opt_state, 'required')
  close(required, oracles.ratio_variance_along_mean(a, w), 1e-6)  # a float32


def weightless(dataset, where):
  mask = np.array(dataset['mask'])
  mask[where] = 0
  return dataset | {'mask': mask}


@pytest.mark.slow
@pytest.mark.parametrize('driver', DRIVERS.values(), ids=DRIVERS)
def test_a_batch_without_weight_is_left_out(driver):
  params = make_params(np.float32)
  optimizer = adaopt.adadagrad(
    0.1, adaopt.norm_test(0.5), init_batch_size=4, max_batch_size=12
  )
  step = adaopt.train_step(
    token_mean, optimizer, micro_batch_size=2, driver=driver
  )
  before = adaopt.init_train_state(params, optimizer)
  state, metrics = step(before, weightless(make_batch(), slice(None)))
  assert not metrics.finite
  assert np.isnan(metrics.loss)
  jax.tree.map(np.testing.assert_array_equal, state.params, before.params)
  jax.tree.map(np.testing.assert_array_equal, state.opt_state, before.opt_state)


@functools.cache
def recording_of_six(driver):
  optimizer = recording.optimizer(6)
  step = adaopt.train_step(
    token_mean, optimizer, micro_batch_size=2, driver=driver
  )
  return optimizer, step


@pytest.mark.slow
@pytest.mark.parametrize('empty', [0, 1, 2])
@pytest.mark.parametrize('driver', DRIVERS.values(), ids=DRIVERS)
def test_a_micro_batch_without_weight_changes_nothing(driver, empty):
  params = make_params(np.float32)
  optimizer, step = recording_of_six(driver)
  rows = adaopt.training.example_indices(0, np.arange(6), B)
  dataset = weightless(make_batch(), rows[2 * empty : 2 * empty + 2])
  batch = jax.tree.map(lambda x: x[rows], dataset)
  a, w, t = rows_of(token_mean, make_params(), batch)
  state, metrics = step(adaopt.init_train_state(params, optimizer), dataset)
  assert metrics.finite
  close(metrics.loss, sum(t) / sum(w), 1e-5)
  close(metrics.variance, oracles.ratio_variance(a, w), 1e-4)
  close(
    oracles.ravel(recording.last(state.opt_state).mean),
    oracles.ratio(a, w),
    1e-4,
    1e-6,
  )


def test_no_weight_leaves_no_number_in_an_estimate():
  value, found = estimate(
    token_mean, make_params(), weightless(make_batch(), slice(None))
  )
  assert np.isnan(value)
  assert found.weight == 0
  for name in ('mean', *reading.NOISE):
    assert np.all(np.isnan(oracles.ravel(getattr(found, name))))


@pytest.mark.slow
def test_fit_trains_on_a_mean_over_tokens():
  params = make_params(np.float32)
  optimizer = adaopt.adadagrad(
    0.3, adaopt.norm_test(0.5), init_batch_size=4, max_batch_size=64
  )
  dataset = make_batch(64)
  dataset['label'] = dataset['token'] % 4
  history = [
    metrics.loss
    for _, metrics in adaopt.fit(
      token_mean, optimizer, params, dataset, num_examples=3000
    )
  ]
  assert history[-1] < 0.7 * history[0]


# The accumulating form.


@functools.cache
def accumulating(size):
  """An optimizer that accumulates, and its compiled update."""
  inner = recording.optimizer(1, 2**20)
  optimizer = adaopt.accumulate(inner, weighted=True, group_size=size)
  return optimizer, jax.jit(optimizer.update)


def accumulated(parts, statistics_of, size=1):
  """What a test sees of these micro-batches, and the state."""
  optimizer, update = accumulating(size)
  params = make_params()
  total = sum(len(part['mask']) for part in parts)
  with jax.enable_x64(True):
    state = optimizer.init(params)
    state = optax.tree.set(state, batch_size=jnp.int32(total))
    for part in parts:
      value, statistics = statistics_of(part)
      _, state = update(
        statistics.mean, state, params, statistics=statistics, value=value
      )
    assert adaopt.has_updated(state)
  return recording.last(state)


def split(batch, bounds):
  pieces = {name: np.split(x, bounds) for name, x in batch.items()}
  count = len(bounds) + 1
  return [{name: x[i] for name, x in pieces.items()} for i in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize(
  ('bounds', 'size'),
  [([2, 5, 9], 1), ([3, 4], 1), ([4, 6], 2), ([6], 3)],
)
def test_accumulated_micro_batches_are_one_batch(bounds, size):
  """Also where a micro-batch is the one example that is all padding."""
  batch = make_batch()
  a, w, t = rows_of(token_mean, make_params(), batch, size)
  whole = estimator(token_mean, group_size=size)
  mean = estimator(token_mean, group_size=size, only=())

  def statistics_of(part):
    several = len(part['mask']) > size
    value, found = (whole if several else mean)(make_params(), part)
    if not several:
      nan = lambda like: jax.tree.map(
        lambda x: jnp.full(x.shape, jnp.nan), like
      )
      like = reading.shapes_of(found.mean, weighted=True)
      found = found._replace(
        variance=nan(like.variance),
        coordinate_variance=nan(like.coordinate_variance),
        matrix_variance=nan(like.matrix_variance),
        weight_covariance=jax.tree.map(jnp.zeros_like, found.mean),
      )
    return value, found

  found = accumulated(split(batch, bounds), statistics_of, size)
  assert found.examples == B
  close(found.value, sum(t) / sum(w))
  close(oracles.ravel(found.mean), oracles.ratio(a, w))
  close(
    oracles.ravel(found.variance),
    oracles.ratio_tensor_variances(a, w, make_params(), size),
  )
  close(
    oracles.ravel(found.coordinate_variance),
    oracles.ratio_coordinate_variances(a, w, size),
  )
  assert_matrices(found.matrix_variance, a, w, size, make_params(), RTOL)


@pytest.mark.parametrize('empty', [0, 1, 2])
def test_an_accumulated_micro_batch_without_weight_changes_nothing(empty):
  batch = weightless(make_batch(), slice(4 * empty, 4 * empty + 4))
  a, w, t = rows_of(token_mean, make_params(), batch)
  whole = estimator(token_mean)
  found = accumulated(
    split(batch, [4, 8]), lambda part: whole(make_params(), part)
  )
  close(found.value, sum(t) / sum(w))
  close(oracles.ravel(found.mean), oracles.ratio(a, w))
  close(
    oracles.ravel(found.variance),
    oracles.ratio_tensor_variances(a, w, make_params()),
  )


@pytest.mark.slow
def test_an_accumulated_batch_without_weight_is_left_out():
  optimizer = adaopt.accumulate(
    optax.chain(adaopt.schedule_batch_size(4), optax.sgd(0.1)), weighted=True
  )
  params = make_params(np.float32)
  state = optimizer.init(params)
  mean = estimator(token_mean, only=())
  empty = jax.tree.map(lambda x: x[:4], weightless(make_batch(), slice(None)))
  _, statistics = mean(params, empty)
  updates, state = optimizer.update(
    statistics.mean, state, params, statistics=statistics
  )
  assert not adaopt.has_updated(state)
  assert not np.any(oracles.ravel(updates))
  full = jax.tree.map(lambda x: x[4:8], make_batch())
  _, statistics = mean(params, full)
  updates, state = optimizer.update(
    statistics.mean, state, params, statistics=statistics
  )
  assert adaopt.has_updated(state)
  close(oracles.ravel(updates), -0.1 * oracles.ravel(statistics.mean), 1e-6)


@pytest.mark.slow
def test_the_weight_of_an_accumulated_batch_is_that_of_the_whole():
  seen = []
  adapt = adaopt.adapt_batch_size(
    lambda s: s.weight,
    init_batch_size=B,
    max_batch_size=64,
    policy=adaopt.batch_size.measure,
  )
  optimizer = adaopt.accumulate(adapt, weighted=True)
  params = make_params(np.float32)
  state = optimizer.init(params)
  whole = estimator(token_mean)
  for part in split(make_batch(), [4, 7]):
    _, statistics = whole(params, part)
    seen.append(float(statistics.weight))
    _, state = optimizer.update(
      statistics.mean, state, params, statistics=statistics
    )
  assert len(set(seen)) == 3
  assert (
    optax.tree.get(state, 'required') == sum(seen) == make_batch()['mask'].sum()
  )


@pytest.mark.slow
def test_weights_that_were_not_announced_meet_a_sentence():
  optimizer = adaopt.accumulate(recording.optimizer(B))
  params = make_params(np.float32)
  _, statistics = estimator(token_mean)(params, make_batch())
  with pytest.raises(ValueError, match='pass weighted=True to accumulate'):
    optimizer.update(
      statistics.mean, optimizer.init(params), params, statistics=statistics
    )


def plain_gradients(sizes, means, weights, size, **left_out):
  optimizer = adaopt.accumulate(
    recording.optimizer(sum(sizes)), group_size=size, weighted=True
  )
  params = jnp.zeros([])
  state = optimizer.init(params)
  for count, mean, weight in zip(sizes, means, weights, strict=True):
    statistics = adaopt.GradientStatistics(
      count, jnp.float32(mean), weight=weight, **left_out
    )
    _, state = optimizer.update(
      statistics.mean, state, params, statistics=statistics
    )
  assert adaopt.has_updated(state)
  return recording.last(state)


def test_plain_gradients_weigh_by_what_they_are_passed():
  means, weights = np.array([1.0, 4.0, -2.0]), np.array([6.0, 2.0, 1.0])
  found = plain_gradients([4, 4, 4], means, weights, 4)
  rows = (weights * means)[:, None]
  close(found.mean, oracles.ratio(rows, weights)[0], 1e-6)
  close(found.variance, oracles.ratio_variance(rows, weights, 4), 1e-6)


def test_plain_gradients_without_a_weight_weigh_as_their_examples():
  found = plain_gradients([4, 2], [1.0, 4.0], [None, None], 4)
  # As in merging_test: M = 4 · 1² + 2 · 2² over J − 1 = 1.
  assert found.mean == 2
  close(found.variance, 12, 1e-6)


def test_several_samples_need_all_that_merges():
  noise = {
    'variance': jnp.ones([]),
    'coordinate_variance': jnp.ones([]),
    'weight_covariance': jnp.ones([]),
    'weight_variance': jnp.ones([]),
  }
  plain_gradients([4], [1.0], [3.0], 1, **noise)
  for name in noise:
    with pytest.raises(
      ValueError, match=rf'accumulate needs statistics.{name}'
    ):
      plain_gradients([4], [1.0], [3.0], 1, **noise | {name: None})


# Transformations, dtypes and what is not measured.


@pytest.mark.slow
def test_estimates_scan_and_vmap():
  batches = jax.tree.map(lambda x: x.reshape(3, 4, *x.shape[1:]), make_batch())
  with jax.enable_x64(True):
    run = adaopt.value_and_statistics(token_mean)
    one = lambda batch: run(make_params(), batch)
    _, scanned = jax.lax.scan(lambda c, batch: (c, one(batch)), 0, batches)
    mapped = jax.jit(jax.vmap(one))(batches)
    alone = jax.jit(one)
    for i in range(3):
      batch = jax.tree.map(lambda x, i=i: x[i], batches)
      expected = alone(batch)
      for found in (scanned, mapped):
        jax.tree.map(lambda x, y, i=i: close(x[i], y), found, expected)


@pytest.mark.slow
def test_complex_parameters():
  def loss_fn(params, batch):
    errors = jnp.abs(batch['x'] @ params - batch['y'][:, None]) ** 2
    return adaopt.WeightedLoss(
      jnp.sum(batch['w'][:, None] * errors), jnp.sum(batch['w'])
    )

  rng = np.random.default_rng(3)
  draw = lambda *shape: rng.normal(size=shape) + 1j * rng.normal(size=shape)
  params = draw(3, 2)
  batch = {'x': draw(8, 3), 'y': draw(8), 'w': rng.integers(4, size=8)}
  a, w, _ = rows_of(loss_fn, params, batch)
  _, found = estimate(loss_fn, params, batch)
  assert_statistics(found, a, w, params=params)


def one_token(params, batch):
  """A sequence cut to its first token, of the weight of its length.

  XLA has no product of sequences in bfloat16 on a CPU for sizes as small.
  """
  first = {name: x[:, 0] for name, x in batch.items() if name != 'class'}
  weight = jnp.sum(batch['mask'], 1)
  nll = _nll(_logits(params, first), first['label'])
  return adaopt.WeightedLoss(jnp.sum(weight * nll), jnp.sum(weight))


@pytest.mark.slow
@pytest.mark.parametrize('only', [reading.NOISE, ()])
def test_half_precision(only):
  params = jax.tree.map(
    lambda x: jnp.asarray(x, jnp.bfloat16), make_params(np.float32)
  )
  wide = jax.tree.map(np.float64, params)
  a, w, t = rows_of(one_token, wide, make_batch())
  run = adaopt.value_and_statistics(one_token, only=only)
  value, found = jax.jit(run)(params, make_batch())
  assert {x.dtype for x in jax.tree.leaves(found.mean)} == {jnp.bfloat16.dtype}
  assert found.weight == sum(w)
  assert found.weight.dtype == jnp.float32
  # Eight bits in every activation.
  close(value, sum(t) / sum(w), 0.02)
  mean = oracles.ratio(a, w)
  close(
    np.float64(oracles.ravel(found.mean)), mean, 0.05, 0.02 * max(abs(mean))
  )
  if only:
    expected = oracles.ratio_tensor_variances(a, w, wide)
    close(oracles.ravel(found.variance), expected, 0.1)


@pytest.mark.parametrize('only', [reading.NOISE, ()])
def test_a_weight_is_not_differentiated(only):
  def loss_fn(params, batch):
    weight = jnp.sum(jnp.exp(params) * batch**2)
    return adaopt.WeightedLoss(jnp.sum(params * batch), weight)

  batch = np.arange(1.0, 5.0)
  value, found = estimate(loss_fn, np.float64(0.5), batch, only=only)
  weights = np.exp(0.5) * batch**2
  close(value, 0.5 * sum(batch) / sum(weights))
  close(found.mean, sum(batch) / sum(weights))
  if only:
    expected = oracles.ratio_variance(batch[:, None], weights)
    close(found.variance, expected)
    expected = oracles.ratio_variance_along_mean(batch[:, None], weights)
    close(found.variance_along_mean, expected)


@pytest.mark.slow
def test_the_noise_of_resampled_batches_is_the_variance():
  """n Var(ḡ) over batches drawn with replacement is v, up to O(1/n).

  Of 4000 batches a variance is known to √(2 / 4000) = 2 %, and the
  linearisation is off by some 1/n, here 1/64, so that 10 % is beyond both. The
  variance of ∇a_i n / W without its −w_i ḡ is more than twice as large.
  """
  rng = np.random.default_rng(4)
  count, n, repeats = 200, 64, 4000
  w = rng.integers(0, 8, size=count) * 1.0
  a = w[:, None] * (2 + rng.normal(size=(count, 3)))
  population = {'a': a, 'w': w}

  def loss_fn(params, batch):
    return adaopt.WeightedLoss(
      jnp.sum(batch['a'] @ params), jnp.sum(batch['w'])
    )

  with jax.enable_x64(True):
    run = adaopt.value_and_statistics(loss_fn)
    drawn = rng.integers(count, size=(repeats, n))
    batches = jax.tree.map(lambda x: x[drawn], population)
    found = jax.jit(jax.vmap(run, (None, 0)))(np.zeros(3), batches)[1]
  found = jax.device_get(found)
  means = found.mean
  noise = n * np.var(means, 0, ddof=1)
  close(np.mean(found.coordinate_variance, 0), noise, 0.1)
  close(np.mean(found.variance), np.sum(noise), 0.1)
  center = np.mean(means, 0)
  along = means @ center / np.linalg.norm(center)
  close(np.mean(found.variance_along_mean), n * np.var(along, ddof=1), 0.1)
  plain = np.sum(np.var(a, 0)) / np.mean(w) ** 2
  assert plain > 2 * np.sum(noise)


BAD = {
  'rows of weights': (lambda t, w: (jnp.sum(t), w), r'weight must be a real'),
  'complex': (lambda t, w: (jnp.sum(t), jnp.sum(w) + 0j), r'weight must be'),
  'rows of totals': (lambda t, w: (t, jnp.sum(w)), r'total must be a real'),
}


@pytest.mark.parametrize('name', BAD)
def test_what_is_no_ratio_of_sums_is_refused(name):
  make, sentence = BAD[name]
  loss_fn = lambda params, x: adaopt.WeightedLoss(*make(params * x, x))
  x = jnp.ones(4)
  optimizer = optax.chain(adaopt.schedule_batch_size(2), optax.sgd(0.1))
  with pytest.raises(ValueError, match=sentence):
    adaopt.value_and_statistics(loss_fn)(1.0, x)
  with pytest.raises(ValueError, match=sentence):
    adaopt.per_example.squared_norms(loss_fn)(1.0, x)
  step = adaopt.train_step(loss_fn, optimizer, micro_batch_size=2)
  with pytest.raises(ValueError, match=sentence):
    step(adaopt.init_train_state(jnp.float32(1), optimizer), x)


@pytest.mark.slow
def test_the_forward_pass_along_a_gradient_sees_the_weights():
  params, batch = make_params(), make_batch()
  with jax.enable_x64(True):
    params, batch = jax.tree.map(jnp.asarray, (params, batch))
    samples, mask = losses.samples(batch, None, 2)
    loss = losses.checked(token_mean, False)
    mean = estimator(token_mean)(params, batch)[1].mean
    along = jax.jit(functools.partial(estimators.measure_along, loss))
    found = along(params, samples, mask, mean)
  a, w, _ = rows_of(token_mean, params, batch, 2)
  center = oracles.ratio(a, w)
  u = center / np.linalg.norm(center)
  close(found, np.sum((a @ u - w * np.linalg.norm(center)) ** 2) / 2)


# What users read of examples: g_i = (b / W) ∇a_i.


def test_reductions_are_of_shares_of_the_ratio():
  params, batch = make_params(), make_batch()
  a, w, t = rows_of(token_mean, params, batch)
  g = B / sum(w) * a
  rng = np.random.default_rng(5)
  direction = jax.tree.map(lambda x: rng.normal(size=x.shape), params)
  reduce = adaopt.per_example
  with jax.enable_x64(True):
    value, mean, norms = jax.jit(reduce.squared_norms(token_mean))(
      params, batch
    )
    products = jax.jit(reduce.inner_products(token_mean))(
      params, batch, direction
    )
    squares = jax.jit(reduce.second_moment(token_mean))(params, batch)
  close(value, sum(t) / sum(w))
  close(oracles.ravel(mean), np.mean(g, 0))
  close(norms, np.sum(g**2, 1))
  close(products, g @ oracles.ravel(direction))
  close(oracles.ravel(squares), np.mean(g**2, 0))


@pytest.mark.slow
@pytest.mark.parametrize('way', ['statistics', 'norms'])
def test_aux_is_averaged_by_weight_and_rows_are_kept(way):
  """A mean over no tokens is NaN, which an example of no weight may have."""

  def loss_fn(params, batch):
    loss = token_mean(params, batch)
    rows = jnp.sum(batch['mask'], 1)
    mean = jnp.sum(batch['mask'] * batch['label']) / loss.weight
    return loss, {'label': mean, 'length': rows}

  params, batch = make_params(), make_batch()
  with jax.enable_x64(True):
    if way == 'statistics':
      run = adaopt.value_and_statistics(loss_fn, has_aux=True)
    else:
      run = adaopt.per_example.squared_norms(loss_fn, has_aux=True)
    (_, aux), *_ = jax.jit(run)(params, batch)
  assert jax.tree.map(jnp.shape, aux) == {'label': (), 'length': (B,)}
  close(aux['label'], batch['label'][batch['mask'] == 1].mean())
  np.testing.assert_array_equal(aux['length'], batch['mask'].sum(1))
