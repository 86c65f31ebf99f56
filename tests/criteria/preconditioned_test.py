"""If these fail, noise and signal are weighed in another optimizer's metric."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from flax import linen as nn

import adaopt

GRADIENTS = np.random.default_rng(0).normal(size=(6, 4)) + 0.5


def _tree(row):
  return {'a': jnp.asarray(row[:3], jnp.float32), 'b': jnp.float32(row[3])}


STATISTICS = adaopt.GradientStatistics(
  jnp.int32(6),
  _tree(oracles.mean(GRADIENTS)),
  coordinate_variance=_tree(oracles.coordinate_variances(GRADIENTS)),
)


def _required(preconditioner, eta=0.5, opt_state='given'):
  criterion = adaopt.criteria.preconditioned_norm_test(eta, preconditioner)
  state = criterion.init(STATISTICS.mean)
  return criterion.update(STATISTICS, state, opt_state=opt_state)[0]


def test_requirement_is_that_of_the_oracle_in_a_given_metric():
  d = np.array([2.0, 0.0, 0.1, 7.0])
  noise = sum(oracles.coordinate_variances(GRADIENTS) * d)
  signal = sum(oracles.mean(GRADIENTS) ** 2 * d)
  np.testing.assert_allclose(
    _required(lambda opt_state: _tree(d)), noise / (0.25 * signal), rtol=1e-6
  )


def test_in_no_metric_it_is_the_norm_test_and_no_scale_changes_it():
  plain = adaopt.norm_test(0.5)(STATISTICS)
  ones = optax.tree.ones_like(STATISTICS.mean)
  np.testing.assert_allclose(_required(lambda _: ones), plain, rtol=1e-6)
  d = _tree([2.0, 0.5, 0.1, 7.0])
  expected = _required(lambda _: d)
  assert abs(expected / plain - 1) > 0.05
  for scale in (2.0**-30, 2.0**30):
    scaled = optax.tree.scale(scale, d)
    # A power of two only shifts exponents.
    np.testing.assert_array_equal(_required(lambda _, s=scaled: s), expected)


def _optimizers(**epsilons):
  """An optimizer whose update is d · gradient, and its preconditioner."""
  return {
    'adagrad': (
      adaopt.transforms.scale_by_adagrad(**epsilons),
      adaopt.criteria.adagrad_preconditioner(**epsilons),
    ),
    'adam': (
      optax.scale_by_adam(b1=0.0, b2=0.9, **epsilons),
      adaopt.criteria.adam_preconditioner(b2=0.9, **epsilons),
    ),
  }


@pytest.mark.parametrize('name', ['adagrad', 'adam'])
@pytest.mark.parametrize(
  'epsilons', [{}, dict(eps=0.3), dict(eps=0.0, eps_root=0.2)]
)
def test_the_diagonal_is_what_the_optimizer_multiplied_with(name, epsilons):
  optimizer, preconditioner = _optimizers(**epsilons)[name]
  state = optimizer.init(STATISTICS.mean)
  for row in GRADIENTS:
    updates, state = optimizer.update(_tree(row), state)
    expected = jax.tree.map(jnp.divide, updates, _tree(row))
    # Roots and quotients in float32, and β₂^t of another order: some ulps.
    chex.assert_trees_all_close(preconditioner(state), expected, rtol=1e-5)


def test_the_constants_of_rms_in_optax_adagrad():
  optimizer = optax.adagrad(1.0, initial_accumulator_value=0.1, eps=1e-3)
  preconditioner = adaopt.criteria.adagrad_preconditioner(
    eps=0.0, eps_root=1e-3
  )
  updates, state = optimizer.update(
    STATISTICS.mean, optimizer.init(STATISTICS.mean)
  )
  chex.assert_trees_all_close(
    preconditioner(state),
    jax.tree.map(lambda u, g: -u / g, updates, STATISTICS.mean),
    rtol=1e-5,
  )


@pytest.mark.parametrize('eps', [0.0, 1e-8, 1.0])
@pytest.mark.parametrize('name', ['adagrad', 'adam'])
def test_before_the_first_update_it_is_the_norm_test(name, eps):
  optimizer, preconditioner = _optimizers(eps=eps)[name]
  state = optimizer.init(STATISTICS.mean)
  np.testing.assert_allclose(
    _required(preconditioner, opt_state=state),
    adaopt.norm_test(0.5)(STATISTICS),
    rtol=1e-6,
  )


@pytest.mark.parametrize('name', ['adagrad', 'adam'])
def test_a_coordinate_that_wakes_up_does_not_drown_the_others(name):
  optimizer, preconditioner = _optimizers()[name]
  asleep = _tree([0.0, 1.0, 1.0, 1.0])
  _, state = optimizer.update(asleep, optimizer.init(asleep))
  d = preconditioner(state)
  assert d['a'][0] == 0
  assert jnp.all(d['a'][1:] > 0)
  assert jnp.isfinite(_required(preconditioner, opt_state=state))


def test_half_precision_moments_make_a_float32_diagonal():
  optimizer = optax.adam(0.1)
  params = jnp.ones(2, jnp.bfloat16)
  _, state = optimizer.update(params, optimizer.init(params))
  d = adaopt.criteria.adam_preconditioner()(state)
  assert d.dtype == jnp.float32
  # ν has the eight bits of bfloat16, its root one more.
  np.testing.assert_allclose(d, [1, 1], rtol=2**-8)


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (
      lambda: _required(adaopt.criteria.adam_preconditioner(), opt_state=None),
      'needs the state of the optimizer; pass opt_state= to',
    ),
    (
      lambda: _required(
        adaopt.criteria.adam_preconditioner(),
        opt_state=optax.sgd(0.1).init(STATISTICS.mean),
      ),
      'adam_preconditioner needs .* one ScaleByAdamState, got 0',
    ),
    (
      lambda: _required(
        adaopt.criteria.adagrad_preconditioner(),
        opt_state=2 * (adaopt.adagrad(0.1).init(STATISTICS.mean),),
      ),
      'adagrad_preconditioner needs .* one sum_of_squares, got 2',
    ),
    (
      lambda: _required(
        adaopt.criteria.adagrad_preconditioner(),
        opt_state=adaopt.adagrad_norm(0.1).init(STATISTICS.mean),
      ),
      'preconditioner must return a diagonal like the gradient, got',
    ),
    (
      lambda: adaopt.criteria.preconditioned_norm_test(
        0.5, lambda opt_state: STATISTICS.mean
      ).update(
        STATISTICS._replace(
          variance=jax.tree.map(jnp.sum, STATISTICS.coordinate_variance),
          coordinate_variance=None,
        ),
        (),
        opt_state=(),
      ),
      r'preconditioned_norm_test needs statistics\.coordinate_variance, which '
      'is None; value_and_statistics computes it unless only=',
    ),
    (
      lambda: adaopt.criteria.preconditioned_norm_test(
        -1.0, lambda opt_state: ()
      ),
      r'eta must be positive .* got -1\.0',
    ),
    (
      lambda: adaopt.criteria.preconditioned_norm_test(1.0, 'adam'),
      "preconditioner must be a function .* got 'adam'",
    ),
    (
      lambda: adaopt.criteria.adam_preconditioner(b2=1.0),
      r'b2 must be below 1, got 1',
    ),
    (
      lambda: adaopt.criteria.adam_preconditioner(b2=-1.0),
      r'b2 must be .* got -1\.0',
    ),
    (
      lambda: adaopt.criteria.adagrad_preconditioner(eps=-1),
      'eps must be .* got -1',
    ),
  ],
)
def test_what_does_not_fit_meets_a_sentence(make, message):
  with pytest.raises(ValueError, match=message):
    make()


MODEL = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(1)])
X = jax.random.normal(jax.random.key(0), [128, 3])
DATASET = {'x': X, 'y': X @ jnp.array([1.0, -2.0, 3.0])}


def _loss_fn(params, batch):
  predicted = MODEL.apply(params, batch['x'])[:, 0]
  return jnp.mean((predicted - batch['y']) ** 2)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('optimizer', 'preconditioner'),
  [
    (optax.adamw(0.03), adaopt.criteria.adam_preconditioner()),
    (adaopt.adagrad(0.3), adaopt.criteria.adagrad_preconditioner()),
    (
      optax.inject_hyperparams(optax.adamw)(0.03),
      adaopt.criteria.adam_preconditioner(),
    ),
  ],
  ids=['adamw', 'adagrad', 'injected'],
)
def test_train_step_and_a_loop_of_ones_own_see_the_same_metric(
  optimizer, preconditioner
):
  optimizer = optax.chain(
    adaopt.adapt_batch_size(
      adaopt.criteria.preconditioned_norm_test(0.3, preconditioner),
      init_batch_size=8,
      max_batch_size=96,
    ),
    optimizer,
  )
  params = MODEL.init(jax.random.key(1), X[:1])
  step = adaopt.train_step(_loss_fn, optimizer, micro_batch_size=16)
  state = adaopt.init_train_state(params, optimizer)
  estimate = jax.jit(adaopt.value_and_statistics(_loss_fn))
  update = jax.jit(optimizer.update)
  opt_state, position, sizes = optimizer.init(params), 0, []
  for _ in range(4):
    state, metrics = step(state, DATASET)
    b = int(optax.tree.get(opt_state, 'batch_size'))
    assert metrics.batch_size == b
    batch = adaopt.draw(DATASET, 0, jnp.arange(position, position + b))
    _, statistics = estimate(params, batch)
    updates, opt_state = update(
      statistics.mean,
      opt_state,
      params,
      statistics=statistics,
      opt_state=opt_state,
    )
    params = optax.apply_updates(params, updates)
    # Sums in another order, divided by roots of small numbers.
    np.testing.assert_allclose(
      metrics.required, optax.tree.get(opt_state, 'required'), rtol=1e-3
    )
    position += b
    sizes.append(b)
  assert sizes[-1] > sizes[0]
