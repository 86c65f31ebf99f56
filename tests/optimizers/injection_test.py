"""If these fail, `inject_hyperparams` breaks without telling the remedy."""

import jax
import jax.numpy as jnp
import optax
import pytest

import adaopt
from adaopt import criteria

PARAMS = jnp.ones(2)
STATISTICS = adaopt.GradientStatistics(
  jnp.int32(8),
  mean=PARAMS,
  variance=jnp.float32(10.0),
  coordinate_variance=jnp.array([5.0, 5.0]),
  variance_along_mean=jnp.float32(5.0),
)
SIZES = dict(init_batch_size=8, max_batch_size=64)
MAKERS = {
  'adapt_batch_size': (adaopt.adapt_batch_size, {}),
  'adadagrad': (adaopt.adadagrad, dict(learning_rate=1.0)),
  'adadagrad_norm': (adaopt.adadagrad_norm, dict(learning_rate=1.0)),
  'adaptive': (
    adaopt.adaptive,
    dict(optimizer=optax.sgd(1.0), learning_rate=1.0),
  ),
}
BOTH = r"static_args=\('criterion', 'policy'\)"


def _inject(name, static_args=(), **options):
  make, needed = MAKERS[name]
  injected = optax.inject_hyperparams(make, static_args)
  return injected(**needed, **SIZES, **options)


@pytest.mark.parametrize('jit', [jax.jit, lambda f: f], ids=['jit', 'eager'])
@pytest.mark.parametrize('name', MAKERS)
@pytest.mark.parametrize(
  'criterion',
  [
    adaopt.norm_test(0.5),
    adaopt.inner_product_test(0.5),
    adaopt.coordinate_norm_test(0.5),
    adaopt.all_of(adaopt.norm_test(0.5), criteria.big_batch_test()),
  ],
  ids=['norm', 'inner_product', 'coordinate', 'all_of'],
)
def test_a_criterion_taken_for_a_schedule_tells_the_remedy(
  criterion, name, jit
):
  optimizer = _inject(name, criterion=criterion)
  with pytest.raises(ValueError, match=f'needs adaopt.GradientStat.*{BOTH}'):
    jit(optimizer.init)(PARAMS)


@pytest.mark.parametrize('name', MAKERS)
@pytest.mark.parametrize(
  'policy',
  [adaopt.capped_growth(2.0), adaopt.batch_size.geometric_growth(2.0)],
  ids=['capped', 'geometric'],
)
def test_a_policy_taken_for_a_schedule_tells_the_remedy(policy, name):
  optimizer = _inject(
    name, ('criterion',), criterion=adaopt.norm_test(0.5), policy=policy
  )
  with pytest.raises(ValueError, match=f'needs the current batch .*{BOTH}'):
    optimizer.init(PARAMS)


@pytest.mark.parametrize('name', MAKERS)
@pytest.mark.parametrize(
  ('options', 'left'),
  [
    (dict(criterion=lambda count: count), 'criterion'),
    (
      dict(
        criterion=adaopt.debiased_norm_test(0.5),
        policy=lambda current, required=0.0: current,
      ),
      'policy',
    ),
  ],
  ids=['criterion', 'policy'],
)
def test_what_a_schedule_left_of_a_function_tells_the_remedy(
  options, left, name
):
  optimizer = _inject(name, **options)
  sentence = rf"{left} must be a function .*static_args=\('{left}',\)"
  with pytest.raises(ValueError, match=sentence):
    optimizer.init(PARAMS)


@pytest.mark.parametrize('name', MAKERS)
@pytest.mark.parametrize(
  ('static_args', 'options'),
  [
    (
      ('criterion', 'policy'),
      dict(criterion=adaopt.norm_test(0.5), policy=jnp.maximum),
    ),
    (('criterion',), dict(criterion=adaopt.norm_test(0.5))),
    ((), dict(criterion=adaopt.debiased_norm_test(0.5), policy=adaopt.follow)),
  ],
  ids=['both', 'the_default_policy', 'what_is_no_function'],
)
def test_the_remedy_works_and_is_needed_for_functions_alone(
  static_args, options, name
):
  optimizer = _inject(name, static_args, **options)
  _, state = optimizer.update(
    PARAMS, optimizer.init(PARAMS), PARAMS, statistics=STATISTICS
  )
  assert int(optax.tree.get(state, 'batch_size')) > 8


@pytest.mark.parametrize(
  ('make', 'options'),
  [
    (adaopt.scale_by_adascale, dict(base_batch_size=8)),
    (
      adaopt.scale_by_example_schedule,
      dict(schedule=optax.constant_schedule(0.1)),
    ),
  ],
  ids=['adascale', 'by_examples'],
)
def test_a_schedule_that_is_evaluated_tells_the_remedy(make, options):
  optimizer = optax.inject_hyperparams(make)(**options)
  with pytest.raises(ValueError, match=r"static_args=\('schedule',\)"):
    optimizer.init(PARAMS)
