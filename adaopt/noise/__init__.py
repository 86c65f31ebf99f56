"""The gradient noise scale of any training loop, with its standard error.

`noise_scale` measures, `noise_report` reads what it measured, and `plain` makes
the statistics that it takes from gradients of micro-batches or devices.
`components` tells the noise of prompts from that of their samples. `average_of`
averages any other number of the statistics, such as those of `snr` and
`takeuchi`: whether to stop, and how well a step or a minimum generalises.
"""

from adaopt.noise.averages import AverageState, average_of
from adaopt.noise.components import (
  TwoLevel,
  best_group_size,
  two_level,
  two_level_from_sums,
)
from adaopt.noise.estimating import NoiseScaleState, noise_scale
from adaopt.noise.intervals import NoiseEstimates, noise_estimates
from adaopt.noise.plain import (
  BetweenStepsState,
  between_devices,
  between_micro_batches,
  between_steps,
  from_two_sizes,
)
from adaopt.noise.reporting import (
  NoiseReport,
  NoiseRow,
  noise_advice,
  noise_report,
  noise_table,
)
from adaopt.noise.snr import (
  PerTensor,
  debiased_gradient_snr,
  gradient_snr,
  stopping_evidence,
)
from adaopt.noise.takeuchi import hessian_diagonal, tic_diagonal, tic_trace

__all__ = [
  'AverageState',
  'BetweenStepsState',
  'NoiseEstimates',
  'NoiseReport',
  'NoiseRow',
  'NoiseScaleState',
  'PerTensor',
  'TwoLevel',
  'average_of',
  'best_group_size',
  'between_devices',
  'between_micro_batches',
  'between_steps',
  'debiased_gradient_snr',
  'from_two_sizes',
  'gradient_snr',
  'hessian_diagonal',
  'noise_advice',
  'noise_estimates',
  'noise_report',
  'noise_scale',
  'noise_table',
  'stopping_evidence',
  'tic_diagonal',
  'tic_trace',
  'two_level',
  'two_level_from_sums',
]


def __dir__() -> list[str]:
  return __all__
