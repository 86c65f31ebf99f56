"""Every optimizer and transform does what optax asks of its own.

A failure here means that one of them recompiles at every step, cannot be
carried through lax.scan, changes the dtype of parameters, loses their sharding
or breaks inside a wrapper of optax. A new one joins with a row of `ROWS`.
"""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adaopt


class Row(NamedTuple):
  """An optimizer, and what the tests have to know of it."""

  factory: Callable[..., optax.GradientTransformation]
  kwargs: dict[str, Any]
  reads_statistics: bool = True
  # The statistics are those of all params: what pairs them with state or params
  # leaf by leaf cannot be masked.
  can_be_masked: bool = True
  reads_residual: bool = False
  # What inject_hyperparams must leave alone: functions that are no schedules
  # over the steps.
  static_args: tuple[str, ...] = ()


def _adaptive_adamw(learning_rate, criterion, init_batch_size, max_batch_size):
  return optax.chain(
    adaopt.adapt_batch_size(
      criterion,
      init_batch_size=init_batch_size,
      max_batch_size=max_batch_size,
    ),
    optax.adamw(learning_rate, weight_decay=0.0),
  )


def _scheduled_adagrad(learning_rate, schedule):
  return optax.chain(
    adaopt.schedule_batch_size(schedule), adaopt.adagrad(learning_rate)
  )


def _example_scheduled_sgd(schedule):
  return optax.chain(
    adaopt.scale_by_example_schedule(schedule), optax.scale(-1.0)
  )


def _rescaled_sgd(learning_rate, exponent):
  # The first batch is the reference, so that a constant size is not scaled.
  return optax.chain(
    adaopt.schedule_batch_size(optax.linear_schedule(16, 64, 200)),
    adaopt.scale_by_batch_size(exponent),
    optax.scale_by_learning_rate(learning_rate),
  )


def _accumulated_adagrad(learning_rate, criterion, batch_size):
  # Never grows: every gradient is a batch.
  return adaopt.accumulate(
    optax.chain(
      adaopt.adapt_batch_size(
        criterion, init_batch_size=batch_size, max_batch_size=batch_size
      ),
      adaopt.adagrad(learning_rate),
    ),
    group_size=batch_size,
  )


def _adaptive_momentum(learning_rate, init_batch_size, max_batch_size):
  return adaopt.adaptive(
    optax.sgd(1.0, momentum=0.5),
    learning_rate,
    init_batch_size=init_batch_size,
    max_batch_size=max_batch_size,
  )


def _accumulated_momentum(learning_rate, init_batch_size, max_batch_size):
  # The statistics are those of as many examples as the batch size held.
  return adaopt.accumulate(
    _adaptive_momentum(learning_rate, init_batch_size, max_batch_size)
  )


def _diverse_adamw(learning_rate, init_batch_size):
  return _adaptive_adamw(
    learning_rate,
    adaopt.criteria.gradient_diversity(0.1, num_examples=20),
    init_batch_size=init_batch_size,
    max_batch_size=1024,
  )


def _adascaled_sgd(learning_rate, base_batch_size, decay):
  return optax.chain(
    adaopt.schedule_batch_size(16),
    adaopt.scale_by_adascale(base_batch_size=base_batch_size, decay=decay),
    optax.scale_by_learning_rate(learning_rate),
  )


def _measured_sgd(learning_rate, half_life):
  return optax.chain(
    adaopt.schedule_batch_size(16),
    adaopt.noise_scale(half_life=half_life),
    optax.sgd(learning_rate),
  )


_DECAY = optax.linear_schedule(1.0, 0.5, transition_steps=10_000)
_SIZES = dict(init_batch_size=8, max_batch_size=1024)
# The rate of `adaptive` gains at most 8, and stays stable.
_FEW_SIZES = dict(init_batch_size=8, max_batch_size=64)

ROWS = {
  'adagrad': Row(
    adaopt.adagrad, dict(learning_rate=1.0), reads_statistics=False
  ),
  'adagrad_as_optax': Row(
    adaopt.adagrad,
    dict(
      learning_rate=1.0,
      initial_accumulator_value=0.1,
      eps=0.0,
      eps_root=1e-7,
    ),
    reads_statistics=False,
  ),
  'adagrad_norm': Row(
    adaopt.adagrad_norm, dict(learning_rate=3.0), reads_statistics=False
  ),
  'adadagrad': Row(
    adaopt.adadagrad,
    dict(learning_rate=1.0, criterion=adaopt.norm_test(0.5), **_SIZES),
    static_args=('criterion', 'policy'),
  ),
  'adadagrad_norm': Row(
    adaopt.adadagrad_norm,
    dict(learning_rate=3.0, criterion=adaopt.norm_test(0.5), **_SIZES),
    static_args=('criterion', 'policy'),
  ),
  'adadagrad_with_schedule': Row(
    adaopt.adadagrad,
    dict(learning_rate=_DECAY, criterion=adaopt.norm_test(0.5), **_SIZES),
    static_args=('learning_rate', 'criterion', 'policy'),
  ),
  'adapt_batch_size_adamw': Row(
    _adaptive_adamw,
    dict(
      learning_rate=0.3,
      criterion=adaopt.norm_test(0.5),
      init_batch_size=8,
      max_batch_size=1024,
    ),
    static_args=('criterion',),
  ),
  'adaptive_momentum': Row(
    _adaptive_momentum, dict(learning_rate=0.05, **_FEW_SIZES)
  ),
  'adaptive': Row(
    adaopt.adaptive,
    dict(
      optimizer=optax.adamw(1.0, weight_decay=0.0),
      learning_rate=optax.linear_schedule(0.3, 0.1, 10_000),
      **_FEW_SIZES,
    ),
    static_args=('optimizer', 'learning_rate', 'criterion', 'policy'),
  ),
  'debiased_norm_test_adamw': Row(
    _adaptive_adamw,
    dict(
      learning_rate=0.3,
      criterion=adaopt.debiased_norm_test(0.5),
      init_batch_size=8,
      max_batch_size=1024,
    ),
    static_args=('criterion',),
  ),
  'preconditioned_norm_test_adamw': Row(
    _adaptive_adamw,
    dict(
      learning_rate=0.3,
      criterion=adaopt.criteria.preconditioned_norm_test(
        0.5, adaopt.criteria.adam_preconditioner()
      ),
      init_batch_size=8,
      max_batch_size=1024,
    ),
    can_be_masked=False,
    static_args=('criterion',),
  ),
  'gradient_diversity_adamw': Row(
    _diverse_adamw,
    dict(learning_rate=0.3, init_batch_size=8),
    can_be_masked=False,
  ),
  'normalized_lr_gd': Row(
    adaopt.normalized_lr_gd,
    dict(learning_rate=0.02),
    reads_statistics=False,
    reads_residual=True,
  ),
  'schedule_batch_size_adagrad': Row(
    _scheduled_adagrad,
    dict(learning_rate=1.0, schedule=optax.linear_schedule(8, 64, 1000)),
    reads_statistics=False,
    static_args=('schedule',),
  ),
  'accumulate': Row(
    _accumulated_adagrad,
    dict(
      learning_rate=1.0,
      criterion=adaopt.norm_test(0.5),
      batch_size=8,
    ),
    reads_statistics=False,
    static_args=('criterion',),
  ),
  'accumulate_adaptive': Row(
    _accumulated_momentum,
    dict(learning_rate=0.05, **_FEW_SIZES),
    can_be_masked=False,
  ),
  'scale_by_example_schedule': Row(
    _example_scheduled_sgd,
    dict(schedule=optax.linear_schedule(0.1, 0.01, 10_000)),
    static_args=('schedule',),
  ),
  'scale_by_batch_size': Row(
    _rescaled_sgd, dict(learning_rate=0.05, exponent=0.5)
  ),
  'noise_scale': Row(
    _measured_sgd,
    dict(learning_rate=0.05, half_life=1000.0),
    can_be_masked=False,
  ),
  'scale_by_adascale': Row(
    _adascaled_sgd, dict(learning_rate=0.05, base_batch_size=4, decay=0.9)
  ),
}

NUMERIC_RATES = [
  name
  for name, row in ROWS.items()
  if isinstance(row.kwargs.get('learning_rate'), float)
]

HALF = (jnp.float16, jnp.bfloat16)
DTYPES = (*HALF, jnp.float32, jnp.float64, jnp.complex64, jnp.complex128)

MASKABLE = [name for name, row in ROWS.items() if row.can_be_masked]

every_row = pytest.mark.parametrize('row', ROWS.values(), ids=ROWS.keys())


def every_dtype(*dtypes):
  return pytest.mark.parametrize(
    'dtype', dtypes, ids=[jnp.dtype(dtype).name for dtype in dtypes]
  )


def _precision(dtype):
  """The context in which arrays of the dtype exist."""
  if jnp.dtype(dtype) in (jnp.float64, jnp.complex128):
    return jax.enable_x64(True)
  return contextlib.nullcontext()


def _params(dtype=jnp.float32):
  """Parameters of 2 and 1 axes, the first of them divisible by 8 devices."""
  w = jnp.linspace(-2.0, 3.0, 16).reshape(8, 2)
  b = jnp.linspace(1.0, 2.0, 8)
  if jnp.issubdtype(dtype, jnp.complexfloating):
    w, b = w + 1j * w[::-1], b - 2j * b
  return {'w': w.astype(dtype), 'b': b.astype(dtype)}


def _target(params):
  """Where the objective of `_gradient` is 0."""
  direction = 1 - 1j if jnp.iscomplexobj(params['b']) else 1
  return {
    'w': jnp.full_like(params['w'], 0.5 * direction),
    'b': jnp.full_like(params['b'], -direction),
  }


def _gradient(params):
  """The direction of ascent of Σ |z − t|², a real function of any z."""

  def objective(params):
    distance = jax.tree.map(jnp.subtract, params, _target(params))
    return optax.tree.norm(distance, squared=True)

  # JAX's gradient of a real function is the conjugate of that direction.
  return jax.tree.map(jnp.conj, jax.grad(objective)(params))


def _extra_args(row, state, gradient):
  """What the update of the row has to be passed."""
  residual = {'mean_residual': jnp.float32(0.25)} if row.reads_residual else {}
  if not row.reads_statistics:
    return residual
  return residual | {
    'statistics': adaopt.GradientStatistics(
      batch_size=optax.tree.get(state, 'batch_size', jnp.int32(4)),
      mean=gradient,
      variance=jax.tree.map(lambda g: jnp.float32(20 / 24 * g.size), gradient),
      coordinate_variance=jax.tree.map(
        lambda g: jnp.full(g.shape, 20 / 24, jnp.float32), gradient
      ),
    ),
    'opt_state': state,
  }


def _make_step(row, optimizer):
  """(params, state) -> the next (params, state)."""

  def step(params, state):
    gradient = _gradient(params)
    updates, state = optimizer.update(
      gradient, state, params, **_extra_args(row, state, gradient)
    )
    return optax.apply_updates(params, updates), state

  return step


def _types(tree):
  """Shape, dtype and weak type of every leaf, in the structure of the tree."""
  return jax.tree.map(
    lambda x: (x.shape, jnp.dtype(x.dtype).name, x.weak_type), tree
  )


def _assert_same(actual, expected, **tolerance):
  """Equal trees of equal leaves, exactly or within the tolerance."""
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  compare = (
    np.testing.assert_allclose if tolerance else np.testing.assert_array_equal
  )
  jax.tree.map(lambda a, e: compare(a, e, **tolerance), actual, expected)


@contextlib.contextmanager
def _compilations():
  """Yields a list that has an entry for everything compiled in the block."""
  entries = []

  def listen(event, duration, **kwargs):
    del duration, kwargs
    if event.endswith('backend_compile_duration'):
      entries.append(event)

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    yield entries
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.slow
@every_row
def test_second_jitted_call_does_not_recompile(row):
  optimizer = row.factory(**row.kwargs)
  step = jax.jit(_make_step(row, optimizer))
  params = _params()
  state = optimizer.init(params)
  with _compilations() as first:
    params, state = step(params, state)
  assert first
  with _compilations() as second:
    step(params, state)
  assert not second


@pytest.mark.slow
@every_row
@every_dtype(*DTYPES)
def test_state_keeps_its_structure_and_types(row, dtype):
  with _precision(dtype):
    optimizer = row.factory(**row.kwargs)
    params = _params(dtype)
    state = optimizer.init(params)
    _, new_state = jax.eval_shape(_make_step(row, optimizer), params, state)
    assert _types(new_state) == _types(jax.tree.map(jax.typeof, state))


@pytest.mark.slow
@every_row
@every_dtype(*DTYPES)
def test_either_state_can_leave_a_lax_cond(row, dtype):
  with _precision(dtype):
    optimizer = row.factory(**row.kwargs)
    params = _params(dtype)
    step = _make_step(row, optimizer)

    def maybe_step(flag, params, state):
      return jax.lax.cond(flag, step, lambda *same: same, params, state)

    state = optimizer.init(params)
    new_params, _ = jax.eval_shape(maybe_step, True, params, state)
    assert _types(new_params) == _types(jax.tree.map(jax.typeof, params))


@pytest.mark.slow
@every_row
@every_dtype(*DTYPES)
def test_updates_have_the_dtypes_of_params(row, dtype):
  with _precision(dtype):
    optimizer = row.factory(**row.kwargs)
    params = _params(dtype)
    state = optimizer.init(params)
    updates, _ = jax.eval_shape(
      lambda g, s, p: optimizer.update(g, s, p, **_extra_args(row, s, g)),
      *(params, state, params),
    )
    assert _types(updates) == _types(jax.tree.map(jax.typeof, params))


@pytest.mark.slow
@every_row
@every_dtype(*HALF)
def test_half_precision_moves_where_the_squared_norm_overflows(row, dtype):
  optimizer = row.factory(**row.kwargs)
  # Gradients of about 200, whose 24 squares sum to 15 times float16's largest.
  start = jax.tree.map(lambda p: p + dtype(100), _params(dtype))
  step = jax.jit(_make_step(row, optimizer))
  params, state = start, optimizer.init(start)
  for _ in range(3):
    params, state = step(params, state)
  for p, p_0 in zip(
    jax.tree.leaves(params), jax.tree.leaves(start), strict=True
  ):
    assert p.dtype == dtype
    assert jnp.all(jnp.isfinite(p))
    assert jnp.all(p < p_0)


@pytest.mark.slow
@every_row
@every_dtype(jnp.float32, jnp.float64, jnp.complex64)
def test_minimises_a_quadratic_in_a_scan(row, dtype):
  with _precision(dtype):
    optimizer = row.factory(**row.kwargs)
    step = _make_step(row, optimizer)
    params = _params(dtype)

    def run(params, state):
      return jax.lax.scan(
        lambda carry, _: (step(*carry), None), (params, state), length=300
      )[0]

    found, _ = jax.jit(run)(params, optimizer.init(params))
    # From 4 away; what is left is the slow tail of Adam and of decayed rates.
    _assert_same(found, _target(params), rtol=0, atol=1e-2)


@pytest.mark.slow
@every_row
def test_multi_steps_updates_once_with_the_mean_gradient(row):
  optimizer = row.factory(**row.kwargs)
  multi = optax.MultiSteps(optimizer, every_k_schedule=2)
  params = _params()
  state = optimizer.init(params)
  gradient = _gradient(params)
  extra_args = _extra_args(row, state, gradient)

  update = jax.jit(multi.update)
  first, waiting = update(gradient, multi.init(params), params, **extra_args)
  _assert_same(first, jax.tree.map(jnp.zeros_like, params))
  _assert_same(waiting.inner_opt_state, state)

  second, done = update(gradient, waiting, params, **extra_args)
  expected, expected_state = optimizer.update(
    gradient, state, params, **extra_args
  )
  # Fused and unfused float32 arithmetic differ by some ulps of 1e-7.
  _assert_same(second, expected, rtol=1e-5)
  _assert_same(done.inner_opt_state, expected_state, rtol=1e-5)


@pytest.mark.slow
@every_row
def test_injected_hyperparams_give_the_same_updates_and_state(row):
  optimizer = row.factory(**row.kwargs)
  injected = optax.inject_hyperparams(row.factory, row.static_args)(
    **row.kwargs
  )
  params = _params()
  gradient = _gradient(params)
  state = optimizer.init(params)
  state_injected = jax.jit(injected.init)(params)
  _assert_same(state_injected.inner_state, state)

  extra_args = _extra_args(row, state, gradient)
  updates, state = optimizer.update(gradient, state, params, **extra_args)
  updates_injected, state_injected = jax.jit(injected.update)(
    gradient, state_injected, params, **extra_args
  )
  # The constants are float32 arrays instead of float64 numbers: ulps of 1e-7.
  _assert_same(updates_injected, updates, rtol=1e-5)
  _assert_same(state_injected.inner_state, state, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('name', NUMERIC_RATES)
def test_an_injected_learning_rate_can_be_changed_between_steps(name):
  row = ROWS[name]
  optimizer = optax.inject_hyperparams(row.factory, row.static_args)(
    **row.kwargs
  )
  params = _params()
  gradient = _gradient(params)
  state = optimizer.init(params)
  extra_args = _extra_args(row, state, gradient)
  updates, _ = optimizer.update(gradient, state, params, **extra_args)
  state.hyperparams['learning_rate'] *= 2
  doubled, _ = optimizer.update(gradient, state, params, **extra_args)
  _assert_same(doubled, jax.tree.map(lambda u: 2 * u, updates))


@pytest.mark.parametrize('name', MASKABLE)
def test_masked_leaves_the_other_params_alone(name):
  row = ROWS[name]
  optimizer = row.factory(**row.kwargs)
  masked = optax.masked(optimizer, {'w': True, 'b': False})
  params = _params()
  gradient = _gradient(params)
  part = {'w': params['w']}
  state = optimizer.init(part)
  extra_args = _extra_args(row, state, gradient)

  updates, new_state = masked.update(
    gradient, masked.init(params), params, **extra_args
  )
  expected, expected_state = optimizer.update(
    {'w': gradient['w']}, state, part, **extra_args
  )
  _assert_same(updates['b'], gradient['b'])
  _assert_same(updates['w'], expected['w'])
  _assert_same(
    jax.tree.leaves(new_state.inner_state), jax.tree.leaves(expected_state)
  )


@every_row
def test_map_params_maps_the_leaves_like_params_and_no_other(row):
  optimizer = row.factory(**row.kwargs)
  state = optimizer.init(_params())
  _assert_same(optax.tree.map_params(optimizer, lambda s: s, state), state)
  mapped = optax.tree.map_params(optimizer, lambda s: s + 1, state)
  shapes = {p.shape for p in jax.tree.leaves(_params())}
  expected = jax.tree.map(lambda s: s + 1 if s.shape in shapes else s, state)
  _assert_same(mapped, expected)


@every_row
def test_init_needs_only_shapes_and_dtypes(row):
  optimizer = row.factory(**row.kwargs)
  params = _params(jnp.bfloat16)
  shapes = jax.eval_shape(lambda: params)
  state = optimizer.init(params)
  _assert_same(optimizer.init(shapes), state)
  abstract = jax.eval_shape(optimizer.init, shapes)
  assert _types(abstract) == _types(jax.tree.map(jax.typeof, state))


@every_row
def test_unknown_extra_args_are_ignored(row):
  optimizer = row.factory(**row.kwargs)
  params = _params()
  state = optimizer.init(params)
  gradient = _gradient(params)
  extra_args = _extra_args(row, state, gradient)
  _assert_same(
    optimizer.update(
      gradient, state, params, **extra_args, value=1e30, unknown='text'
    ),
    optimizer.update(gradient, state, params, **extra_args),
  )


def _sharded_params(axis_type):
  """Params whose first axis is spread over the eight devices; their mesh."""
  mesh = jax.make_mesh((8,), ('data',), axis_types=(axis_type,))
  sharding = jax.NamedSharding(mesh, jax.P('data'))
  return jax.device_put(_params(), sharding), mesh


def _assert_sharded_like_params(state, params):
  """Every leaf of a parameter's shape lies as the parameter does."""
  shardings = {p.shape: p.sharding for p in jax.tree.leaves(params)}
  for s in jax.tree.leaves(state):
    if s.shape in shardings:
      assert s.sharding.is_equivalent_to(shardings[s.shape], s.ndim)


@pytest.mark.slow
@every_row
def test_state_like_params_is_sharded_like_params(row):
  optimizer = row.factory(**row.kwargs)
  params, _ = _sharded_params(jax.sharding.AxisType.Auto)
  state = optimizer.init(params)
  _assert_sharded_like_params(state, params)
  new_params, new_state = jax.jit(_make_step(row, optimizer))(params, state)
  _assert_sharded_like_params(new_params, params)
  _assert_sharded_like_params(new_state, params)


@pytest.mark.slow
@every_row
def test_jitted_init_shards_state_like_params_on_an_explicit_mesh(row):
  optimizer = row.factory(**row.kwargs)
  params, mesh = _sharded_params(jax.sharding.AxisType.Explicit)
  with jax.set_mesh(mesh):
    _assert_sharded_like_params(jax.jit(optimizer.init)(params), params)


def test_scale_by_adagrad_shards_a_wider_sum_of_squares_like_params():
  # The rows above would also pass without any state of the shape of params.
  params, _ = _sharded_params(jax.sharding.AxisType.Auto)
  params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
  sums = adaopt.transforms.scale_by_adagrad().init(params).sum_of_squares
  for name, p in params.items():
    assert sums[name].dtype == jnp.float32
    assert sums[name].sharding == p.sharding
