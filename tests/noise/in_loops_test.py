"""If these fail, the instrument does not fit a loop, or costs too much."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adaopt
from adaopt import noise
from adaopt.statistics import reading
from adaopt.training import stream

PARAMS = {'w': jnp.array([1.0, -2.0, 0.5]), 'b': jnp.array(0.3)}


def _loss(params, batch):
  predicted = batch['x'] @ params['w'] + params['b']
  return jnp.mean((predicted - batch['y']) ** 2)


_ESTIMATE = jax.jit(adaopt.value_and_statistics(_loss, only=('variance',)))


def _dataset(n=512):
  x = jax.random.normal(jax.random.key(0), [n, 3])
  return {'x': x, 'y': jnp.sin(3 * x[:, 0])}


def _instrument():
  return adaopt.noise_scale(half_life=1000)


def _state_in(opt_state):
  return noise.noise_estimates(noise.estimating.state_in(opt_state))


def _assert_same(actual, expected, rtol=1e-4):
  close = functools.partial(np.testing.assert_allclose, rtol=rtol, atol=1e-6)
  jax.tree.map(close, actual, expected)


def _beside(batches, params=PARAMS):
  """The state of an instrument beside a loop that does not move."""
  instrument = _instrument()
  state = instrument.init(params)
  for batch in batches:
    _, statistics = _ESTIMATE(params, batch)
    _, state = instrument.update(statistics.mean, state, statistics=statistics)
  return state


def _batches(size=32, steps=6):
  dataset = _dataset()
  for step in range(steps):
    yield adaopt.draw(dataset, 0, step * size + jnp.arange(size))


def test_updates_are_left_as_they_are():
  statistics = adaopt.GradientStatistics(
    jnp.int32(8), PARAMS, {'w': jnp.ones([]), 'b': jnp.ones([])}
  )
  updates = jax.tree.map(lambda p: -p, PARAMS)
  instrument = _instrument()
  found, _ = instrument.update(
    updates, instrument.init(PARAMS), PARAMS, statistics=statistics
  )
  assert found is updates


def test_train_step_measures_the_variances_alone():
  optimizer = optax.chain(
    adaopt.schedule_batch_size(32), _instrument(), optax.sgd(0.0)
  )
  opt_state = optimizer.init(PARAMS)

  def update(statistics, state):
    return optimizer.update(statistics.mean, state, statistics=statistics)

  reads = reading.reads_of(update, reading.shapes_of(PARAMS), opt_state)
  for read in reads:
    assert all(jax.tree.leaves(read.variance))
    assert not any(jax.tree.leaves(read.coordinate_variance))
    assert not read.variance_along_mean


@pytest.mark.slow
def test_fit_measures_what_a_loop_does_beside_it():
  optimizer = optax.chain(
    adaopt.schedule_batch_size(32), _instrument(), optax.sgd(0.0)
  )
  *_, (state, _) = adaopt.fit(
    _loss, optimizer, PARAMS, _dataset(), num_examples=6 * 32
  )
  expected = noise.noise_estimates(_beside(_batches()))
  # The same batches; sums over micro-batches of 16 in another order.
  _assert_same(_state_in(state.opt_state), expected)
  report = adaopt.noise_report(state.opt_state, PARAMS)
  assert (report.batch_size, report.examples) == (32, 6 * 32)
  assert [row.name for row in report.tensors] == ['b', 'w']


@pytest.mark.slow
def test_it_follows_a_batch_size_that_adapts():
  optimizer = optax.chain(
    _instrument(),
    adaopt.adaptive(
      optax.sgd(1.0), 0.01, init_batch_size=8, max_batch_size=256
    ),
  )
  states, metrics = zip(
    *adaopt.fit(_loss, optimizer, PARAMS, _dataset(), num_examples=4000),
    strict=True,
  )
  sizes = [int(m.batch_size) for m in metrics]
  assert sizes[-1] > sizes[0]
  report = adaopt.noise_report(states[-1].opt_state, PARAMS)
  assert report.examples == sum(sizes)
  assert report.batch_size == sizes[-1]
  assert report.total.low < report.total.noise_scale < report.total.high


@pytest.mark.slow
def test_accumulate_measures_between_micro_batches_of_plain_gradients():
  optimizer = adaopt.accumulate(
    optax.chain(adaopt.schedule_batch_size(32), _instrument(), optax.sgd(0.0)),
    group_size=8,
  )
  update = jax.jit(optimizer.update)
  state = optimizer.init(PARAMS)
  expected = _instrument().init(PARAMS)
  for batch in _batches():
    parts = [
      jax.tree.map(lambda x, i=i: x[8 * i : 8 * i + 8], batch) for i in range(4)
    ]
    gradients = [jax.grad(_loss)(PARAMS, part) for part in parts]
    for gradient in gradients:
      _, state = update(gradient, state, PARAMS)
    stacked = jax.tree.map(lambda *g: jnp.stack(g), *gradients)
    statistics = noise.between_micro_batches(stacked, micro_batch_size=8)
    _, expected = _instrument().update(
      statistics.mean, expected, statistics=statistics
    )
  _assert_same(_state_in(state), noise.noise_estimates(expected))


@pytest.mark.slow
def test_masked_measures_the_tensors_of_the_mask():
  masked = optax.masked(_instrument(), {'w': True, 'b': False})
  state = masked.init(PARAMS)
  for batch in _batches():
    _, statistics = _ESTIMATE(PARAMS, batch)
    updates, state = masked.update(
      statistics.mean, state, PARAMS, statistics=statistics
    )
    assert jax.tree.structure(updates) == jax.tree.structure(PARAMS)
  report = adaopt.noise_report(state, {'w': PARAMS['w']})
  whole = adaopt.noise_report(_beside(_batches()), PARAMS)
  np.testing.assert_allclose(report.tensors[0][1:], whole.tensors[1][1:], 1e-5)
  np.testing.assert_allclose(report.total[1:], whole.tensors[1][1:], 1e-5)


def test_a_mask_of_a_whole_layer():
  params = {'layer': dict(PARAMS), 'head': jnp.ones(2)}
  masked = optax.masked(_instrument(), {'layer': False, 'head': True})
  ones = jax.tree.map(jnp.ones_like, params)
  statistics = adaopt.GradientStatistics(
    jnp.int32(8), ones, jax.tree.map(lambda p: jnp.float32(4), params)
  )
  state = masked.init(params)
  _, state = masked.update(ones, state, statistics=statistics)
  found = _state_in(state)
  np.testing.assert_allclose(found.noise, [4, 4])
  np.testing.assert_allclose(found.signal, [1.5, 1.5])


@pytest.mark.slow
def test_a_scan_over_vmapped_runs_is_a_loop_over_steps():
  instrument = _instrument()
  batches = jax.tree.map(lambda *x: jnp.stack(x), *_batches())

  def run(params):
    def step(state, batch):
      _, statistics = _ESTIMATE(params, batch)
      return instrument.update(statistics.mean, state, statistics=statistics)[
        1
      ], None

    return jax.lax.scan(step, instrument.init(params), batches)[0]

  several = jax.tree.map(lambda p: jnp.stack([p, 2 * p]), PARAMS)
  found = jax.jit(jax.vmap(run))(several)
  for i, factor in enumerate((1, 2)):
    params = jax.tree.map(lambda p, f=factor: f * p, PARAMS)
    expected = _beside(_batches(), params)
    _assert_same(jax.tree.map(lambda x, i=i: x[i], found), expected)


@pytest.mark.slow
def test_a_batch_of_128_does_not_mislead():
  """The noise scale of a fixed network on real digits, whole and by tensor."""
  data = pytest.importorskip('sklearn.datasets').load_digits()
  images = jnp.asarray(data.data / 16, jnp.float32)
  labels = jnp.asarray(data.target, jnp.int32)
  keys = jax.random.split(jax.random.key(0))
  params = {
    'hidden': jax.random.normal(keys[0], [64, 16]) / 8,
    'output': jax.random.normal(keys[1], [16, 10]) / 4,
  }

  def loss_fn(params, batch):
    logits = jax.nn.relu(batch[0] @ params['hidden']) @ params['output']
    return optax.softmax_cross_entropy_with_integer_labels(
      logits, batch[1]
    ).mean()

  params = _trained(loss_fn, params, (images, labels))
  estimate = adaopt.value_and_statistics(loss_fn, only=('variance',))
  _, whole = jax.jit(estimate)(params, (images, labels))
  # Independent draws have the variance with the divisor n.
  n = len(labels)
  v = jnp.array(jax.tree.leaves(whole.variance)) * (n - 1) / n
  m = jnp.array([jnp.sum(g**2) for g in jax.tree.leaves(whole.mean)])
  truth = np.array([sum(v) / sum(m), *(v / m)])

  instrument = adaopt.noise_scale(half_life=1e9)

  def step(state, key):
    at = jax.random.randint(key, [128], 0, n)
    _, s = estimate(params, (images[at], labels[at]))
    plug_in = optax.tree.sum(s.variance) / optax.tree.norm(s.mean, squared=True)
    return instrument.update(s.mean, state, statistics=s)[1], plug_in

  keys = jax.random.split(jax.random.key(1), 400)
  run = jax.jit(lambda state: jax.lax.scan(step, state, keys))
  state, plug_in = run(instrument.init(params))
  found = jax.device_get(noise.noise_estimates(state))
  assert truth[0] > 256
  # One batch's ‖ḡ‖² holds v / 128 and more, so that no ratio is above 128.
  assert np.mean(plug_in) < 0.5 * truth[0]
  assert np.all(np.abs(found.noise_scale - truth) < 3 * found.standard_error)
  assert np.all(found.standard_error < 0.25 * truth)


def _trained(loss_fn, params, dataset, steps=300):
  """The parameters after some steps of SGD."""

  def step(params, position):
    batch = stream.draw(dataset, 0, 64 * position + jnp.arange(64))
    gradient = jax.grad(loss_fn)(params, batch)
    return jax.tree.map(lambda p, g: p - 0.2 * g, params, gradient), None

  return jax.jit(lambda p: jax.lax.scan(step, p, jnp.arange(steps))[0])(params)
