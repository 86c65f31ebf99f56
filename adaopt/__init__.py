"""Optimizers that choose their own batch size.

Here are the names of every day; each room has the rest:

- `statistics`: from a loss function to the mean gradient and its noise.
- `criteria`: from statistics to the batch size at which a test passes.
- `batch_size`: what holds the batch size, its policies and micro-batches.
- `transforms`, `optimizers`: from gradients to updates.
- `noise`: an instrument for the noise scale of any training loop.
- `training`: the step, the loop, the state and the stream of examples.
- `bridges`: from a model of Flax to a loss function.
- `per_example`: reductions over the gradients of single examples.
- `logistic`: linear classification with very large steps.
"""

from adaopt import (
  batch_size,
  bridges,
  criteria,
  logistic,
  noise,
  optimizers,
  per_example,
  statistics,
  training,
  transforms,
)
from adaopt._common.base import (
  Batch,
  Criterion,
  GradientStatistics,
  LossFn,
  Policy,
  StatefulCriterion,
  WeightedLoss,
)
from adaopt.batch_size import (
  accumulate,
  adapt_batch_size,
  capped_growth,
  follow,
  has_updated,
  schedule_batch_size,
  seesaw,
)
from adaopt.bridges import linen_loss, nnx_loss
from adaopt.criteria import (
  all_of,
  augmented_inner_product_test,
  coordinate_norm_test,
  debiased_norm_test,
  goodput,
  gradient_noise_scale,
  inner_product_test,
  norm_test,
  of_tensors,
)
from adaopt.noise import (
  noise_advice,
  noise_report,
  noise_scale,
  noise_table,
)
from adaopt.optimizers import (
  adadagrad,
  adadagrad_norm,
  adagrad,
  adagrad_norm,
  adaptive,
  normalized_lr_gd,
)
from adaopt.statistics import (
  check_independent_examples,
  device_statistics,
  pad,
  value_and_statistics,
)
from adaopt.training import (
  Feed,
  Metrics,
  TrainState,
  draw,
  example_keys,
  feed,
  feed_step,
  fit,
  init_train_state,
  train_step,
)
from adaopt.transforms import (
  follow_batch_size,
  log_odds,
  mean_residual,
  scale_by_adascale,
  scale_by_batch_size,
  scale_by_example_schedule,
)

__version__ = '0.1.0'

__all__ = [
  'Batch',
  'Criterion',
  'Feed',
  'GradientStatistics',
  'LossFn',
  'Metrics',
  'Policy',
  'StatefulCriterion',
  'TrainState',
  'WeightedLoss',
  'accumulate',
  'adadagrad',
  'adadagrad_norm',
  'adagrad',
  'adagrad_norm',
  'adapt_batch_size',
  'adaptive',
  'all_of',
  'augmented_inner_product_test',
  'batch_size',
  'bridges',
  'capped_growth',
  'check_independent_examples',
  'coordinate_norm_test',
  'criteria',
  'debiased_norm_test',
  'device_statistics',
  'draw',
  'example_keys',
  'feed',
  'feed_step',
  'fit',
  'follow',
  'follow_batch_size',
  'goodput',
  'gradient_noise_scale',
  'has_updated',
  'init_train_state',
  'inner_product_test',
  'linen_loss',
  'log_odds',
  'logistic',
  'mean_residual',
  'nnx_loss',
  'noise',
  'noise_advice',
  'noise_report',
  'noise_scale',
  'noise_table',
  'norm_test',
  'normalized_lr_gd',
  'of_tensors',
  'optimizers',
  'pad',
  'per_example',
  'scale_by_adascale',
  'scale_by_batch_size',
  'scale_by_example_schedule',
  'schedule_batch_size',
  'seesaw',
  'statistics',
  'train_step',
  'training',
  'transforms',
  'value_and_statistics',
]


def __dir__() -> list[str]:
  return __all__
