"""Every criterion and every rule in a training run, from statistics to size.

A failure here means one that asks `train_step` for what it is not given, that
leaves its bounds, never moves the batch size, or compiles as the size grows. A
new one joins with a row of `ROWS`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adaopt
from experiments import compilations

_TOTAL = {'variance': 'total'}
_COORDINATE = {'variance': 'coordinate'}


class Row(NamedTuple):
  """A criterion, how it moves the size, and the statistics it reads."""

  criterion: adaopt.Criterion | adaopt.StatefulCriterion
  policy: Callable[..., jax.Array] = jnp.maximum
  test_interval: int = 1
  statistics: dict[str, Any] = _TOTAL
  optimizer: optax.GradientTransformation = optax.sgd(0.03)


ROWS = {
  'norm': Row(adaopt.norm_test(0.5)),
  'inner product': Row(
    adaopt.inner_product_test(0.3), statistics={'along_mean': True}
  ),
  'orthogonality': Row(
    adaopt.criteria.orthogonality_test(0.5), statistics={'along_mean': True}
  ),
  'augmented': Row(
    adaopt.augmented_inner_product_test(0.3, nu=0.5),
    statistics={'along_mean': True},
  ),
  'coordinate': Row(
    adaopt.coordinate_norm_test(0.9, jnp.mean), statistics=_COORDINATE
  ),
  'big batch': Row(
    adaopt.criteria.big_batch_test(),
    policy=adaopt.batch_size.geometric_growth(1.5),
  ),
  'debiased norm': Row(adaopt.debiased_norm_test(0.5)),
  'capped growth': Row(
    adaopt.debiased_norm_test(0.5), policy=adaopt.capped_growth(2.0)
  ),
  'noise scale': Row(adaopt.gradient_noise_scale(), policy=adaopt.follow),
  # At the optimizer's own rate it would ask for less than b_0.
  'cabs': Row(adaopt.criteria.cabs(1.0), policy=adaopt.follow),
  'sign': Row(
    adaopt.criteria.sign_noise_scale(0.6),
    test_interval=10,
    statistics=_COORDINATE,
    optimizer=optax.chain(
      optax.adam(0.1), adaopt.scale_by_batch_size(exponent=0.5)
    ),
  ),
  'diversity': Row(adaopt.criteria.gradient_diversity(0.5, num_examples=200)),
  'preconditioned, adam': Row(
    adaopt.criteria.preconditioned_norm_test(
      0.5, adaopt.criteria.adam_preconditioner()
    ),
    statistics=_COORDINATE,
    optimizer=optax.adamw(0.1),
  ),
  'preconditioned, adagrad': Row(
    adaopt.criteria.preconditioned_norm_test(
      0.5, adaopt.criteria.adagrad_preconditioner()
    ),
    statistics=_COORDINATE,
    optimizer=adaopt.adagrad(0.5),
  ),
  'all of': Row(
    adaopt.all_of(adaopt.norm_test(0.7), adaopt.debiased_norm_test(0.7))
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


@pytest.mark.parametrize('row', ROWS.values(), ids=ROWS)
def test_it_moves_the_batch_size_within_its_bounds_in_one_program(row):
  optimizer = optax.chain(
    adaopt.adapt_batch_size(
      row.criterion,
      init_batch_size=B_0,
      max_batch_size=B_MAX,
      policy=row.policy,
      test_interval=row.test_interval,
    ),
    row.optimizer,
  )
  params = {'w': jnp.zeros(4), 'b': jnp.zeros([])}
  state = adaopt.init_train_state(params, optimizer)
  make_step = functools.partial(
    adaopt.train_step, loss_fn, optimizer, **row.statistics
  )
  before = compilations.names()
  history = [
    metrics
    for _, metrics in adaopt.fit(
      make_step, state, DATASET, num_examples=2500, max_micro_batch_size=8
    )
  ]
  # Every size is a number of micro-batches of 8.
  assert compilations.names()[len(before) :] == ['jit(step)']
  sizes = np.array([metrics.batch_size for metrics in history])
  assert sizes[0] == B_0
  assert np.all((sizes >= B_0) & (sizes <= B_MAX))
  assert len(set(sizes)) > 1
  if row.policy is not adaopt.follow:
    assert np.all(np.diff(sizes) >= 0)
  assert all(metrics.finite for metrics in history)
  # From 30 + 1 to the variance of the noise, 1.
  assert np.mean([metrics.loss for metrics in history[-5:]]) < 2.5


@pytest.mark.parametrize(
  'wrap',
  [
    lambda t: optax.MultiSteps(t, every_k_schedule=2),
    lambda t: optax.apply_if_finite(t, max_consecutive_errors=3),
    lambda t: optax.inject_hyperparams(
      lambda rate: optax.chain(t, optax.scale(rate))
    )(rate=1.0),
  ],
  ids=['multi_steps', 'apply_if_finite', 'inject_hyperparams'],
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
  step = adaopt.train_step(
    loss_fn, optimizer, micro_batch_size=32, variance='coordinate'
  )
  params = {'w': jnp.zeros(4), 'b': jnp.zeros([])}
  state = adaopt.init_train_state(params, optimizer)
  for _ in range(10):
    state, metrics = step(state, DATASET)
  assert np.isfinite(metrics.loss)
  assert B_0 < metrics.batch_size <= B_MAX
  _, _, diversity = optax.tree.get(state.opt_state, 'criterion_state')
  assert diversity.examples > B_0
