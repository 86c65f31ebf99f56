"""Wrong statistics in the update of a transform."""

import jax.numpy as jnp
import optax

import adaopt
from adaopt import batch_size, noise, optimizers, transforms
from tests.wrong_calls import kinds
from tests.wrong_calls.right import (
  ADAPTIVE,
  BOUNDS,
  INJECTED,
  STATISTICS,
  G,
  update,
)
from tests.wrong_calls.table import Case, Left, kind


def updates_of(public, transform, wrong):
  """Wrong statistics in the update of a transform."""
  return Case(
    public,
    dict(statistics=STATISTICS),
    dict(statistics=wrong),
    lambda **extra: update(transform, **extra),
  )


in_updates = [
  updates_of(optimizers.adaptive, ADAPTIVE, kinds.sized_statistics),
  updates_of(
    optimizers.adadagrad,
    adaopt.adadagrad(0.1, adaopt.norm_test(0.5), **BOUNDS),
    kinds.required_statistics,
  ),
  updates_of(
    optimizers.adadagrad_norm,
    adaopt.adadagrad_norm(0.1, adaopt.norm_test(0.5), **BOUNDS),
    kinds.required_statistics,
  ),
  updates_of(
    batch_size.adapt_batch_size,
    adaopt.adapt_batch_size(adaopt.norm_test(0.5), **BOUNDS),
    kinds.required_statistics,
  ),
  updates_of(
    batch_size.schedule_batch_size,
    adaopt.schedule_batch_size(4),
    kinds.required_statistics[1:],  # It does without.
  ),
  updates_of(
    transforms.scale_by_example_schedule,
    adaopt.scale_by_example_schedule(lambda n: 1.0),
    kinds.sized_statistics,
  ),
  updates_of(
    transforms.scale_by_batch_size,
    adaopt.scale_by_batch_size(1.0),
    kinds.sized_statistics,
  ),
  updates_of(
    transforms.scale_by_adascale,
    adaopt.scale_by_adascale(base_batch_size=2),
    kinds.sized_statistics,
  ),
  updates_of(
    batch_size.hold_until,
    batch_size.hold_until(adaopt.schedule_batch_size(4), 8),
    kinds.required_statistics[1:],  # It does without.
  ),
  updates_of(
    transforms.scale_by_legw,
    transforms.scale_by_legw(base_batch_size=2, warmup_examples=8),
    kinds.sized_statistics,
  ),
  updates_of(
    transforms.scale_by_power_schedule,
    transforms.scale_by_power_schedule(
      max_learning_rate=0.1, tokens_per_example=1
    ),
    kinds.sized_statistics,
  ),
  updates_of(
    transforms.reset_moments,
    transforms.reset_moments(optax.scale_by_adam()),
    kinds.sized_statistics,
  ),
  updates_of(
    transforms.rescale_second_moment,
    transforms.rescale_second_moment(optax.scale_by_adam()),
    kinds.sized_statistics,
  ),
  updates_of(
    transforms.scale_by_adam,
    transforms.scale_by_adam(),
    kinds.required_statistics
    + kind(
      'unless only= leaves it out',
      adaopt.GradientStatistics(4, G),
      shown='which is None',
    )
    + kind(
      'pass those of the parameters',
      STATISTICS._replace(mean={'w': G}, coordinate_variance={'w': G}),
      shown='got',
    ),
  ),
  updates_of(
    transforms.follow_batch_size,
    adaopt.follow_batch_size(INJECTED, decays='b2'),
    kinds.sized_statistics,
  ),
  updates_of(
    adaopt.noise_scale,
    adaopt.noise_scale(half_life=100),
    kinds.required_statistics
    + kind(
      'unless only= leaves it out',
      adaopt.GradientStatistics(4, G),
      shown='which is None',
    )
    + kind(
      'pass those of the parameters',
      STATISTICS._replace(mean={'w': G}, variance={'w': 1.0}),
      shown='got',
    ),
  ),
  updates_of(
    noise.average_of,
    noise.average_of(noise.stopping_evidence, half_life=100),
    kinds.required_statistics
    + kind(
      'unless only= leaves it out',
      adaopt.GradientStatistics(4, G),
      shown='which is None',
    ),
  ),
  updates_of(
    batch_size.accumulate,
    adaopt.accumulate(ADAPTIVE),
    kind('pass statistics= to', Left(), None, shown='needs the statistics')
    + kinds.required_statistics[1:]
    + kind(
      'computes it unless only= leaves it out',
      adaopt.GradientStatistics(4, G),
      shown='statistics.variance of every',
    )
    + kind(
      'an entry for every tensor',
      STATISTICS._replace(variance=(1.0, 2.0)),
      shown='got PyTreeDef',
    )
    + kind(
      'must have the shape',
      STATISTICS._replace(variance=jnp.ones(3)),
      shown='got [3]',
    )
    + kind(
      'must be an integer',
      STATISTICS._replace(batch_size=0),
      STATISTICS._replace(batch_size=2.5),
      shown='statistics.batch_size',
    )
    + kind(
      'pass weighted=True',
      STATISTICS._replace(weight=1.0),
      shown='of a WeightedLoss',
    ),
  ),
  Case(
    batch_size.accumulate,
    dict(statistics=STATISTICS),
    dict(
      statistics=kind(
        'a multiple of group_size=4',
        STATISTICS._replace(batch_size=6),
        shown='6 examples',
      )
    ),
    lambda **extra: update(adaopt.accumulate(ADAPTIVE, group_size=4), **extra),
  ),
  *(
    Case(
      public,
      dict(mean_residual=0.5),
      dict(
        mean_residual=kind('pass mean_residual=', Left(), shown='got None')
        + kind('pass mean_residual=', None, '0.5', 1j, jnp.ones(2), [0.5], abs)
      ),
      lambda mean_residual=None, public=public, make=make: update(
        make(), mean_residual=mean_residual
      ),
    )
    for public, make in (
      (transforms.scale_by_mean_residual, transforms.scale_by_mean_residual),
      (optimizers.normalized_lr_gd, lambda: optimizers.normalized_lr_gd(0.1)),
    )
  ),
]


CASES = in_updates
