"""A step that is not the plain one on the same examples, or that forgets."""

import functools

import chex
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from flax import linen as nn
from flax import nnx

import adaopt
from adaopt import training

DRIVERS = {'traced': training.traced, 'dispatched': training.dispatched}


def make_dataset(n=97, d=5):
  rng = np.random.default_rng(0)
  features = rng.normal(size=(n, d)).astype(np.float32)
  targets = features @ np.arange(1.0, d + 1, dtype=np.float32)
  noise = rng.normal(size=n).astype(np.float32)
  return {'x': jnp.asarray(features), 'y': jnp.asarray(targets + noise)}


def loss_fn(params, batch):
  predicted = batch['x'] @ params['w'] + params['b']
  return jnp.mean((predicted - batch['y']) ** 2)


def make_params():
  return {'w': jnp.zeros(5), 'b': jnp.zeros([])}


def adaptive(criterion=None, learning_rate=0.3, **options):
  options = {'init_batch_size': 6, 'max_batch_size': 80} | options
  criterion = criterion or adaopt.norm_test(0.4)
  return adaopt.adadagrad(learning_rate, criterion, **options)


def run(step, optimizer, steps=6, params=None, seed=3):
  """The final state, and the metrics of every step."""
  params = make_params() if params is None else params
  state = adaopt.init_train_state(params, optimizer, seed=seed)
  history = []
  for _ in range(steps):
    state, metrics = step(state, make_dataset())
    history.append(jax.device_get(metrics))
  return state, history


TESTS = {
  'norm': adaopt.norm_test(0.4),
  'inner product': adaopt.inner_product_test(0.1),
  'augmented': adaopt.augmented_inner_product_test(0.3, nu=0.5),
  'coordinate': adaopt.coordinate_norm_test(0.9, reduce=jnp.mean),
}


@functools.cache
def run_plainly(test, steps=6, seed=3):
  """The same by hand: one batch, the gradient of every example in float64."""
  optimizer = adaptive(TESTS[test])
  flat, unravel = jax.flatten_util.ravel_pytree(make_params())
  tensors = jax.tree.structure(make_params())
  update = jax.jit(optimizer.update)
  dataset = jax.tree.map(np.float64, make_dataset())
  positions = jnp.arange(80 * steps)
  rows = np.asarray(training.example_indices(seed, positions, 97))
  opt_state = optimizer.init(make_params())
  position, sizes, losses = 0, [], []
  for _ in range(steps):
    size = int(optax.tree.get(opt_state, 'batch_size'))
    batch = rows[position : position + size]
    # The bias comes first, as in the tree.
    inputs = np.insert(dataset['x'][batch], 0, 1.0, axis=1)
    residuals = inputs @ np.float64(flat) - dataset['y'][batch]
    g = 2 * residuals[:, None] * inputs
    mean = unravel(np.float32(oracles.mean(g)))
    statistics = adaopt.GradientStatistics(
      jnp.int32(size),
      mean,
      tensors.unflatten(oracles.tensor_variances(g, make_params())),
      unravel(np.float32(oracles.coordinate_variances(g))),
      oracles.variance_along_mean(g),
    )
    updates, opt_state = update(
      mean, opt_state, unravel(flat), statistics=statistics
    )
    flat = flat + jax.flatten_util.ravel_pytree(updates)[0]
    position += size
    sizes.append(size)
    losses.append(np.mean(residuals**2))
  return unravel(flat), sizes, losses


@pytest.mark.slow
@pytest.mark.parametrize('driver', DRIVERS.values(), ids=DRIVERS)
@pytest.mark.parametrize(
  ('test', 'micro_batch_size'),
  [
    ('norm', 2),
    ('norm', 7),
    ('norm', 128),
    ('inner product', 4),
    ('augmented', 4),
    ('coordinate', 4),
  ],
)
def test_step_equals_one_update_on_exactly_the_batch(
  driver, test, micro_batch_size
):
  optimizer = adaptive(TESTS[test])
  step = adaopt.train_step(
    loss_fn, optimizer, micro_batch_size=micro_batch_size, driver=driver
  )
  state, history = run(step, optimizer)
  params, sizes, losses = run_plainly(test)
  assert [int(m.batch_size) for m in history] == sizes
  assert sizes[-1] > sizes[0]
  # A few float32 roundings a step.
  np.testing.assert_allclose([m.loss for m in history], losses, rtol=1e-5)
  chex.assert_trees_all_close(state.params, params, rtol=1e-4)
  assert int(state.examples) == sum(sizes)
  assert int(state.step) == len(sizes)


@pytest.mark.slow
@pytest.mark.parametrize('driver', DRIVERS.values(), ids=DRIVERS)
def test_statistics_only_where_a_test_is_due(driver):
  optimizer = adaptive(
    adaopt.augmented_inner_product_test(0.4, nu=0.4), test_interval=3
  )
  step = adaopt.train_step(
    loss_fn, optimizer, micro_batch_size=8, driver=driver
  )
  _, history = run(step, optimizer, steps=7)
  due = [True, False, False, True, False, False, True]
  assert [bool(np.isfinite(m.variance)) for m in history] == due
  assert [bool(np.isfinite(m.variance_along_mean)) for m in history] == due
  sizes = [int(m.batch_size) for m in history]
  assert sizes[1] == sizes[2] == sizes[3]


def test_no_test_at_the_largest_size():
  optimizer = adaptive(init_batch_size=80)
  step = adaopt.train_step(loss_fn, optimizer, micro_batch_size=16)
  _, history = run(step, optimizer, steps=2)
  assert all(np.isnan(m.variance) for m in history)
  assert all(np.isfinite(m.loss) for m in history)


def test_groups_are_whole_and_at_least_two():
  optimizer = adaptive(init_batch_size=6)
  step = adaopt.train_step(
    loss_fn, optimizer, micro_batch_size=16, group_size=8
  )
  _, history = run(step, optimizer, steps=1)
  assert int(history[0].batch_size) == 16
  assert np.isfinite(history[0].variance)


OPTIMIZERS = {
  'adamw': optax.adamw(0.5),
  'sgd with momentum': optax.sgd(0.01, momentum=0.9),
  'clipped lion': optax.chain(optax.clip(1.0), optax.lion(0.3)),
}


@pytest.mark.slow
@pytest.mark.parametrize('inner', OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_any_optax_optimizer_adapts(inner):
  optimizer = optax.chain(
    adaopt.adapt_batch_size(
      adaopt.norm_test(0.4), init_batch_size=6, max_batch_size=80
    ),
    inner,
  )
  step = adaopt.train_step(loss_fn, optimizer, micro_batch_size=16)
  _, history = run(step, optimizer, steps=30)
  assert history[-1].loss < 0.5 * history[0].loss
  assert history[-1].batch_size > 6


def test_value_reaches_the_optimizer():
  optimizer = optax.chain(
    adaopt.schedule_batch_size(16), optax.polyak_sgd(max_learning_rate=0.1)
  )
  step = adaopt.train_step(loss_fn, optimizer, micro_batch_size=16)
  _, history = run(step, optimizer, steps=20)
  assert history[-1].loss < history[0].loss


def linen_model():
  model = nn.Dense(1)
  params = model.init(jax.random.key(0), jnp.zeros([1, 5]))
  return params, lambda params, x: model.apply(params, x)[:, 0]


def nnx_model():
  graph, params = nnx.split(nnx.Linear(5, 1, rngs=nnx.Rngs(0)))
  return params, lambda params, x: nnx.merge(graph, params)(x)[:, 0]


@pytest.mark.slow
@pytest.mark.parametrize('make_model', [linen_model, nnx_model])
def test_flax_models_train(make_model):
  params, apply = make_model()
  optimizer = adaptive(learning_rate=2.0)
  step = adaopt.train_step(
    lambda params, batch: jnp.mean(
      (apply(params, batch['x']) - batch['y']) ** 2
    ),
    optimizer,
    micro_batch_size=16,
  )
  state, history = run(step, optimizer, steps=40, params=params)
  assert history[-1].loss < 0.2 * history[0].loss
  chex.assert_trees_all_equal_structs(state.params, params)


@pytest.mark.slow
@pytest.mark.parametrize('driver', DRIVERS.values(), ids=DRIVERS)
@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_is_left_out_and_told(driver, bad):
  dataset = make_dataset()
  dataset['y'] = dataset['y'].at[:].set(bad)
  optimizer = adaptive()
  step = adaopt.train_step(
    loss_fn, optimizer, micro_batch_size=8, driver=driver
  )
  state = adaopt.init_train_state(make_params(), optimizer)
  before = jax.device_get(state)
  state, metrics = step(state, dataset)
  assert not metrics.finite
  chex.assert_trees_all_equal(state.params, before.params)
  chex.assert_trees_all_equal(state.opt_state, before.opt_state)
  assert int(state.step) == 1
  assert int(state.examples) == int(metrics.next_batch_size) == 6


@pytest.mark.slow
def test_aux_is_averaged_over_the_batch():
  def with_aux(params, batch):
    return loss_fn(params, batch), {'y': jnp.mean(batch['y'])}

  optimizer = adaptive()
  step = adaopt.train_step(
    with_aux, optimizer, micro_batch_size=4, has_aux=True
  )
  _, history = run(step, optimizer, steps=1, seed=3)
  batch = adaopt.draw(make_dataset(), 3, jnp.arange(6))
  np.testing.assert_allclose(
    history[0].aux['y'], np.mean(batch['y']), rtol=1e-6
  )


def test_a_saved_state_goes_on_bit_for_bit():
  optimizer = adaptive()
  step = adaopt.train_step(loss_fn, optimizer, micro_batch_size=8)
  whole, _ = run(step, optimizer, steps=6)
  half, _ = run(step, optimizer, steps=3)
  half = jax.tree.map(jnp.asarray, jax.device_get(half))
  for _ in range(3):
    half, _ = step(half, make_dataset())
  chex.assert_trees_all_equal(half, whole)


@pytest.mark.slow
def test_traced_step_scans_and_vmaps_over_seeds():
  optimizer = adaptive()
  step = adaopt.train_step(loss_fn, optimizer, micro_batch_size=8)

  def train(seed):
    state = adaopt.init_train_state(make_params(), optimizer, seed=seed)
    scan = lambda state, _: step(state, make_dataset())
    return jax.lax.scan(scan, state, length=4)

  states, metrics = jax.jit(jax.vmap(train))(jnp.arange(2, dtype=jnp.uint32))
  for seed in range(2):
    state, history = run(step, optimizer, steps=4, seed=seed)
    sizes = [int(m.batch_size) for m in history]
    assert metrics.batch_size[seed].tolist() == sizes
    batched = jax.tree.map(lambda x, i=seed: x[i], states.params)
    chex.assert_trees_all_close(batched, state.params, rtol=1e-4)


def test_bfloat16_parameters_keep_their_type():
  params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), make_params())
  optimizer = adaptive()
  step = adaopt.train_step(loss_fn, optimizer, micro_batch_size=8)
  state, history = run(step, optimizer, steps=3, params=params)
  assert state.params['w'].dtype == jnp.bfloat16
  assert history[0].variance.dtype == jnp.float32


def test_a_custom_draw_sees_positions():
  seen = lambda dataset, seed, positions: positions.astype(jnp.float32)
  optimizer = optax.chain(adaopt.schedule_batch_size(5), optax.sgd(0.0))
  step = adaopt.train_step(
    lambda params, batch: jnp.mean(params * batch),
    optimizer,
    micro_batch_size=2,
    draw=seen,
  )
  state = adaopt.init_train_state(jnp.ones([]), optimizer)
  losses = []
  for _ in range(2):
    state, metrics = step(state, jnp.zeros(1))
    losses.append(float(metrics.loss))
  assert losses == [2.0, 7.0]


def test_behind_2_to_the_31_the_stream_of_arrays_starts_anew():
  optimizer = optax.chain(adaopt.schedule_batch_size(4), optax.sgd(0.0))
  step = adaopt.train_step(loss_fn, optimizer, micro_batch_size=4)
  new = adaopt.init_train_state(make_params(), optimizer)
  state = new._replace(examples=jnp.int32(2**31 - 4))
  state, first = step(state, make_dataset())
  assert state.examples == first.examples == 0
  _, second = step(state, make_dataset())
  _, expected = step(new, make_dataset())
  assert second.loss == expected.loss != first.loss


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (
      lambda: adaopt.init_train_state(jnp.zeros(1), optax.sgd(0.1)),
      'holds 0 batch sizes',
    ),
    (
      lambda: adaopt.init_train_state(
        jnp.zeros(1), optax.chain(adaopt.schedule_batch_size(1), adaptive())
      ),
      'holds 2 batch sizes',
    ),
    (
      lambda: adaopt.init_train_state(jnp.zeros(1, int), adaptive()),
      'int32, which has no gradient',
    ),
    (
      lambda: adaopt.init_train_state(jnp.zeros(1), adaptive(), seed=-1),
      'seed .* got -1',
    ),
    (
      lambda: adaopt.train_step(loss_fn, adaptive(), micro_batch_size=0),
      'micro_batch_size .* got 0',
    ),
    (
      lambda: adaopt.train_step(
        loss_fn, adaptive(), micro_batch_size=6, driver='traced'
      ),
      "driver must be a function .* got 'traced'",
    ),
    (
      lambda: adaopt.train_step(3, adaptive(), micro_batch_size=6),
      'loss_fn must be a function .* got 3',
    ),
    (
      lambda: adaopt.init_train_state(adaptive(), jnp.zeros(1)),
      'optimizer must be an optax optimizer, got Array',
    ),
    *(
      (
        lambda seed=seed: adaopt.init_train_state(
          jnp.zeros(1), adaptive(), seed=seed
        ),
        f'seed must be an integer of at least 0 and below 2.32, got {seed!r}',
      )
      for seed in (1.5, 2**32, 'a', None)
    ),
    (
      lambda: adaopt.train_step(
        loss_fn, adaptive(), micro_batch_size=6, draw=3
      ),
      'draw must be a function',
    ),
  ],
)
def test_construction_rejects(make, message):
  with pytest.raises(ValueError, match=message):
    make()


@pytest.mark.parametrize(
  ('loss', 'criterion', 'dataset', 'message'),
  [
    (
      lambda p, b: (b['x'] @ p['w'] - b['y']) ** 2,
      None,
      None,
      'loss_fn must return a real scalar',
    ),
    (
      loss_fn,
      None,
      {'x': jnp.zeros([3, 5]), 'y': jnp.zeros(4)},
      'leading axes',
    ),
    (loss_fn, None, {'x': jnp.zeros([0, 5]), 'y': jnp.zeros(0)}, 'is empty'),
  ],
)
def test_first_step_rejects(loss, criterion, dataset, message):
  optimizer = adaptive(criterion)
  step = adaopt.train_step(loss, optimizer, micro_batch_size=4)
  state = adaopt.init_train_state(make_params(), optimizer)
  with pytest.raises(ValueError, match=message):
    step(state, dataset or make_dataset())
  assert state.params['w'].tolist() == [0.0] * 5


@pytest.mark.slow
def test_micro_batches_are_rounded_up_to_groups():
  optimizer = adaptive()
  step = adaopt.train_step(loss_fn, optimizer, micro_batch_size=3, group_size=2)
  _, history = run(step, optimizer)
  estimate = adaopt.value_and_statistics(loss_fn, group_size=2)
  positions = jnp.arange(6)
  batch = adaopt.draw(make_dataset(), 3, positions)
  _, statistics = estimate(make_params(), batch)
  np.testing.assert_allclose(
    history[0].variance,
    sum(jax.tree.leaves(statistics.variance)),
    rtol=1e-5,
  )


def test_half_precision_does_not_overflow_where_no_test_is_due():
  """The gradients of 512 examples, each near 300, add up beyond float16."""
  examples = jax.random.normal(jax.random.key(0), [512, 3]) + 3

  def loss(params, batch):
    return jnp.mean((batch.astype(jnp.float16) @ params).astype(float) * 100)

  optimizer = optax.chain(adaopt.schedule_batch_size(512), optax.sgd(1e-3))
  step = adaopt.train_step(loss, optimizer, micro_batch_size=512)
  state = adaopt.init_train_state(jnp.ones(3, jnp.float16), optimizer)
  _, metrics = step(state, examples)
  assert metrics.finite
  # float16 has eleven bits.
  expected = np.sum(np.square(100 * np.mean(examples, 0)))
  np.testing.assert_allclose(metrics.squared_norm, expected, rtol=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize('driver', DRIVERS.values(), ids=DRIVERS)
def test_half_precision_has_the_same_mean_whether_a_test_is_due(driver):
  """512 gradients of 8, on which a sum in bfloat16 would stop at 256."""
  loss = lambda table, tokens: jnp.mean(jnp.sum(table[tokens], 1)).astype('f4')
  optimizer = adaptive(
    learning_rate=0.0,
    init_batch_size=512,
    max_batch_size=1024,
    test_interval=2,
  )
  step = adaopt.train_step(loss, optimizer, micro_batch_size=512, driver=driver)
  state = adaopt.init_train_state(jnp.zeros(4, jnp.bfloat16), optimizer)
  for due in (True, False, True):
    state, metrics = step(state, jnp.zeros([512, 8], int))
    assert bool(np.isfinite(metrics.variance)) == due
    assert metrics.squared_norm == 64


@pytest.mark.slow
@pytest.mark.parametrize('driver', DRIVERS.values(), ids=DRIVERS)
@pytest.mark.parametrize('bad', [0.0, np.nan, np.inf])
@pytest.mark.parametrize('group_size', [1, 2])
@pytest.mark.parametrize('tests', [True, False])
def test_no_example_beyond_the_batch_is_read(driver, bad, group_size, tests):
  # The gradient of a root is infinite at 0.
  loss = lambda params, x: jnp.mean(jnp.sqrt(x @ params))
  x = np.full([16, 2], bad)
  x[:6] = np.arange(1, 13).reshape(6, 2)
  optimizer = optax.chain(adaopt.schedule_batch_size(6), optax.sgd(0.0))
  if tests:
    criterion = adaopt.augmented_inner_product_test(0.4, nu=0.4)
    optimizer = adaptive(criterion, learning_rate=0.0)
  step = adaopt.train_step(
    loss,
    optimizer,
    micro_batch_size=4,
    draw=lambda dataset, seed, positions: dataset[positions],
    driver=driver,
    group_size=group_size,
  )
  state = adaopt.init_train_state(jnp.ones(2), optimizer)
  _, metrics = step(state, jnp.asarray(x, jnp.float32))
  estimate = adaopt.value_and_statistics(loss, group_size=group_size)
  value, stats = estimate(jnp.ones(2), jnp.asarray(x[:6], jnp.float32))
  assert metrics.batch_size == 6
  close = functools.partial(np.testing.assert_allclose, rtol=1e-5)
  close(metrics.loss, value)
  close(metrics.squared_norm, np.sum(np.square(stats.mean)))
  if tests:
    close(metrics.variance, stats.variance)
    close(metrics.variance_along_mean, stats.variance_along_mean)


@pytest.mark.parametrize(
  ('wrap', 'name'),
  [
    (lambda t: optax.MultiSteps(t, every_k_schedule=2), 'optax.MultiSteps'),
    (adaopt.accumulate, 'adaopt.accumulate'),
  ],
)
def test_what_adds_up_micro_batches_itself_is_refused(wrap, name):
  inner = adaptive(adaopt.norm_test(0.1))
  optimizer = wrap(inner)
  message = f'{name} takes a micro-batch an update.*use adaopt.accumulate'
  with pytest.raises(ValueError, match=message):
    adaopt.init_train_state(make_params(), optimizer)
  step = adaopt.train_step(loss_fn, optimizer, micro_batch_size=16)
  state = adaopt.init_train_state(make_params(), inner)
  state = state._replace(opt_state=optimizer.init(state.params))
  with pytest.raises(ValueError, match=message):
    step(state, make_dataset())


READS = {
  'norm': (adaopt.norm_test(0.4), 1, 0),
  'v∥ by hand': (lambda s: s.variance_along_mean, 0, 1),
  'inner product': (adaopt.inner_product_test(0.1), 0, 1),
  'augmented': (adaopt.augmented_inner_product_test(0.3, nu=0.5), 1, 1),
  'coordinate': (adaopt.coordinate_norm_test(0.9, jnp.mean), 1, 0),
  'none': (lambda s: jnp.float32(7), 0, 0),
}


@pytest.mark.slow
@pytest.mark.parametrize('driver', DRIVERS.values(), ids=DRIVERS)
@pytest.mark.parametrize('name', READS)
def test_a_step_measures_what_its_criterion_reads_and_no_more(name, driver):
  criterion, variance, along = READS[name]
  optimizer = adaptive(criterion)
  step = adaopt.train_step(
    loss_fn, optimizer, micro_batch_size=16, driver=driver
  )
  _, history = run(step, optimizer, steps=1)
  assert np.isfinite(history[0].variance) == variance
  assert np.isfinite(history[0].variance_along_mean) == along
  assert np.isfinite(history[0].required)


def test_what_a_transform_reads_beside_the_test_is_measured_in_every_step():
  def update(updates, state, params=None, *, statistics, **extra_args):
    total = sum(jax.tree.leaves(statistics.variance))
    scaled = jax.tree.map(lambda u: jnp.where(total > 0, u, jnp.nan), updates)
    return scaled, state

  own = optax.GradientTransformationExtraArgs(
    lambda params: optax.EmptyState(), update
  )
  optimizer = optax.chain(adaptive(test_interval=3), own)
  step = adaopt.train_step(loss_fn, optimizer, micro_batch_size=8)
  state, history = run(step, optimizer, steps=4)
  assert all(np.isfinite(m.variance) for m in history)
  assert all(np.all(np.isfinite(p)) for p in jax.tree.leaves(state.params))


def test_parameters_of_any_name_train():
  params = {'batch_size': jnp.zeros(5), 'required': jnp.zeros([])}
  optimizer = adaptive()
  step = adaopt.train_step(
    lambda p, batch: loss_fn({'w': p['batch_size'], 'b': p['required']}, batch),
    optimizer,
    micro_batch_size=16,
  )
  _, history = run(step, optimizer, steps=2, params=params)
  assert int(history[0].batch_size) == 6


def test_a_step_leaves_the_callers_parameters_alone():
  params = make_params()
  optimizer = adaptive()
  step = adaopt.train_step(loss_fn, optimizer, micro_batch_size=16)
  run(step, optimizer, steps=1, params=params)
  assert params['w'].tolist() == [0.0] * 5


def test_a_baseline_measures_its_noise_without_moving():
  optimizer = adaptive(policy=adaopt.batch_size.measure)
  step = adaopt.train_step(loss_fn, optimizer, micro_batch_size=16)
  _, history = run(step, optimizer, steps=3)
  assert [int(m.batch_size) for m in history] == [6, 6, 6]
  assert all(np.isfinite(m.variance) for m in history)


class Normalised(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = nn.BatchNorm(use_running_average=False)(nn.Dense(4)(x))
    return nn.Dense(1)(nn.relu(x))[:, 0]


@pytest.mark.slow
def test_batch_norm_trains_on_groups():
  model = Normalised()
  variables = model.init(jax.random.key(0), jnp.zeros([2, 5]))
  statistics = variables['batch_stats']

  def loss(params, batch):
    predicted, _ = model.apply(
      {'params': params, 'batch_stats': statistics},
      batch['x'],
      mutable=['batch_stats'],
    )
    return jnp.mean((predicted - batch['y']) ** 2)

  optimizer = adaptive(learning_rate=2.0, init_batch_size=16, multiple_of=8)
  step = adaopt.train_step(loss, optimizer, micro_batch_size=16, group_size=8)
  _, history = run(step, optimizer, steps=40, params=variables['params'])
  assert history[-1].loss < 0.75 * history[0].loss
  assert history[-1].batch_size > 16


class Dropped(nnx.Module):
  def __init__(self, rngs):
    self.dense = nnx.Linear(5, 1, rngs=rngs)
    self.dropout = nnx.Dropout(0.1, rngs=rngs)

  def __call__(self, x):
    return self.dropout(self.dense(x))[:, 0]


def test_nnx_models_with_other_state_train():
  model = Dropped(nnx.Rngs(0))
  graph, params, rest = nnx.split(model, nnx.Param, ...)

  def loss(params, batch):
    model = nnx.merge(graph, params, rest, copy=True)
    return jnp.mean((model(batch['x']) - batch['y']) ** 2)

  optimizer = adaptive(learning_rate=2.0)
  step = adaopt.train_step(loss, optimizer, micro_batch_size=16)
  _, history = run(step, optimizer, steps=40, params=params)
  assert history[-1].loss < 0.7 * history[0].loss
