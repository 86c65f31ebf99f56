"""From gradient statistics to the batch size at which a test passes.

A criterion of your own is a function from `GradientStatistics` to a batch
size, or a `StatefulCriterion` where it remembers or reads more than the
statistics. `ratio`, `total_variance`, `squared_norm` and the averages below
are what those of the toolkit are made of.
"""

from adaopt._common.base import Criterion, StatefulCriterion
from adaopt.criteria.averaging import (
  NoiseAndSignal,
  debiased,
  ratio_of_averages,
)
from adaopt.criteria.combining import all_of
from adaopt.criteria.diversity import (
  GradientDiversityState,
  gradient_diversity,
)
from adaopt.criteria.evidence import (
  coordinate_variance,
  matrix_variance,
  ratio,
  squared_norm,
  total_variance,
  variance_along_mean,
)
from adaopt.criteria.gradient_tests import (
  augmented_inner_product_test,
  big_batch_test,
  coordinate_norm_test,
  inner_product_test,
  norm_test,
  orthogonality_test,
)
from adaopt.criteria.loss_law import (
  CriticalBatchSizeState,
  critical_batch_size,
)
from adaopt.criteria.noise_scales import (
  cabs,
  debiased_norm_test,
  gradient_noise_scale,
  sign_noise_scale,
)
from adaopt.criteria.preconditioned import (
  adagrad_preconditioner,
  adam_preconditioner,
  preconditioned_norm_test,
)
from adaopt.criteria.restricting import of_tensors
from adaopt.criteria.spectral import spectral_noise_scale
from adaopt.criteria.wall_clock import (
  GoodputState,
  Seconds,
  goodput,
  with_seconds,
)

__all__ = [
  'Criterion',
  'CriticalBatchSizeState',
  'GoodputState',
  'GradientDiversityState',
  'NoiseAndSignal',
  'Seconds',
  'StatefulCriterion',
  'adagrad_preconditioner',
  'adam_preconditioner',
  'all_of',
  'augmented_inner_product_test',
  'big_batch_test',
  'cabs',
  'coordinate_norm_test',
  'coordinate_variance',
  'critical_batch_size',
  'debiased',
  'debiased_norm_test',
  'goodput',
  'gradient_diversity',
  'gradient_noise_scale',
  'inner_product_test',
  'matrix_variance',
  'norm_test',
  'of_tensors',
  'orthogonality_test',
  'preconditioned_norm_test',
  'ratio',
  'ratio_of_averages',
  'sign_noise_scale',
  'spectral_noise_scale',
  'squared_norm',
  'total_variance',
  'variance_along_mean',
  'with_seconds',
]


def __dir__() -> list[str]:
  return __all__
