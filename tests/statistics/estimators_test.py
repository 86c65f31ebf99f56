"""If these fail, the noise that every test compares is not the noise.

The reference is a Python loop over examples and the formulas of `oracles`.
"""

import functools
import itertools

import flax.linen as nn
import hypothesis
import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from flax import nnx
from hypothesis import strategies as st

import adaopt
from adaopt._common import losses
from adaopt.statistics import estimators, merging, reading

# Float64 rounds at 1e-16, float32 at 6e-8. A gradient here takes some ten
# roundings and S − J |ḡ|² cancels at most one digit, so that two more digits
# than the rounding leave nothing to chance and let no wrong formula pass.
RTOL = {np.float64: 1e-10, np.float32: 1e-5}

BATCH_SIZE = 12

# Everything, and the mean alone.
ONLY = [reading.NOISE, ()]


def _squared_error(params, batch):
  return jnp.mean((batch['x'] @ params - batch['y']) ** 2)


def _scaled_tanh(params, batch):
  layer = params['layer']
  outputs = jnp.tanh(batch['x'] @ layer['kernel'] + layer['bias'][None])
  return jnp.mean((params['scale'] * jnp.sum(outputs, 1) - batch['y']) ** 2)


def _mlp(params, batch):
  (w1, b1), (w2, b2) = params
  hidden = jnp.tanh(batch['x'] @ w1 + b1[None])
  logits = hidden @ w2 + b2[None]
  picked = jnp.take_along_axis(logits, batch['label'][:, None], 1)[:, 0]
  return jnp.mean(jax.nn.logsumexp(logits, 1) - picked)


def _coupled(params, batch):
  """The gradient of an example depends on the others of its sample."""
  outputs = batch['x'] @ params
  return jnp.mean((outputs - jnp.mean(outputs) - batch['y']) ** 2)


LOSSES = {
  'one array': _squared_error,
  'nested dict with a scalar': _scaled_tanh,
  'mlp in tuples': _mlp,
}


def _normal(*shape, seed=0):
  return np.random.default_rng([seed, *shape]).normal(size=shape)


def _params(name):
  return {
    'one array': lambda: _normal(3),
    'nested dict with a scalar': lambda: {
      'scale': np.array(0.7),
      'layer': {'kernel': _normal(3, 2), 'bias': _normal(2)},
    },
    'mlp in tuples': lambda: (
      (_normal(3, 4), _normal(4)),
      (_normal(4, 2), _normal(2)),
    ),
  }[name]()


def _batch(size=BATCH_SIZE, seed=0):
  return {
    'x': _normal(size, 3, seed=seed),
    'y': _normal(size, seed=seed),
    'label': np.random.default_rng(seed).integers(0, 2, size),
  }


@functools.cache
def _float64_reference(name):
  """The loss and the gradients G of all examples."""
  with jax.enable_x64(True):
    params, batch = _cast((_params(name), _batch()), jnp.float64)
    value = jax.device_get(LOSSES[name](params, batch))
    return value, oracles.sample_gradients(LOSSES[name], params, batch)


def _cast(tree, dtype):
  """The tree on the device, its floating arrays in a dtype."""
  cast = lambda x: jnp.asarray(x, dtype if x.dtype.kind == 'f' else None)
  return jax.tree.map(cast, tree)


def _assert_close(actual, expected, rtol):
  atol = rtol * np.max(np.abs(expected))
  np.testing.assert_allclose(actual, expected, rtol, atol)


def _assert_statistics(stats, gradients, *, rtol, group_size=1):
  """Compares statistics with those of the gradients G of all examples."""
  estimate = functools.partial(
    oracles.group_estimate, g=gradients, size=group_size
  )
  assert stats.batch_size == len(gradients)
  _assert_close(oracles.ravel(stats.mean), oracles.mean(gradients), rtol)
  structure = jax.tree.structure(stats.mean)
  for variance, shapes, expected in (
    (
      stats.variance,
      jax.tree.map(lambda _: (), stats.mean),
      lambda g: oracles.tensor_variances(g, stats.mean),
    ),
    (
      stats.coordinate_variance,
      jax.tree.map(jnp.shape, stats.mean),
      oracles.coordinate_variances,
    ),
  ):
    assert jax.tree.structure(variance) == structure
    assert jax.tree.map(jnp.shape, variance) == shapes
    _assert_close(oracles.ravel(variance), estimate(expected), rtol)
  assert stats.variance_along_mean.shape == ()
  expected = estimate(oracles.variance_along_mean)
  _assert_close(stats.variance_along_mean, expected, rtol)


@pytest.mark.slow
@pytest.mark.parametrize('group_size', [1, 2, 4])
@pytest.mark.parametrize('name', LOSSES)
def test_float64_statistics_equal_the_oracle(name, group_size):
  estimate = adaopt.value_and_statistics(LOSSES[name], group_size=group_size)
  with jax.enable_x64(True):
    params, batch = _cast((_params(name), _batch()), jnp.float64)
    value, stats = jax.device_get(jax.jit(estimate)(params, batch))
  expected, gradients = _float64_reference(name)
  _assert_close(value, expected, RTOL[np.float64])
  _assert_statistics(
    stats, gradients, rtol=RTOL[np.float64], group_size=group_size
  )


@pytest.mark.slow
@pytest.mark.parametrize('name', LOSSES)
def test_float32_statistics_equal_the_float64_oracle(name):
  loss_fn = LOSSES[name]
  rounded = _cast((_params(name), _batch()), jnp.float32)
  estimate = adaopt.value_and_statistics(loss_fn)
  value, stats = jax.jit(estimate)(*rounded)
  assert {leaf.dtype for leaf in jax.tree.leaves(stats)} == {
    jnp.dtype(jnp.int32),
    jnp.dtype(jnp.float32),
  }
  with jax.enable_x64(True):
    params, batch = _cast(jax.tree.map(np.asarray, rounded), jnp.float64)
    gradients = oracles.sample_gradients(loss_fn, params, batch)
    _assert_close(value, loss_fn(params, batch), RTOL[np.float32])
  _assert_statistics(stats, gradients, rtol=RTOL[np.float32])


def test_least_squares_gradients_are_those_derived_by_hand():
  params, batch = _params('one array'), _batch()
  residuals = batch['x'] @ params - batch['y']
  gradients = np.stack(
    [2 * r * x for r, x in zip(residuals, batch['x'], strict=True)]
  )
  with jax.enable_x64(True):
    estimate = adaopt.value_and_statistics(_squared_error)
    value, stats = jax.device_get(jax.jit(estimate)(params, batch))
  _assert_close(value, np.mean(residuals**2), RTOL[np.float64])
  _assert_statistics(stats, gradients, rtol=RTOL[np.float64])


@pytest.mark.slow
@pytest.mark.parametrize(
  'only',
  [c for n in range(5) for c in itertools.combinations(reading.NOISE, n)],
  ids=str,
)
def test_only_what_is_named_is_given_and_it_is_the_same(only):
  params, batch = _cast((_params('one array'), _batch()), jnp.float32)
  value, some = adaopt.value_and_statistics(_squared_error, only=only)(
    params, batch
  )
  every_value, every = adaopt.value_and_statistics(_squared_error)(
    params, batch
  )
  for field in reading.NOISE:
    if field not in only:
      assert getattr(some, field) is None
    else:
      found, expected = getattr(some, field), getattr(every, field)
      close = functools.partial(_assert_close, rtol=RTOL[np.float32])
      jax.tree.map(close, found, expected)
  _assert_close(value, every_value, RTOL[np.float32])
  _assert_close(some.mean, every.mean, RTOL[np.float32])


@pytest.mark.parametrize('group_size', [2, 4])
def test_examples_that_are_coupled_meet_only_within_their_group(group_size):
  with jax.enable_x64(True):
    params, batch = _cast((_params('one array'), _batch()), jnp.float64)
    estimate = adaopt.value_and_statistics(_coupled, group_size=group_size)
    _, stats = jax.device_get(jax.jit(estimate)(params, batch))
    samples = oracles.sample_gradients(_coupled, params, batch, group_size)
  gradients = np.repeat(samples, group_size, axis=0)
  _assert_statistics(
    stats,
    gradients,
    group_size=group_size,
    rtol=RTOL[np.float64],
  )


@pytest.mark.parametrize('only', ONLY)
@pytest.mark.parametrize('group_size', [1, 2])
def test_aux_is_averaged_over_the_samples(group_size, only):
  def loss_fn(params, batch):
    aux = {
      'size': jnp.asarray(len(batch['y'])),
      'total x': jnp.sum(batch['x'], 0),
      'all low': jnp.all(batch['y'] < 0.5),
    }
    return _squared_error(params, batch), aux

  params, batch = _cast((_params('one array'), _batch()), jnp.float32)
  estimate = adaopt.value_and_statistics(
    loss_fn, group_size=group_size, only=only, has_aux=True
  )
  (value, aux), stats = jax.jit(estimate)(params, batch)
  x, y = (np.asarray(batch[name], np.float64) for name in ('x', 'y'))
  rtol = RTOL[np.float32]
  _assert_close(value, _squared_error(params, batch), rtol)
  _assert_close(stats.mean, jax.grad(_squared_error)(params, batch), rtol)
  assert aux['size'] == group_size
  _assert_close(aux['total x'], group_size * x.mean(0), rtol)
  all_low = [all(group < 0.5) for group in y.reshape(-1, group_size)]
  assert 0 < np.mean(all_low) < 1
  _assert_close(aux['all low'], np.mean(all_low), rtol)


def test_bfloat16_params_are_summed_in_float32():
  # Every x is a bfloat16, so all gradients are exact, but 1500 is not one.
  x = np.where(np.arange(1024) % 2, 1.0, 2.0)
  x = x[:, None] * np.array([1.0, -0.5])
  estimate = adaopt.value_and_statistics(lambda params, x: jnp.mean(x @ params))
  value, stats = jax.jit(estimate)(
    jnp.zeros(2, jnp.bfloat16), jnp.asarray(x, jnp.bfloat16)
  )
  assert value.dtype == jnp.float32
  assert stats.mean.dtype == jnp.bfloat16
  assert stats.variance.dtype == jnp.float32
  assert stats.variance_along_mean.dtype == jnp.float32
  np.testing.assert_array_equal(stats.mean, x.mean(0))
  rtol = RTOL[np.float32]
  assert stats.coordinate_variance.dtype == jnp.float32
  _assert_close(stats.variance, oracles.total_variance(x), rtol)
  _assert_close(
    stats.coordinate_variance, oracles.coordinate_variances(x), rtol
  )
  _assert_close(stats.variance_along_mean, oracles.total_variance(x), rtol)


@pytest.mark.parametrize('group_size', [1, 2])
def test_complex_params_have_real_variances(group_size):
  x = _normal(BATCH_SIZE, 2, seed=1) + 1j * _normal(BATCH_SIZE, 2, seed=2)
  params = _normal(2, seed=3) + 1j * _normal(2, seed=4)
  loss_fn = lambda params, x: jnp.mean(jnp.abs(x @ params - 1) ** 2)
  with jax.enable_x64(True):
    estimate = adaopt.value_and_statistics(loss_fn, group_size=group_size)
    value, stats = jax.device_get(jax.jit(estimate)(params, x))
  assert value.dtype == jnp.float64
  assert stats.mean.dtype == jnp.complex128
  for variance in jax.tree.leaves([getattr(stats, f) for f in reading.NOISE]):
    assert variance.dtype == jnp.float64
  # With w = u + iv, JAX's gradient is ∂/∂u − i ∂/∂v.
  gradients = 2 * np.conj(x @ params - 1)[:, None] * x
  _assert_statistics(
    stats, gradients, rtol=RTOL[np.float64], group_size=group_size
  )


class _Linen(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.Dense(1)(nn.tanh(nn.Dense(4)(x)))[:, 0]


class _Nnx(nnx.Module):
  def __init__(self, rngs):
    self.hidden = nnx.Linear(3, 4, rngs=rngs)
    self.output = nnx.Linear(4, 1, rngs=rngs)

  def __call__(self, x):
    return self.output(nnx.tanh(self.hidden(x)))[:, 0]


def _linen_model():
  model = _Linen()
  return model.init(jax.random.key(0), jnp.zeros((1, 3))), model.apply


def _nnx_model():
  graph, params = nnx.split(_Nnx(nnx.Rngs(0)))
  return params, lambda params, x: nnx.merge(graph, params)(x)


@pytest.mark.parametrize('model', [_linen_model, _nnx_model])
def test_flax_models_are_plain_functions_of_their_params(model):
  params, apply = model()
  batch = _cast(_batch(), jnp.float32)
  loss_fn = lambda params, batch: jnp.mean(
    (apply(params, batch['x']) - batch['y']) ** 2
  )
  estimate = adaopt.value_and_statistics(loss_fn)
  _, stats = jax.jit(estimate)(params, batch)
  assert jax.tree.structure(stats.mean) == jax.tree.structure(params)
  gradients = oracles.sample_gradients(loss_fn, params, batch)
  _assert_statistics(stats, gradients, rtol=RTOL[np.float32])


def test_vmap_over_seeds_equals_one_seed_at_a_time():
  estimate = adaopt.value_and_statistics(_squared_error)
  params = jax.random.normal(jax.random.key(0), (4, 3))
  batch = _cast(_batch(), jnp.float32)
  together = jax.jit(jax.vmap(estimate, (0, None)))(params, batch)
  single = jax.jit(estimate)
  for i in range(4):
    jax.tree.map(
      lambda both, alone, i=i: _assert_close(both[i], alone, 1e-6),
      together,
      single(params[i], batch),
    )


def test_scan_over_steps_equals_a_python_loop():
  estimate = adaopt.value_and_statistics(_mlp)

  def step(params, batch):
    value, stats = estimate(params, batch)
    descend = lambda p, g: p - 0.1 * g
    return jax.tree.map(descend, params, stats.mean), (value, stats)

  params = _cast(_params('mlp in tuples'), jnp.float32)
  batches = [_cast(_batch(seed=seed), jnp.float32) for seed in range(3)]
  stacked = jax.tree.map(lambda *x: jnp.stack(x), *batches)
  scanned, trace = jax.lax.scan(step, params, stacked)
  single = jax.jit(step)
  for i, batch in enumerate(batches):
    params, expected = single(params, batch)
    jax.tree.map(
      lambda all_steps, alone, i=i: _assert_close(all_steps[i], alone, 1e-5),
      trace,
      expected,
    )
  jax.tree.map(lambda a, b: _assert_close(a, b, 1e-5), scanned, params)


@pytest.mark.parametrize('group_size', [1, 2])
def test_a_batch_sharded_over_devices_has_the_same_statistics(group_size):
  assert jax.device_count() == 8
  params, batch = _cast((_params('one array'), _batch(32)), jnp.float32)
  estimate = jax.jit(
    adaopt.value_and_statistics(_squared_error, group_size=group_size)
  )
  mesh = jax.make_mesh((8,), ('data',), (jax.sharding.AxisType.Auto,))
  spec = jax.sharding.PartitionSpec('data')
  sharded = jax.device_put(batch, jax.sharding.NamedSharding(mesh, spec))
  assert len(sharded['x'].sharding.device_set) == 8
  result = estimate(params, sharded)
  assert all(
    leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(result)
  )
  jax.tree.map(
    lambda a, b: _assert_close(a, b, 1e-6), result, estimate(params, batch)
  )


def _measured(measure, loss_fn, group_size=1):
  """(params, batch, mask, ...) → what an estimator of samples measures."""
  loss = losses.checked(loss_fn, False)

  def measured(params, batch, mask, *args):
    samples = losses.samples(batch, mask, group_size)
    return measure(loss, params, *samples, *args)

  return jax.jit(measured)


MEASURES = [
  estimators.measure_moments,
  estimators.contract_mean,
  estimators.measure_mean,
]


@functools.cache
def _measured_scaled_tanh(measure, group_size):
  return [
    _measured(one, _scaled_tanh, group_size)
    for one in (measure, estimators.measure_along)
  ]


@pytest.mark.slow
@pytest.mark.parametrize('measure', MEASURES)
@pytest.mark.parametrize('group_size', [1, 2])
@hypothesis.given(
  cuts=st.lists(st.integers(0, BATCH_SIZE), max_size=5),
  shifts=st.lists(st.integers(0, BATCH_SIZE), min_size=6, max_size=6),
)
@hypothesis.settings(max_examples=15, deadline=None)
def test_masked_chunks_of_any_size_merge_to_the_moments_of_the_batch(
  group_size, measure, cuts, shifts
):
  moments_of, along_of = _measured_scaled_tanh(measure, group_size)
  cuts = sorted(cut // group_size * group_size for cut in cuts)
  with jax.enable_x64(True):
    params = _cast(_params('nested dict with a scalar'), jnp.float64)
    batch = _cast(_batch(), jnp.float64)
    other = _cast(_batch(seed=1), jnp.float64)
    full = jnp.ones(BATCH_SIZE, bool)
    whole = moments_of(params, batch, full)
    along = along_of(params, batch, full, whole.mean)

    merged, added = merging.zeros_like(whole), 0.0
    slots = np.arange(BATCH_SIZE)
    for start, stop, shift in zip(
      [0, *cuts], [*cuts, BATCH_SIZE], shifts, strict=False
    ):
      if start == stop:
        continue
      mask = (start <= slots) & (slots < stop)
      roll = lambda x, n=shift * group_size: np.roll(x, n, 0)
      mix = lambda x, y, mask=mask, roll=roll: roll(
        np.where(mask.reshape(-1, *[1] * (x.ndim - 1)), x, y)
      )
      chunk = jax.tree.map(mix, batch, other)
      merged = merging.merge(merged, moments_of(params, chunk, roll(mask)))
      added += along_of(params, chunk, roll(mask), whole.mean)
    jax.tree.map(lambda a, b: _assert_close(a, b, 1e-12), merged, whole)
    _assert_close(added, along, 1e-12)
    statistics = jax.device_get(merging.finish(merged, added))
    _, gradients = _float64_reference('nested dict with a scalar')
    if measure is estimators.measure_moments:
      _assert_statistics(
        statistics, gradients, rtol=RTOL[np.float64], group_size=group_size
      )
    else:
      assert statistics.variance is statistics.coordinate_variance is None
      _assert_close(
        oracles.ravel(statistics.mean),
        oracles.mean(gradients),
        RTOL[np.float64],
      )


@pytest.mark.parametrize('measure', MEASURES)
@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_a_masked_example_needs_a_finite_gradient_but_no_finite_projection(
  bad, measure
):
  loss_fn = lambda params, x: jnp.mean(jnp.sqrt(x @ params))
  x = jnp.array([[1.0, 2.0], [bad, bad], [3.0, 1.0]])
  mask = jnp.array([True, False, True])
  params, gradient = jnp.ones(2), jnp.array([0.2, 0.3])
  assert jnp.isnan(_measured(measure, loss_fn)(params, x, mask).mean).all()
  along_of = _measured(estimators.measure_along, loss_fn)
  np.testing.assert_allclose(
    along_of(params, x, mask, gradient),
    along_of(params, x[mask], jnp.ones(2, bool), gradient),
    1e-6,
  )


@pytest.mark.parametrize('measure', MEASURES)
def test_a_group_counts_only_if_all_its_examples_do(measure):
  loss_fn = lambda params, x: jnp.mean(x * params)
  x = jnp.array([1.0, 3.0, 10.0, 20.0, 100.0, 200.0, 5.0, 7.0])
  mask = jnp.array([1, 1, 1, 0, 0, 0, 1, 1], bool)
  params, gradient = jnp.array(2.0), jnp.array(4.0)
  along_of = _measured(estimators.measure_along, loss_fn, group_size=2)
  assert along_of(params, x, mask, gradient) == 2 * (2.0**2 + 2.0**2)
  result = _measured(measure, loss_fn, group_size=2)(params, x, mask)
  assert result.samples == 2
  assert result.examples == 4
  assert result.value == 2.0 * (2.0 + 6.0) / 2
  assert result.mean == (2.0 + 6.0) / 2
  if measure is estimators.measure_moments:
    assert result.spread == result.coordinate_spread == 2 * (2.0**2 + 2.0**2)
  else:
    assert result.spread is result.coordinate_spread is None


def _linear(params, gradients):
  """A loss whose gradient for example i is row i of `gradients`, [b, 4]."""
  values = gradients[:, :3] @ params['a'] + gradients[:, 3] * params['b']
  return jnp.mean(values)


@functools.cache
def _of_gradients(group_size=1):
  """The map from many sets of gradients, [n, b, 4], to their statistics."""
  params = {'a': np.zeros(3), 'b': np.zeros(())}
  estimate = adaopt.value_and_statistics(_linear, group_size=group_size)
  statistics_of = jax.jit(jax.vmap(lambda g: estimate(params, g)[1]))

  def in_float64(gradients):
    with jax.enable_x64(True):
      return jax.device_get(statistics_of(gradients))

  return in_float64


@pytest.mark.parametrize('group_size', [1, 2, 3])
def test_group_estimates_average_to_the_variance_over_all_orders(group_size):
  gradients = _normal(6, 4)
  orders = np.array(list(itertools.permutations(range(6))))
  stats = _of_gradients(group_size)(gradients[orders])
  variances = np.column_stack([*stats.coordinate_variance.values()])
  if group_size > 1:
    assert np.all(np.std(variances, 0) > 0.1 * np.mean(variances, 0))
  _assert_close(
    np.mean(variances, 0), oracles.coordinate_variances(gradients), 1e-10
  )
  _assert_close(
    np.mean(stats.variance_along_mean),
    oracles.variance_along_mean(gradients),
    1e-10,
  )


@pytest.mark.parametrize('group_size', [1, 2])
def test_estimates_average_to_the_population_variance_over_all_draws(
  group_size,
):
  population = _normal(3, 4)
  draws = np.array(list(itertools.product(range(3), repeat=4)))
  stats = _of_gradients(group_size)(population[draws])
  total = stats.variance['a'] + stats.variance['b']
  _assert_close(np.mean(total), np.sum(np.var(population, 0)), 1e-10)


GRADIENTS = hnp.arrays(
  np.float64, (6, 4), elements=st.floats(-1e3, 1e3, width=32)
)


@hypothesis.given(gradients=GRADIENTS)
@hypothesis.settings(max_examples=50, deadline=None)
def test_the_variances_of_any_gradients_split_and_add_up(gradients):
  signal = oracles.squared_norm(oracles.mean(gradients))
  power = np.mean(gradients**2)
  # Where the mean cancels to nothing its direction is rounding error.
  hypothesis.assume(signal > 1e-6 * power)
  stats = _of_gradients()(gradients[None])
  v = np.sum(oracles.ravel(stats.variance))
  v_along = stats.variance_along_mean[0]
  per_tensor = jax.tree.map(np.sum, stats.coordinate_variance)
  close = functools.partial(
    np.testing.assert_allclose, rtol=0, atol=1e-9 * power
  )
  close(v, oracles.total_variance(gradients))
  close(v - v_along, oracles.variance_across_mean(gradients))
  jax.tree.map(lambda a, b: close(a[0], b), stats.variance, per_tensor)
  assert np.all(oracles.ravel(stats.variance) >= 0)
  assert np.all(oracles.ravel(stats.coordinate_variance) >= 0)
  assert 0 <= v_along <= v + 1e-9 * power


@hypothesis.given(gradients=GRADIENTS, order=st.permutations(range(6)))
@hypothesis.settings(max_examples=30, deadline=None)
def test_the_order_of_the_examples_changes_nothing(gradients, order):
  power = np.mean(gradients**2)
  signal = oracles.squared_norm(oracles.mean(gradients))
  hypothesis.assume(signal > 1e-6 * power)
  stats = _of_gradients()(np.stack([gradients, gradients[np.array(order)]]))
  jax.tree.map(
    lambda x: np.testing.assert_allclose(
      x[1], x[0], rtol=0, atol=1e-9 * (power + np.sqrt(power))
    ),
    stats,
  )


def test_a_batch_of_equal_examples_has_no_variance():
  x = jnp.full((8, 4), 1 / 3, jnp.float32)
  estimate = adaopt.value_and_statistics(_linear)
  params = {'a': jnp.zeros(3), 'b': jnp.zeros(())}
  _, stats = jax.jit(estimate)(params, x)
  for noise in (stats.variance, stats.coordinate_variance):
    assert all(np.all((x >= 0) & (x < 1e-6)) for x in jax.tree.leaves(noise))
  assert 0 <= stats.variance_along_mean < 1e-6


def test_without_variance_one_example_is_enough():
  x = jnp.array([[1.0, 2.0, 3.0, 4.0]])
  params = {'a': jnp.ones(3), 'b': jnp.ones(())}
  value, stats = adaopt.value_and_statistics(_linear, only=())(params, x)
  assert value == 10.0
  assert stats.batch_size == 1
  np.testing.assert_array_equal(oracles.ravel(stats.mean), x[0])


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (dict(group_size=0), 'group_size must be an integer .*, got 0'),
    (dict(group_size=-2), 'group_size must be an integer .*, got -2'),
    (dict(group_size=2.0), r'group_size must be an integer .*, got 2\.0'),
    (dict(only=('variance', 'noise')), "only must name some of .*'noise'"),
    (dict(only='variance'), "only must be a tuple of names.* got 'variance'"),
    (dict(only=None), 'only must be a tuple of names.* got None'),
  ],
)
def test_unknown_options_are_refused_at_construction(options, message):
  with pytest.raises(ValueError, match=message):
    adaopt.value_and_statistics(_squared_error, **options)


@pytest.mark.parametrize('held', [jnp.bfloat16, jnp.float32])
def test_half_precision_is_summed_in_float32_with_and_without_a_variance(held):
  """512 equal gradients of 8, which bfloat16 would stop adding up at 256."""

  def loss_fn(params, tokens):
    rows = params['table'].astype(jnp.bfloat16)[tokens]
    return jnp.mean(jnp.sum(rows.astype(jnp.float32), 1))

  params = {'table': jnp.zeros([4], held), 'unused': jnp.zeros([], held)}
  for only in ONLY:
    estimate = adaopt.value_and_statistics(loss_fn, only=only)
    _, stats = jax.jit(estimate)(params, jnp.zeros([512, 8], int))
    assert stats.mean['table'].tolist() == [8, 0, 0, 0]
  measured = _measured(estimators.measure_mean, loss_fn)
  mask = jnp.arange(512) < 509  # which is not a number of bfloat16
  moments = measured(params, jnp.zeros([512, 8], int), mask)
  assert {x.dtype for x in jax.tree.leaves(moments.mean)} == {jnp.dtype('f4')}
  assert moments.mean['table'].tolist() == [8, 0, 0, 0]


def test_float32_is_differentiated_without_factors(monkeypatch):
  def factorise(*args):
    raise AssertionError('half precision alone needs factors')

  monkeypatch.setattr(estimators.factorisation, 'factorise', factorise)
  estimate = adaopt.value_and_statistics(_squared_error, only=())
  params, batch = _cast((_params('one array'), _batch()), jnp.float32)
  _, stats = estimate(params, batch)
  _, gradients = _float64_reference('one array')
  _assert_close(stats.mean, oracles.mean(gradients), RTOL[np.float32])


X = np.ones((6, 3), np.float32)
Y = np.ones(6, np.float32)


@pytest.mark.parametrize(
  ('batch', 'options', 'message'),
  [
    (
      {'x': X, 'y': Y[:5]},
      {},
      r"leading axes of a batch must be equal, got \['x'\]: 6, \['y'\]: 5",
    ),
    ({'x': X[:0], 'y': Y[:0]}, {}, 'the batch is empty'),
    (
      {'x': X, 'y': np.float32(1)},
      {},
      r"\['y'\] is a scalar; every array of a batch needs a leading example",
    ),
    ({}, {}, 'the batch holds no array'),
    (
      {'x': X[:1], 'y': Y[:1]},
      {},
      r'needs two samples of 1 example\(s\), got a batch of 1; enlarge',
    ),
    (
      {'x': X[:1], 'y': Y[:1]},
      dict(only=('variance_along_mean',)),
      'needs two samples',
    ),
    (
      {'x': X, 'y': Y},
      dict(group_size=6),
      r'needs two samples of 6 example\(s\), got a batch of 6',
    ),
    (
      {'x': X, 'y': Y},
      dict(group_size=4, only=()),
      'a batch of 6 examples is not a multiple of group_size=4',
    ),
    (
      {'x': X[:5], 'y': Y[:5]},
      dict(group_size=2),
      'a batch of 5 examples is not a multiple of group_size=2',
    ),
  ],
  ids=[
    'ragged',
    'empty',
    'scalar',
    'no array',
    'one example',
    'one example along the mean',
    'one group',
    'larger than half, no variance',
    'not a multiple',
  ],
)
def test_a_wrong_batch_meets_a_sentence(batch, options, message):
  estimate = adaopt.value_and_statistics(_squared_error, **options)
  with pytest.raises(ValueError, match=message):
    estimate(np.ones(3, np.float32), batch)
  with pytest.raises(ValueError, match=message):
    jax.jit(estimate)(np.ones(3, np.float32), batch)


@pytest.mark.parametrize('only', ONLY)
@pytest.mark.parametrize(
  ('loss_fn', 'found'),
  [
    (lambda params, x: x @ params, r'float32\[2\]'),
    (lambda params, x: jnp.mean(x @ params) + 0j, r'complex64\[\]'),
    (lambda params, x: jnp.sum(x > 0), r'int32\[\]'),
  ],
  ids=['vector', 'complex', 'integer'],
)
def test_a_loss_that_is_no_real_scalar_is_refused(loss_fn, found, only):
  estimate = adaopt.value_and_statistics(loss_fn, group_size=2, only=only)
  message = f'loss_fn must return a real scalar, .*; got {found}'
  with pytest.raises(ValueError, match=message):
    estimate(jnp.ones(3), jnp.asarray(X))


@pytest.mark.parametrize('only', ONLY)
def test_integer_params_are_refused_by_name(only):
  estimate = adaopt.value_and_statistics(
    lambda params, x: jnp.mean(x @ params['w']), only=only
  )
  params = {'w': jnp.ones(3), 'steps': jnp.array(1)}
  message = r"parameter \['steps'\] is of type int32, which has no gradient"
  with pytest.raises(ValueError, match=message):
    estimate(params, jnp.asarray(X))


@pytest.mark.parametrize('only', ONLY)
def test_examples_carry_their_own_random_keys(only):
  def loss_fn(params, batch):
    noise = jax.vmap(jax.random.normal)(batch['key'])
    return jnp.mean(params * noise)

  batch = {'key': jax.random.split(jax.random.key(0), 6)}
  estimate = adaopt.value_and_statistics(loss_fn, only=only)
  _, stats = jax.jit(estimate)(jnp.ones([]), batch)
  noise = np.array([jax.random.normal(key) for key in batch['key']])
  np.testing.assert_allclose(stats.mean, noise.mean(), rtol=1e-6)


@pytest.mark.parametrize(
  ('output', 'has_aux'), [(lambda loss: loss, True), (lambda x: (x, x), False)]
)
def test_aux_that_is_not_announced_is_refused(output, has_aux):
  estimate = adaopt.value_and_statistics(
    lambda params, x: output(jnp.mean(params * x)), has_aux=has_aux
  )
  with pytest.raises(ValueError, match=rf'with has_aux={has_aux} it returned'):
    estimate(jnp.ones([]), jnp.ones(4))
