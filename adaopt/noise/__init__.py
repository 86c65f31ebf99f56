"""The gradient noise scale of any training loop, with its standard error.

`noise_scale` measures, `noise_report` reads what it measured, and `plain` makes
the statistics that it takes from gradients of micro-batches or devices.
"""

from adaopt.noise.estimating import NoiseScaleState, noise_scale
from adaopt.noise.intervals import NoiseEstimates, noise_estimates
from adaopt.noise.plain import (
  between_devices,
  between_micro_batches,
  from_two_sizes,
)
from adaopt.noise.reporting import (
  NoiseReport,
  NoiseRow,
  noise_advice,
  noise_report,
  noise_table,
)

__all__ = [
  'NoiseEstimates',
  'NoiseReport',
  'NoiseRow',
  'NoiseScaleState',
  'between_devices',
  'between_micro_batches',
  'from_two_sizes',
  'noise_advice',
  'noise_estimates',
  'noise_report',
  'noise_scale',
  'noise_table',
]
