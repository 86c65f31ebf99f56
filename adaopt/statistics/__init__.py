"""From a loss function to the mean gradient and its noise."""

from adaopt._common.base import GradientStatistics, WeightedLoss
from adaopt.statistics.devices import device_statistics, shard_statistics
from adaopt.statistics.estimators import value_and_statistics
from adaopt.statistics.independence import check_independent_examples
from adaopt.statistics.padding import pad

__all__ = [
  'GradientStatistics',
  'WeightedLoss',
  'check_independent_examples',
  'device_statistics',
  'pad',
  'shard_statistics',
  'value_and_statistics',
]


def __dir__() -> list[str]:
  return __all__
