"""Micro-batches that do not make the batch, or make it at the wrong time.

A failure here means that a loop of one's own moves parameters before its batch
is complete, that it takes other sizes or steps than `train_step` on the same
examples, recompiles as the batch grows, or meets no sentence where it errs.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from flax import linen as nn
from flax import nnx
from flax.training import train_state as linen_train_state

import adaopt

MICRO = 4


def oracle_leaves(tree):
  """All numbers of a tree as one array."""
  return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def make_dataset(n=96, d=5):
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


SIZES = dict(init_batch_size=MICRO, max_batch_size=64, multiple_of=MICRO)
NORM = adaopt.norm_test(0.4)


def accumulate(inner, criterion, *, group_size=1, **options):
  adapt = adaopt.adapt_batch_size(criterion, **options)
  return adaopt.accumulate(optax.chain(adapt, inner), group_size=group_size)


def make_step(optimizer, estimate):
  """(carry, micro-batch) → (carry, what a loop can see after it)."""

  def step(carry, batch):
    params, state = carry
    loss, statistics = estimate(params, batch)
    updates, state = optimizer.update(
      statistics.mean, state, params, statistics=statistics, value=loss
    )
    seen = [optax.tree.get(state, f) for f in ('accumulated', 'batch_size')]
    return (optax.apply_updates(params, updates), state), (*seen, updates)

  return step


@functools.cache
def drawn(seed):
  """The micro-batches of nine batches of the largest size. [144, 4, ...]."""
  positions = jnp.arange(9 * SIZES['max_batch_size'])
  batches = adaopt.draw(make_dataset(), seed, positions)
  return jax.tree.map(
    lambda x: np.asarray(x).reshape(-1, MICRO, *x.shape[1:]), batches
  )


def run(optimizer, estimate, micro_batches, seed=3):
  """The final carry and the sizes of the completed batches."""
  batches = jax.tree.map(lambda x: x[:micro_batches], drawn(seed))
  params = make_params()
  carry, (accumulated, *_) = jax.jit(
    lambda *args: jax.lax.scan(make_step(optimizer, estimate), *args)
  )((params, optimizer.init(params)), batches)
  (ends,) = np.nonzero(np.asarray(accumulated) == 0)
  return carry, (np.diff(ends, prepend=-1) * MICRO).tolist()


def plain(params, batch):
  """What a loop that knows nothing of statistics has."""
  loss, gradient = jax.value_and_grad(loss_fn)(params, batch)
  return loss, adaopt.GradientStatistics(np.int32(MICRO), gradient)


def estimator(**options):
  return adaopt.value_and_statistics(loss_fn, **options)


COORDINATE = adaopt.coordinate_norm_test(0.9, reduce=jnp.median)
DECAY = optax.linear_schedule(0.5, 0.1, transition_steps=300)

# Criterion, options of train_step, estimate of a micro-batch, optimizer.
SAME = {
  'norm': (NORM, {}, estimator(), adaopt.adagrad(0.5)),
  'norm of groups': (
    NORM,
    dict(group_size=2),
    estimator(group_size=2),
    adaopt.adagrad(0.5),
  ),
  'plain gradients': (
    NORM,
    dict(group_size=MICRO),
    plain,
    adaopt.adagrad(0.5),
  ),
  'coordinate': (
    COORDINATE,
    {},
    estimator(),
    adaopt.adagrad(0.5),
  ),
  'coordinate of groups': (
    COORDINATE,
    dict(group_size=2),
    estimator(group_size=2),
    optax.adam(0.2),
  ),
  'rate by batch size': (
    NORM,
    {},
    estimator(),
    optax.chain(optax.sgd(0.02), adaopt.scale_by_batch_size()),
  ),
  'rate by examples': (
    NORM,
    {},
    estimator(),
    optax.chain(
      adaopt.transforms.scale_by_adagrad(),
      adaopt.scale_by_example_schedule(DECAY),
      optax.scale(-1.0),
    ),
  ),
}


@pytest.mark.slow
@pytest.mark.parametrize(
  ('criterion', 'options', 'estimate', 'inner'), SAME.values(), ids=SAME
)
def test_equals_train_step_on_the_same_examples(
  criterion, options, estimate, inner
):
  optimizer = optax.chain(adaopt.adapt_batch_size(criterion, **SIZES), inner)
  step = adaopt.train_step(
    loss_fn, optimizer, micro_batch_size=MICRO, **options
  )
  state = adaopt.init_train_state(make_params(), optimizer, seed=3)
  sizes = []
  for _ in range(9):
    state, metrics = step(state, make_dataset())
    sizes.append(int(metrics.batch_size))
  assert len(set(sizes)) > 2  # It grows, and more than once.

  (params, accumulated), found = run(
    accumulate(inner, criterion, **options, **SIZES),
    estimate,
    sum(sizes) // MICRO,
  )
  assert found == sizes
  # Means merged instead of sums added: some float32 roundings in 9 steps.
  chex.assert_trees_all_close(params, state.params, rtol=1e-4)
  chex.assert_trees_all_close(
    accumulated.inner_state, state.opt_state, rtol=1e-3
  )


def _feed(optimizer, params, micro_batches, state=None):
  """The updates and states after (gradient, b, variance or None) each."""
  state = optimizer.init(params) if state is None else state
  update = jax.jit(optimizer.update)
  history = []
  for gradient, size, variance in micro_batches:
    statistics = adaopt.GradientStatistics(
      jnp.int32(size),
      gradient,
      jnp.float32(jnp.nan if variance is None else variance),
    )
    updates, state = update(gradient, state, params, statistics=statistics)
    history.append((updates, state))
  return history


def _sgd(criterion=NORM, init_batch_size=8, max_batch_size=64, **options):
  return accumulate(
    optax.sgd(1.0),
    criterion,
    init_batch_size=init_batch_size,
    max_batch_size=max_batch_size,
    **options,
  )


ONES = jnp.ones(2)


def test_updates_are_zero_until_the_batch_is_complete():
  history = _feed(
    _sgd(), ONES, [(ONES, 3, 1.0), (3 * ONES, 3, 1.0), (6 * ONES, 2, 1.0)]
  )
  updates = [u.tolist() for u, _ in history]
  # The mean of 3 ones, 3 threes and 2 sixes.
  assert updates == [[0, 0], [0, 0], [-3, -3]]
  states = [s for _, s in history]
  assert [int(s.accumulated) for s in states] == [3, 6, 0]
  counts = [int(optax.tree.get(s, 'count')) for s in states]
  assert counts == [0, 0, 1]


def test_the_state_is_as_new_after_a_batch():
  optimizer = _sgd()
  ((_, state),) = _feed(optimizer, ONES, [(ONES, 8, 1.0)])
  fresh = optimizer.init(ONES)
  assert adaopt.has_updated(state)
  chex.assert_trees_all_equal(
    state._replace(inner_state=(), updated=fresh.updated),
    fresh._replace(inner_state=()),
  )


def test_the_test_sees_the_noise_between_micro_batches_too():
  seen = []

  def criterion(statistics):
    jax.debug.callback(lambda *x: seen.append(x), *statistics[:3])
    return 20.0

  _, (_, state) = _feed(
    _sgd(criterion), ONES, [(ONES, 2, 1.0), (3 * ONES, 6, 2.0)]
  )
  jax.effects_barrier()
  ((size, mean, variance),) = seen
  assert size == 8
  assert mean.tolist() == [2.5, 2.5]
  # Per coordinate 2 · 1.5² + 6 · 0.5²; within, 1 · 1 + 5 · 2; over 7.
  np.testing.assert_allclose(variance, (2 * 6 + 11) / 7, rtol=1e-6)
  assert optax.tree.get(state, 'batch_size') == 20


@pytest.mark.parametrize(
  ('micro', 'calls'), [(3, 3), (8, 1), (100, 1)], ids=['runs over', '', 'less']
)
def test_the_last_micro_batch_may_run_over(micro, calls):
  history = _feed(_sgd(), ONES, [(ONES, micro, 1.0)] * calls)
  accumulated = [int(s.accumulated) for _, s in history]
  assert accumulated == [micro * (i + 1) for i in range(calls - 1)] + [0]


def test_a_test_waits_for_two_samples():
  # Groups of 8 with batches of 8: the mean alone would be complete.
  optimizer = _sgd(group_size=8, test_interval=2)
  history = _feed(optimizer, ONES, [(ONES, 8, None)] * 3)
  # A test, so two samples; none, so one.
  assert [int(s.accumulated) for _, s in history] == [8, 0, 0]
  # Without noise 0 examples are required.
  assert [float(optax.tree.get(s, 'required')) for _, s in history][1:] == [
    0,
    0,
  ]


def test_without_a_variance_no_second_sample_is_waited_for():
  optimizer = _sgd(lambda statistics: 3.0 * statistics.batch_size, group_size=8)
  ((_, state),) = _feed(optimizer, ONES, [(ONES, 8, None)])
  assert state.spread is None
  assert state.accumulated == 0
  assert optax.tree.get(state, 'batch_size') == 24


def test_a_batch_without_a_test_needs_no_variance():
  optimizer = _sgd(test_interval=2)
  history = _feed(
    optimizer,
    ONES,
    [(ONES, 8, 1.0), (ONES, 4, None), (ONES, 4, None), (ONES, 8, 4.0)],
  )
  due = [bool(optax.tree.get(s, 'test_due')) for _, s in history]
  assert due == [False, False, True, False]
  # v / (0.4² · 2): 4 / 0.32.
  sizes = [int(optax.tree.get(s, 'batch_size')) for _, s in history]
  assert sizes == [8, 8, 8, 13]


def test_a_test_that_a_variance_is_missing_for_has_no_evidence():
  _, (updates, state) = _feed(_sgd(), ONES, [(ONES, 4, 100.0), (ONES, 4, None)])
  assert updates.tolist() == [-1, -1]
  assert np.isnan(optax.tree.get(state, 'required'))
  assert optax.tree.get(state, 'batch_size') == 8


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_a_batch_that_is_not_finite_is_left_out(bad):
  optimizer = accumulate(
    optax.adam(0.1), NORM, init_batch_size=8, max_batch_size=64
  )
  good = [(ONES, 4, 1.0), (2 * ONES, 4, 1.0)]
  _, (_, before) = _feed(optimizer, ONES, good)
  history = _feed(
    optimizer, ONES, [(ONES.at[0].set(bad), 4, 9.0), (ONES, 4, 9.0)], before
  )
  for updates, _ in history:
    assert updates.tolist() == [0, 0]
  after = history[-1][1]
  assert adaopt.has_updated(before)
  assert not adaopt.has_updated(after)
  chex.assert_trees_all_equal(after, before._replace(updated=after.updated))
  _, (updates, _) = _feed(optimizer, ONES, good, after)
  assert np.all(np.isfinite(updates))
  assert np.all(updates < 0)


@pytest.mark.parametrize('bad', [np.nan, np.inf])
@pytest.mark.parametrize('first', [True, False])
def test_a_batch_whose_loss_is_not_finite_is_left_out(bad, first):
  optimizer = accumulate(
    optax.adam(0.1), NORM, init_batch_size=8, max_batch_size=64, group_size=4
  )
  before = state = optimizer.init(ONES)
  for value in (bad, 1.0) if first else (1.0, bad):
    updates, state = optimizer.update(ONES, state, ONES, value=value)
    assert updates.tolist() == [0, 0]
  chex.assert_trees_all_equal(state, before)
  for _ in range(2):
    updates, state = optimizer.update(ONES, state, ONES, value=1.0)
  assert np.all(updates < 0)


def _records(name):
  """An inner transform whose state is the extra argument of this name."""

  def update_fn(updates, state, params=None, **extra_args):
    del params, state
    return updates, {'recorded': jnp.asarray(extra_args[name], jnp.float32)}

  return optax.GradientTransformationExtraArgs(
    lambda params: {'recorded': jnp.float32(-1)}, update_fn
  )


def test_inner_gets_the_mean_loss_and_the_arguments_of_the_last_call():
  optimizer = accumulate(
    optax.chain(_records('value'), _records('learning_rate')),
    NORM,
    init_batch_size=8,
    max_batch_size=64,
    group_size=4,
  )
  state = optimizer.init(ONES)
  for value, rate in ((1.0, 0.1), (4.0, 0.2)):
    _, state = optimizer.update(
      ONES, state, ONES, value=value, learning_rate=rate, unknown='text'
    )
  _, (mean, rate) = state.inner_state
  assert mean['recorded'] == 2.5
  np.testing.assert_allclose(rate['recorded'], 0.2, rtol=1e-7)


def test_inner_that_needs_the_loss_works():
  optimizer = accumulate(
    optax.chain(optax.sgd(1.0), optax.contrib.reduce_on_plateau(factor=0.5)),
    NORM,
    init_batch_size=8,
    max_batch_size=8,
    group_size=8,
  )
  updates, _ = optimizer.update(ONES, optimizer.init(ONES), ONES, value=1.0)
  assert updates.tolist() == [-1, -1]


def test_opt_state_is_that_of_the_criterion_and_inner():
  recorded = []

  def update_fn(updates, state, params=None, *, opt_state, **extra_args):
    del params, extra_args
    recorded.append(jax.tree.structure(opt_state))
    return updates, state

  inner = optax.GradientTransformationExtraArgs(
    lambda params: optax.EmptyState(), update_fn
  )
  optimizer = accumulate(
    inner, NORM, init_batch_size=8, max_batch_size=8, group_size=8
  )
  state = optimizer.init(ONES)
  optimizer.update(ONES, state, ONES, opt_state='of the caller')
  assert set(recorded) == {jax.tree.structure(state.inner_state)}


def test_half_precision_is_accumulated_in_single():
  params = jnp.ones(2, jnp.bfloat16)
  optimizer = _sgd(init_batch_size=256, max_batch_size=256, group_size=1)
  # A running mean in bfloat16, of spacing 2⁻⁷ at 1, would stay where it is.
  last = jnp.full(2, 1 + 2**-7, jnp.bfloat16)
  history = _feed(
    optimizer, params, [(params, 1, None)] * 64 + [(last, 1, None)] * 192
  )
  before, after = history[-2][1], history[-1]
  assert before.mean.dtype == jnp.float32
  # 191 of 255 are the larger one. 255 roundings of 6e-8.
  np.testing.assert_allclose(before.mean, 1 + 2**-7 * 191 / 255, rtol=1.6e-5)
  assert after[0].dtype == jnp.bfloat16
  # 1 + 0.75 · 2⁻⁷ rounded to bfloat16.
  assert after[0].tolist() == [-1.0078125, -1.0078125]


def test_one_program_serves_every_batch_size_and_takes_donated_states():
  traces = []
  optimizer = _sgd(
    lambda statistics: 3.0 * statistics.batch_size,
    init_batch_size=4,
    max_batch_size=500,
    multiple_of=4,
  )

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(params, state, batch):
    traces.append(1)
    _, statistics = estimator()(params, batch)
    updates, state = optimizer.update(
      statistics.mean, state, params, statistics=statistics
    )
    return optax.apply_updates(params, updates), state

  params = make_params()
  state = optimizer.init(params)
  batch = jax.tree.map(lambda x: x[:MICRO], make_dataset())
  sizes = []
  while len(sizes) < 5:
    params, state = step(params, state, batch)
    if optax.tree.get(state, 'accumulated') == 0:
      sizes.append(int(optax.tree.get(state, 'batch_size')))
  assert sizes == [12, 36, 108, 324, 500]
  assert len(traces) == 1


def test_the_tolerance_can_be_mapped_over():
  def size(eta):
    criterion = adaopt.norm_test(eta)
    optimizer = _sgd(criterion, group_size=4)
    state = optimizer.init(ONES)
    for gradient in (ONES, 3 * ONES):
      _, state = optimizer.update(gradient, state, ONES)
    return optax.tree.get(state, 'batch_size')

  # v = 4 · (1 + 1) · 2 = 16 and ‖ḡ‖² = 8: 2 / eta².
  sizes = jax.jit(jax.vmap(size))(jnp.array([0.25, 0.5, 1.0]))
  assert sizes.tolist() == [32, 8, 8]


@functools.cache
def _unwrapped():
  return run(accumulate(adaopt.adagrad(0.5), NORM, **SIZES), estimator(), 30)


@pytest.mark.parametrize(
  'wrap',
  [
    lambda t: optax.chain(optax.identity(), t),
    lambda t: optax.apply_if_finite(t, max_consecutive_errors=3),
  ],
  ids=['chain', 'apply_if_finite'],
)
def test_works_inside_wrappers(wrap):
  optimizer = accumulate(adaopt.adagrad(0.5), NORM, **SIZES)
  (params, _), sizes = run(wrap(optimizer), estimator(), 30)
  (expected, _), expected_sizes = _unwrapped()
  assert sizes == expected_sizes
  # The same arithmetic, fused in other programs.
  chex.assert_trees_all_close(params, expected, rtol=1e-5)


def test_a_mask_inside_leaves_the_other_params_alone():
  inner = optax.chain(
    optax.masked(optax.sgd(0.05), {'w': True, 'b': False}),
    optax.masked(optax.set_to_zero(), {'w': False, 'b': True}),
  )
  optimizer = accumulate(inner, NORM, **SIZES)
  (params, _), _ = run(optimizer, estimator(), 10)
  assert params['b'] == 0
  assert np.all(params['w'] != 0)


def test_injected_sizes_and_rates_can_be_changed_between_batches():
  def make(learning_rate, criterion, init_batch_size, max_batch_size):
    return accumulate(
      optax.sgd(learning_rate),
      criterion,
      init_batch_size=init_batch_size,
      max_batch_size=max_batch_size,
    )

  optimizer = optax.inject_hyperparams(make, static_args=('criterion',))(
    learning_rate=1.0, criterion=NORM, init_batch_size=8, max_batch_size=16
  )
  ((updates, state),) = _feed(optimizer, ONES, [(ONES, 8, 100.0)])
  assert updates.tolist() == [-1, -1]
  assert optax.tree.get(state, 'batch_size') == 16
  state.hyperparams['max_batch_size'] = jnp.int32(40)
  state.hyperparams['learning_rate'] = jnp.float32(0.5)
  ((updates, state),) = _feed(optimizer, ONES, [(ONES, 16, 100.0)], state)
  assert updates.tolist() == [-0.5, -0.5]


def _linen_state(tx):
  model = nn.Dense(1)
  params = model.init(jax.random.key(0), jnp.ones((1, 5)))
  return linen_train_state.TrainState.create(
    apply_fn=model.apply, params=params, tx=tx
  )


def test_a_linen_train_state_takes_plain_gradients():
  optimizer = accumulate(optax.sgd(0.05), NORM, group_size=MICRO, **SIZES)
  state = _linen_state(optimizer)

  @jax.jit
  def step(state, batch):
    def loss(params):
      predicted = state.apply_fn(params, batch['x'])[:, 0]
      return jnp.mean((predicted - batch['y']) ** 2)

    return state.apply_gradients(grads=jax.grad(loss)(state.params))

  start = state.params
  params, accumulated = [], []
  for i in range(4):
    positions = jnp.arange(i * MICRO, (i + 1) * MICRO)
    state = step(state, adaopt.draw(make_dataset(), 0, positions))
    params.append(state.params)
    accumulated.append(int(optax.tree.get(state.opt_state, 'accumulated')))
  # The first test has two samples; the size it asks for is above that.
  assert accumulated == [4, 0, 4, 8]
  chex.assert_trees_all_equal(params[0], start)
  chex.assert_trees_all_equal(params[1], params[2], params[3])
  assert np.all(params[1]['params']['kernel'] != start['params']['kernel'])


@pytest.mark.slow
@pytest.mark.parametrize('gradients', ['statistics', 'plain'])
def test_an_nnx_optimizer_equals_the_loop_in_optax(gradients):
  def squares(model, batch):
    return jnp.mean((model(batch['x'])[:, 0] - batch['y']) ** 2)

  model = nnx.Linear(5, 1, rngs=nnx.Rngs(0))
  tx = accumulate(
    optax.sgd(0.05),
    NORM,
    group_size=1 if gradients == 'statistics' else MICRO,
    **SIZES,
  )
  optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
  graph, params = nnx.split(model)
  params = jax.tree.map(jnp.copy, params)
  state = tx.init(params)

  def pure_loss(params, batch):
    return squares(nnx.merge(graph, params), batch)

  @nnx.jit
  def nnx_step(model, optimizer, batch):
    if gradients == 'plain':
      optimizer.update(model, nnx.grad(squares)(model, batch))
      return
    graph, params = nnx.split(model)
    _, statistics = adaopt.value_and_statistics(
      lambda params, batch: squares(nnx.merge(graph, params), batch)
    )(params, batch)
    optimizer.update(model, statistics.mean, statistics=statistics)

  @jax.jit
  def step(params, state, batch):
    if gradients == 'plain':
      updates, state = tx.update(
        jax.grad(pure_loss)(params, batch), state, params
      )
    else:
      _, statistics = adaopt.value_and_statistics(pure_loss)(params, batch)
      updates, state = tx.update(
        statistics.mean, state, params, statistics=statistics
      )
    return optax.apply_updates(params, updates), state

  for i in range(12):
    positions = jnp.arange(i * MICRO, (i + 1) * MICRO)
    batch = adaopt.draw(make_dataset(), 0, positions)
    nnx_step(model, optimizer, batch)
    params, state = step(params, state, batch)
    for field in ('accumulated', 'batch_size'):
      assert optax.tree.get(optimizer.opt_state, field)[...] == optax.tree.get(
        state, field
      )
  assert optax.tree.get(state, 'count') > 1
  # The same arithmetic, fused in other programs.
  chex.assert_trees_all_close(
    nnx.to_pure_dict(nnx.state(model, nnx.Param)),
    nnx.to_pure_dict(params),
    rtol=1e-5,
  )


def _update(optimizer, statistics, gradient=ONES):
  return optimizer.update(
    gradient, optimizer.init(gradient), gradient, statistics=statistics
  )


GOOD = adaopt.GradientStatistics(jnp.int32(8), ONES, jnp.float32(1.0))


@pytest.mark.parametrize(
  ('optimizer', 'statistics', 'sentence'),
  [
    (_sgd(), None, 'pass statistics= to update, or for plain gradients'),
    (
      _sgd(),
      GOOD._replace(batch_size=0),
      'statistics.batch_size must be an integer of at least 1 .* got 0',
    ),
    (
      _sgd(COORDINATE),
      GOOD,
      'accumulate needs statistics.coordinate_variance of every micro-batch',
    ),
    (
      _sgd(),
      GOOD._replace(variance=None),
      'accumulate needs statistics.variance of every micro-batch, since the',
    ),
    (_sgd(), (8, ONES), 'needs statistics= to be adaopt.GradientStatistics'),
    (
      _sgd(),
      GOOD._replace(variance={'w': jnp.float32(1)}),
      'must hold an entry for every tensor',
    ),
  ],
  ids=['none', 'empty', 'coordinate', 'no variance', 'tuple', 'structure'],
)
def test_statistics_that_do_not_merge_are_refused(
  optimizer, statistics, sentence
):
  with pytest.raises(ValueError, match=sentence):
    _update(optimizer, statistics)


@pytest.mark.parametrize(
  ('criterion', 'name'),
  [
    (adaopt.inner_product_test(0.1), 'inner_product_test'),
    (adaopt.criteria.orthogonality_test(0.1), 'orthogonality_test'),
    (adaopt.augmented_inner_product_test(0.1, nu=0.1), 'inner_product_test'),
  ],
)
def test_a_criterion_that_takes_a_second_pass_is_refused(criterion, name):
  every = GOOD._replace(variance_along_mean=jnp.float32(1))
  sentence = f'{name} needs statistics.variance_along_mean.*use train_step'
  with pytest.raises(ValueError, match=sentence):
    _update(_sgd(criterion), every)


@pytest.mark.parametrize(
  ('optimizer', 'options', 'sentence'),
  [
    (_sgd(), dict(group_size=0), 'group_size must be an integer .* got 0'),
    (0.1, {}, r'optimizer must be an optax optimizer, got 0\.1'),
    (optax.sgd, {}, r'got <function sgd .* as in sgd\(…\)'),
  ],
)
def test_options_out_of_range_are_refused(optimizer, options, sentence):
  with pytest.raises(ValueError, match=sentence):
    adaopt.accumulate(optimizer, **options)


def test_an_optimizer_without_a_batch_size_is_refused():
  with pytest.raises(ValueError, match='holds 0 batch sizes'):
    adaopt.accumulate(optax.sgd(0.1)).init(ONES)
  two = optax.chain(adaopt.schedule_batch_size(8), HOLDERS['adadagrad'])
  with pytest.raises(ValueError, match='holds 2 batch sizes'):
    adaopt.accumulate(two).init(ONES)


RATE, SIZE = adaopt.seesaw(0.05, MICRO, boundaries=[24, 64], factor=2.0)
HOLDERS = {
  'adadagrad': adaopt.adadagrad(0.5, NORM, **SIZES),
  'adaptive': adaopt.adaptive(optax.adamw(1.0), 0.1, **SIZES),
  'schedule': optax.chain(adaopt.schedule_batch_size(12), optax.adam(0.1)),
  'seesaw': optax.chain(
    adaopt.schedule_batch_size(SIZE),
    adaopt.scale_by_example_schedule(RATE),
    optax.sgd(1.0),
  ),
  'adascale': optax.chain(
    adaopt.schedule_batch_size(16),
    adaopt.scale_by_adascale(base_batch_size=MICRO),
    optax.sgd(0.02),
  ),
  'loss': optax.chain(
    adaopt.adapt_batch_size(adaopt.criteria.cabs(0.5), **SIZES),
    optax.sgd(0.02),
  ),
  'metric': optax.chain(
    adaopt.adapt_batch_size(
      adaopt.criteria.preconditioned_norm_test(
        0.4, adaopt.criteria.adam_preconditioner()
      ),
      **SIZES,
    ),
    optax.adam(0.1),
  ),
  'adascale, norm test': optax.chain(
    adaopt.adapt_batch_size(NORM, **SIZES),
    adaopt.scale_by_adascale(base_batch_size=MICRO),
    optax.sgd(0.02),
  ),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', HOLDERS)
def test_any_optimizer_that_holds_a_batch_size_updates_as_by_whole_batches(
  name,
):
  optimizer = HOLDERS[name]
  multi = adaopt.accumulate(optimizer)
  estimate = estimator()
  update, whole_update = jax.jit(multi.update), jax.jit(optimizer.update)
  average = params = make_params()
  whole_params = average_by_hand = make_params()
  state, whole_state = multi.init(params), optimizer.init(params)
  start, sizes = 0, []
  for i in range(40):
    batch = jax.tree.map(lambda x, i=i: x[i], drawn(3))
    loss, statistics = estimate(params, batch)
    updates, state = update(
      statistics.mean, state, params, statistics=statistics, value=loss
    )
    moved = adaopt.has_updated(state)
    assert moved == any(np.any(u != 0) for u in jax.tree.leaves(updates))
    if moved:
      size = int(optax.tree.get(whole_state, 'batch_size'))
      sizes.append(size)
      assert (i + 1 - start) * MICRO == size
      whole = jax.tree.map(
        lambda x, a=start, b=i + 1: x[a:b].reshape(-1, *x.shape[2:]), drawn(3)
      )
      loss, statistics = estimate(params, whole)
      expected, whole_state = whole_update(
        statistics.mean,
        whole_state,
        params,
        statistics=statistics,
        value=loss,
        opt_state=whole_state,
      )
      # Means of means in place of one mean: some float32 roundings.
      chex.assert_trees_all_close(updates, expected, rtol=1e-4, atol=1e-7)
      whole_params = optax.apply_updates(whole_params, expected)
      average_by_hand = jax.tree.map(
        lambda a, p: 0.5 * a + 0.5 * p, average_by_hand, whole_params
      )
      start = i + 1
    else:
      assert all(not np.any(u) for u in jax.tree.leaves(updates))
    params = optax.apply_updates(params, updates)
    rate = jnp.where(moved, 0.5, 0.0)
    average = optax.incremental_update(params, average, rate)
  assert len(sizes) > 2
  chex.assert_trees_all_close(params, whole_params, rtol=1e-4, atol=1e-6)
  chex.assert_trees_all_close(average, average_by_hand, rtol=1e-4, atol=1e-6)
  chex.assert_trees_all_close(state.inner_state, whole_state, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['adaptive', 'seesaw', 'adascale, norm test'])
def test_an_nnx_optimizer_tells_whether_it_has_updated(name):
  model = nnx.Linear(5, 1, rngs=nnx.Rngs(0))
  multi = adaopt.accumulate(HOLDERS[name])
  optimizer = nnx.Optimizer(model, multi, wrt=nnx.Param)
  graph, params = nnx.split(model)
  params = jax.tree.map(jnp.copy, params)
  state = multi.init(params)
  estimate = adaopt.value_and_statistics(
    lambda params, batch: jnp.mean(
      (nnx.merge(graph, params)(batch['x'])[:, 0] - batch['y']) ** 2
    )
  )

  @nnx.jit
  def nnx_step(model, optimizer, batch):
    _, statistics = estimate(nnx.state(model, nnx.Param), batch)
    optimizer.update(model, statistics.mean, statistics=statistics)

  @jax.jit
  def step(params, state, batch):
    _, statistics = estimate(params, batch)
    updates, state = multi.update(
      statistics.mean, state, params, statistics=statistics
    )
    return optax.apply_updates(params, updates), state

  history = []
  for i in range(10):
    batch = jax.tree.map(lambda x, i=i: x[i], drawn(3))
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model)))
    nnx_step(model, optimizer, batch)
    params, state = step(params, state, batch)
    moved = bool(jnp.asarray(adaopt.has_updated(optimizer.opt_state)))
    assert moved == bool(adaopt.has_updated(state))
    after = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model)))
    assert moved == np.any(before['kernel'] != after['kernel'])
    history.append(moved)
  assert set(history) == {False, True}


def test_has_updated_asks_for_one_accumulate():
  with pytest.raises(ValueError, match='one accumulate, got 0'):
    adaopt.has_updated(optax.adam(0.1).init(ONES))
  two = optax.chain(*2 * [adaopt.accumulate(HOLDERS['schedule'], group_size=2)])
  with pytest.raises(ValueError, match='one accumulate, got 2'):
    adaopt.has_updated(two.init(ONES))
  multi = optax.MultiSteps(optax.sgd(0.1), 2).init(ONES)
  with pytest.raises(ValueError, match=r'optax\.MultiSteps ask its own'):
    adaopt.has_updated(multi)


def test_has_updated_of_an_nnx_optimizer_is_an_array_to_branch_on():
  model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
  multi = adaopt.accumulate(HOLDERS['schedule'], group_size=6)
  optimizer = nnx.Optimizer(model, multi, wrt=nnx.Param)
  found = []
  for _ in range(4):
    optimizer.update(model, optax.tree.ones_like(nnx.state(model, nnx.Param)))
    updated = adaopt.has_updated(optimizer.opt_state)
    assert isinstance(updated, jax.Array)
    found.append(1 if updated else 0)
  assert found == [0, 1, 0, 1]


def test_has_updated_is_told_under_jit_and_in_wrappers():
  optimizer = optax.chain(
    optax.clip(10.0), adaopt.accumulate(HOLDERS['schedule'], group_size=6)
  )
  state = optimizer.init(ONES)
  assert not adaopt.has_updated(state)
  found = []
  for _ in range(6):
    _, state = jax.jit(optimizer.update)(ONES, state, ONES)
    found.append(bool(jax.jit(adaopt.has_updated)(state)))
  assert found == 3 * [False, True]


@pytest.mark.slow
@pytest.mark.parametrize('group_size', [1, 2])
@pytest.mark.parametrize('sizes', [(4, 4, 4), (2, 6, 4), (8, 4)])
def test_what_merges_is_what_the_gradients_of_the_batch_say(sizes, group_size):
  seen = []

  def criterion(statistics):
    jax.debug.callback(
      lambda *x: seen.append(x),
      *map(oracle_leaves, statistics[:4]),
    )
    return 12.0

  optimizer = _sgd(
    criterion, init_batch_size=12, max_batch_size=24, group_size=group_size
  )
  params = {'w': jnp.linspace(-1.0, 1.0, 5), 'b': jnp.array(0.5)}
  batch = jax.tree.map(lambda x: x[:12], make_dataset())
  state, start = optimizer.init(params), 0
  for size in sizes:
    micro = jax.tree.map(lambda x, a=start, b=size: x[a : a + b], batch)
    # One sample alone has no variance.
    several = {} if size > group_size else dict(only=())
    estimate = estimator(group_size=group_size, **several)
    _, statistics = estimate(params, micro)
    _, state = optimizer.update(
      statistics.mean, state, params, statistics=statistics
    )
    start += size
  jax.effects_barrier()
  assert adaopt.has_updated(state)
  ((size, mean, variance, coordinates),) = seen
  with jax.enable_x64(True):
    g = oracles.sample_gradients(
      loss_fn, *jax.tree.map(lambda x: np.asarray(x, float), (params, batch))
    )
  assert size.tolist() == [12]
  of = lambda estimate: oracles.group_estimate(estimate, g, group_size)
  np.testing.assert_allclose(mean, oracles.mean(g), rtol=1e-5)
  np.testing.assert_allclose(
    coordinates, of(oracles.coordinate_variances), rtol=1e-5
  )
  np.testing.assert_allclose(
    variance, of(lambda g: oracles.tensor_variances(g, params)), rtol=1e-5
  )


def test_spreads_are_held_only_where_the_optimizer_reads_them():
  none = adaopt.accumulate(HOLDERS['schedule'], group_size=2).init(ONES)
  assert none.spread is None
  assert none.coordinate_spread is None
  total = _sgd().init(ONES)
  assert total.spread.shape == (1,)
  assert total.coordinate_spread is None
  coordinate = _sgd(COORDINATE).init(ONES)
  assert coordinate.spread is None
  assert coordinate.coordinate_spread.shape == (2,)
