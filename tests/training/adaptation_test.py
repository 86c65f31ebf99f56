"""Every criterion and every rule in a training run, from statistics to size.

A failure here means one that lacks what it reads, that leaves its bounds, never
moves the batch size, or compiles as the size grows. A new one joins with a row
of `ROWS`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

import adaopt
from adaopt.batch_size import policies
from adaopt.experiments import compilations


class Row(NamedTuple):
  """A criterion, and how it moves the size."""

  criterion: adaopt.Criterion | adaopt.StatefulCriterion
  policy: policies.AnyPolicy = jnp.maximum
  test_interval: int = 1
  optimizer: optax.GradientTransformation = optax.sgd(0.03)
  shrinks: bool = False


def of_one_tensor(statistics):
  """A criterion of a user's own."""
  return adaopt.criteria.ratio(
    statistics.variance['w'], 0.25 * adaopt.criteria.squared_norm(statistics)
  )


ROWS = {
  'norm': Row(adaopt.norm_test(0.5)),
  'inner product': Row(adaopt.inner_product_test(0.3)),
  'orthogonality': Row(adaopt.criteria.orthogonality_test(0.5)),
  'augmented': Row(adaopt.augmented_inner_product_test(0.3, nu=0.5)),
  'coordinate': Row(adaopt.coordinate_norm_test(0.9, jnp.mean)),
  'one tensor': Row(of_one_tensor),
  'big batch': Row(
    adaopt.criteria.big_batch_test(),
    policy=adaopt.batch_size.geometric_growth(1.5),
  ),
  'debiased norm': Row(adaopt.debiased_norm_test(0.5)),
  'capped growth': Row(
    adaopt.debiased_norm_test(0.5), policy=adaopt.capped_growth(2.0)
  ),
  'noise scale': Row(
    adaopt.gradient_noise_scale(), policy=adaopt.follow, shrinks=True
  ),
  # At the optimizer's own rate it would ask for less than b_0.
  'cabs': Row(adaopt.criteria.cabs(1.0), policy=adaopt.follow, shrinks=True),
  'sign': Row(
    adaopt.criteria.sign_noise_scale(0.6),
    test_interval=10,
    optimizer=optax.chain(
      optax.adam(0.1), adaopt.scale_by_batch_size(exponent=0.5)
    ),
  ),
  'diversity': Row(adaopt.criteria.gradient_diversity(0.5, num_examples=200)),
  'preconditioned, adam': Row(
    adaopt.criteria.preconditioned_norm_test(
      0.5, adaopt.criteria.adam_preconditioner()
    ),
    optimizer=optax.adamw(0.1),
  ),
  'preconditioned, adagrad': Row(
    adaopt.criteria.preconditioned_norm_test(
      0.5, adaopt.criteria.adagrad_preconditioner()
    ),
    optimizer=adaopt.adagrad(0.5),
  ),
  'all of': Row(
    adaopt.all_of(adaopt.norm_test(0.7), adaopt.debiased_norm_test(0.7))
  ),
  # The parts of `adaptive`.
  'adaptive': Row(
    adaopt.debiased_norm_test(1.0),
    policy=adaopt.capped_growth(2.0),
    optimizer=optax.chain(
      optax.sgd(1.0), adaopt.scale_by_batch_size(0.5), optax.scale(0.03)
    ),
  ),
  'hysteresis': Row(
    adaopt.debiased_norm_test(0.5),
    policy=adaopt.batch_size.hysteresis(2.0),
    shrinks=True,
  ),
  'adascale': Row(
    adaopt.norm_test(0.5),
    optimizer=optax.chain(
      adaopt.scale_by_adascale(base_batch_size=8), optax.sgd(0.03)
    ),
  ),
}

X = jax.random.normal(jax.random.key(0), [200, 4])
DATASET = {
  'x': X,
  'y': X @ jnp.arange(1.0, 5.0) + jax.random.normal(jax.random.key(1), [200]),
}
B_0, B_MAX = 8, 64


def loss_fn(params, batch):
  return jnp.mean((batch['x'] @ params['w'] + params['b'] - batch['y']) ** 2)


def make_params():
  return {'w': jnp.zeros(4), 'b': jnp.zeros([])}


def adapted(row, **options):
  options = dict(policy=row.policy) | options
  return adaopt.adapt_batch_size(
    row.criterion,
    init_batch_size=B_0,
    max_batch_size=B_MAX,
    test_interval=row.test_interval,
    **options,
  )


def run(optimizer, num_examples=2500):
  """The metrics of a run, and the step programs that it compiled."""
  before = compilations.count()
  steps = adaopt.fit(
    loss_fn,
    optimizer,
    make_params(),
    DATASET,
    num_examples=num_examples,
    max_micro_batch_size=8,
  )
  history = [metrics for _, metrics in steps]
  return history, compilations.names()[before:]


def assert_adapts(history, programs):
  """Within its bounds, in one program, and to the loss of the noise."""
  # Every size is a number of micro-batches of 8.
  assert programs == ['jit(step)']
  sizes = np.array([metrics.batch_size for metrics in history])
  assert sizes[0] == B_0
  assert np.all((sizes >= B_0) & (sizes <= B_MAX))
  assert len(set(sizes)) > 1
  assert all(metrics.finite for metrics in history)
  # From 30 + 1 to the variance of the noise, 1.
  assert np.mean([metrics.loss for metrics in history[-5:]]) < 2.5
  return sizes


@pytest.mark.slow
@pytest.mark.parametrize('row', ROWS.values(), ids=ROWS)
def test_it_moves_the_batch_size_within_its_bounds_in_one_program(row):
  optimizer = optax.chain(adapted(row), row.optimizer)
  sizes = assert_adapts(*run(optimizer))
  if not row.shrinks:
    assert np.all(np.diff(sizes) >= 0)


# Optimizers that hold a criterion and a policy of their own.
OPTIMIZERS = {
  'adaptive': lambda **sizes: adaopt.adaptive(
    optax.sgd(1.0), 0.03, scaling=adaopt.scale_by_batch_size(0.5), **sizes
  ),
  'adaptive, adam': lambda **sizes: adaopt.adaptive(
    optax.adamw(1.0), optax.linear_schedule(0.2, 0.02, 2500), **sizes
  ),
  'adaptive, settings': lambda **sizes: adaopt.adaptive(
    optax.sgd(1.0, momentum=0.5),
    0.01,
    criterion=adaopt.augmented_inner_product_test(0.3, nu=0.5),
    multiple_of=4,
    test_interval=3,
    policy=adaopt.batch_size.geometric_growth(1.5),
    scaling=adaopt.scale_by_batch_size(0.5),
    **sizes,
  ),
  'adadagrad': lambda **sizes: adaopt.adadagrad(
    1.0, adaopt.norm_test(0.5), **sizes
  ),
  'adadagrad norm': lambda **sizes: adaopt.adadagrad_norm(
    3.0, adaopt.norm_test(0.5), **sizes
  ),
}


@pytest.mark.slow
@pytest.mark.parametrize('make', OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_an_optimizer_with_a_batch_size_does_so_too(make):
  optimizer = make(init_batch_size=B_0, max_batch_size=B_MAX)
  sizes = assert_adapts(*run(optimizer))
  assert np.all(np.diff(sizes) >= 0)


ASKED = {
  'norm': lambda g: oracles.norm_requirement(g, 0.5),
  'augmented': lambda g: oracles.augmented_requirement(g, 0.3, 0.5),
  'coordinate': lambda g: np.mean(oracles.coordinate_requirements(g, 0.9)),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', ASKED)
def test_measuring_changes_nothing_and_tells_what_a_test_would_ask_for(name):
  row = ROWS[name]
  optimizer = optax.chain(
    adapted(row, policy=adaopt.batch_size.measure), row.optimizer
  )
  fixed = optax.chain(adaopt.schedule_batch_size(B_0), row.optimizer)
  measured, programs = run(optimizer, num_examples=160)
  plain, _ = run(fixed, num_examples=160)
  assert programs == ['jit(step)']
  assert {int(metrics.batch_size) for metrics in measured} == {B_0}
  np.testing.assert_allclose(
    [metrics.loss for metrics in measured],
    [metrics.loss for metrics in plain],
    rtol=1e-5,
  )
  required = np.array([metrics.required for metrics in measured])
  assert np.all(np.isfinite(required))
  assert np.max(required) > B_0  # It would have grown.
  first = adaopt.draw(DATASET, 0, jnp.arange(B_0))
  g = oracles.sample_gradients(loss_fn, make_params(), first)
  np.testing.assert_allclose(required[0], ASKED[name](g), rtol=1e-4)
  assert all(np.isnan(metrics.required) for metrics in plain)


@pytest.mark.slow
@pytest.mark.parametrize('policy', [adaopt.batch_size.measure, jnp.maximum])
def test_the_largest_size_is_tested_where_a_policy_asks_for_it(policy):
  criterion = adaopt.norm_test(0.5)
  optimizer = optax.chain(
    adaopt.adapt_batch_size(
      criterion, init_batch_size=B_0, max_batch_size=B_0, policy=policy
    ),
    optax.sgd(0.03),
  )
  history, _ = run(optimizer, num_examples=40)
  measures = policy is adaopt.batch_size.measure
  for metrics in history:
    assert np.isfinite(metrics.required) == measures
    assert np.isfinite(metrics.variance) == measures


def test_hysteresis_shrinks_only_to_what_is_far_below():
  """Requirements that swing: by less than the factor, then by more."""
  asked = jnp.array([40.0, 30.0, 21.0, 50.0, 24.0, 60.0])

  def update(statistics, count, **extra_args):
    del statistics, extra_args
    return asked[count], count + 1

  criterion = adaopt.StatefulCriterion(
    lambda params: jnp.zeros([], jnp.int32), update
  )
  row = Row(criterion, policy=adaopt.batch_size.hysteresis(2.0))
  history, _ = run(optax.chain(adapted(row), optax.sgd(0.03)), 220)
  sizes = [int(metrics.batch_size) for metrics in history]
  # 30 and 21 lie within [40 / 2, 40], and 24 below 50 / 2.
  assert sizes[:7] == [8, 40, 40, 40, 50, 24, 60]


@pytest.mark.slow
@pytest.mark.parametrize(
  'wrap',
  [
    lambda t: optax.apply_if_finite(t, max_consecutive_errors=3),
    lambda t: optax.inject_hyperparams(
      lambda rate: optax.chain(t, optax.scale(rate))
    )(rate=1.0),
    lambda t: optax.named_chain(('adapt', t), ('rate', optax.scale(1.0))),
  ],
  ids=['apply_if_finite', 'inject_hyperparams', 'named_chain'],
)
def test_what_a_criterion_reads_passes_through_wrappers(wrap):
  criterion = adaopt.all_of(
    ROWS['cabs'].criterion,
    ROWS['preconditioned, adam'].criterion,
    adaopt.criteria.gradient_diversity(0.5, num_examples=10_000),
  )
  optimizer = wrap(
    optax.chain(
      adaopt.adapt_batch_size(
        criterion, init_batch_size=B_0, max_batch_size=B_MAX
      ),
      optax.adamw(0.1),
    )
  )
  # Without value=, opt_state= or gradients like params one of them raises.
  step = adaopt.train_step(loss_fn, optimizer, micro_batch_size=32)
  state = adaopt.init_train_state(make_params(), optimizer)
  for _ in range(10):
    state, metrics = step(state, DATASET)
  assert np.isfinite(metrics.loss)
  assert B_0 < metrics.batch_size <= B_MAX
  _, _, diversity = optax.tree.get(state.opt_state, 'criterion_state')
  assert diversity.examples > B_0


@pytest.mark.parametrize(
  ('wrap', 'name'),
  [
    (
      lambda t: optax.MultiSteps(t, every_k_schedule=2),
      'optax.MultiSteps takes a micro-batch an update',
    ),
    (adaopt.accumulate, 'adaopt.accumulate takes a micro-batch an update'),
    (
      lambda t: optax.apply_if_finite(
        optax.MultiSteps(t, every_k_schedule=2).gradient_transformation(), 3
      ),
      'optax.MultiSteps takes a micro-batch an update',
    ),
  ],
  ids=['multi_steps', 'accumulate', 'multi_steps in apply_if_finite'],
)
def test_what_adds_up_micro_batches_itself_meets_a_sentence(wrap, name):
  plain = optax.chain(adapted(ROWS['norm']), optax.sgd(0.03))
  optimizer = wrap(plain)
  with pytest.raises(ValueError, match=name):
    adaopt.init_train_state(make_params(), optimizer)
  # Also where the state was made elsewhere.
  state = adaopt.init_train_state(make_params(), plain)
  state = state._replace(opt_state=optimizer.init(make_params()))
  step = adaopt.train_step(loss_fn, optimizer, micro_batch_size=32)
  with pytest.raises(ValueError, match=name):
    step(state, DATASET)
