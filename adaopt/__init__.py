"""Optimizers that choose their own batch size."""

from adaopt import logistic, per_example
from adaopt.accumulation import AccumulateState, accumulate
from adaopt.adascale import ScaleByAdascaleState, scale_by_adascale
from adaopt.base import (
  Batch,
  Criterion,
  GradientStatistics,
  LossFn,
  Policy,
  StatefulCriterion,
)
from adaopt.batch_size import (
  AdaptBatchSizeState,
  ScheduleBatchSizeState,
  adapt_batch_size,
  schedule_batch_size,
)
from adaopt.criteria import (
  all_of,
  augmented_inner_product_test,
  big_batch_test,
  coordinate_norm_test,
  inner_product_test,
  norm_test,
  orthogonality_test,
)
from adaopt.diversity import GradientDiversityState, gradient_diversity
from adaopt.estimators import value_and_statistics
from adaopt.examples import draw, example_indices
from adaopt.fitting import fit
from adaopt.losses import check_independent_examples
from adaopt.noise_scales import (
  cabs,
  debiased_norm_test,
  gradient_noise_scale,
  sign_noise_scale,
)
from adaopt.optimizers import (
  adadagrad,
  adadagrad_norm,
  adagrad,
  adagrad_norm,
)
from adaopt.policies import capped_growth, follow, geometric_growth
from adaopt.preconditioned import (
  adagrad_preconditioner,
  adam_preconditioner,
  preconditioned_norm_test,
)
from adaopt.residuals import (
  log_odds,
  mean_residual,
  normalized_lr_gd,
  scale_by_mean_residual,
)
from adaopt.schedules import seesaw
from adaopt.train_state import TrainState, init_train_state
from adaopt.training import Metrics, train_step
from adaopt.transforms import (
  ScaleByAdagradNormState,
  ScaleByAdagradState,
  ScaleByExampleScheduleState,
  scale_by_adagrad,
  scale_by_adagrad_norm,
  scale_by_batch_size,
  scale_by_example_schedule,
)

__version__ = '0.1.0'

__all__ = [
  'AccumulateState',
  'AdaptBatchSizeState',
  'Batch',
  'Criterion',
  'GradientDiversityState',
  'GradientStatistics',
  'LossFn',
  'Metrics',
  'Policy',
  'ScaleByAdagradNormState',
  'ScaleByAdagradState',
  'ScaleByAdascaleState',
  'ScaleByExampleScheduleState',
  'ScheduleBatchSizeState',
  'StatefulCriterion',
  'TrainState',
  'accumulate',
  'adadagrad',
  'adadagrad_norm',
  'adagrad',
  'adagrad_norm',
  'adagrad_preconditioner',
  'adam_preconditioner',
  'adapt_batch_size',
  'all_of',
  'augmented_inner_product_test',
  'big_batch_test',
  'cabs',
  'capped_growth',
  'check_independent_examples',
  'coordinate_norm_test',
  'debiased_norm_test',
  'draw',
  'example_indices',
  'fit',
  'follow',
  'geometric_growth',
  'gradient_diversity',
  'gradient_noise_scale',
  'init_train_state',
  'inner_product_test',
  'log_odds',
  'logistic',
  'mean_residual',
  'norm_test',
  'normalized_lr_gd',
  'orthogonality_test',
  'per_example',
  'preconditioned_norm_test',
  'scale_by_adagrad',
  'scale_by_adagrad_norm',
  'scale_by_adascale',
  'scale_by_batch_size',
  'scale_by_example_schedule',
  'scale_by_mean_residual',
  'schedule_batch_size',
  'seesaw',
  'sign_noise_scale',
  'train_step',
  'value_and_statistics',
]
