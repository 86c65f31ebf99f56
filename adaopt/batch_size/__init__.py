"""What holds the batch size, the rules by which it moves, and micro-batches."""

from adaopt._common.base import Policy
from adaopt.batch_size.accumulation import (
  AccumulateState,
  accumulate,
  has_updated,
)
from adaopt.batch_size.adapting import AdaptBatchSizeState, adapt_batch_size
from adaopt.batch_size.policies import (
  capped_growth,
  follow,
  geometric_growth,
  hysteresis,
  measure,
)
from adaopt.batch_size.scheduling import (
  ScheduleBatchSizeState,
  schedule_batch_size,
  seesaw,
)

__all__ = [
  'AccumulateState',
  'AdaptBatchSizeState',
  'Policy',
  'ScheduleBatchSizeState',
  'accumulate',
  'adapt_batch_size',
  'capped_growth',
  'follow',
  'geometric_growth',
  'has_updated',
  'hysteresis',
  'measure',
  'schedule_batch_size',
  'seesaw',
]
