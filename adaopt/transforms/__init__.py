"""Transforms of updates: AdaGrad's, Adam's, and rates that follow a batch."""

from adaopt.transforms.adagrad import (
  ScaleByAdagradNormState,
  ScaleByAdagradState,
  scale_by_adagrad,
  scale_by_adagrad_norm,
)
from adaopt.transforms.adascale import ScaleByAdascaleState, scale_by_adascale
from adaopt.transforms.by_examples import (
  ScaleByBatchSizeState,
  ScaleByExampleScheduleState,
  scale_by_batch_size,
  scale_by_example_schedule,
)
from adaopt.transforms.constants import (
  FollowBatchSizeState,
  follow_batch_size,
)
from adaopt.transforms.legw import ScaleByLegwState, scale_by_legw
from adaopt.transforms.moments import (
  RescaleSecondMomentState,
  ResetMomentsState,
  rescale_second_moment,
  reset_moments,
)
from adaopt.transforms.power_schedule import (
  ScaleByPowerScheduleState,
  scale_by_power_schedule,
)
from adaopt.transforms.residuals import (
  log_odds,
  mean_residual,
  scale_by_mean_residual,
)
from adaopt.transforms.second_moments import (
  mean_of_squares,
  scale_by_adam,
  square_at_batch_size,
  square_of_mean,
  variance_of_gradients,
)

__all__ = [
  'FollowBatchSizeState',
  'RescaleSecondMomentState',
  'ResetMomentsState',
  'ScaleByAdagradNormState',
  'ScaleByAdagradState',
  'ScaleByAdascaleState',
  'ScaleByBatchSizeState',
  'ScaleByExampleScheduleState',
  'ScaleByLegwState',
  'ScaleByPowerScheduleState',
  'follow_batch_size',
  'log_odds',
  'mean_of_squares',
  'mean_residual',
  'rescale_second_moment',
  'reset_moments',
  'scale_by_adagrad',
  'scale_by_adagrad_norm',
  'scale_by_adam',
  'scale_by_adascale',
  'scale_by_batch_size',
  'scale_by_example_schedule',
  'scale_by_legw',
  'scale_by_mean_residual',
  'scale_by_power_schedule',
  'square_at_batch_size',
  'square_of_mean',
  'variance_of_gradients',
]


def __dir__() -> list[str]:
  return __all__
