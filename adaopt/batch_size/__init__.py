"""What holds the batch size, the rules by which it moves, and micro-batches."""

from adaopt._common.base import Policy
from adaopt.batch_size.accumulation import (
  AccumulateState,
  accumulate,
  has_updated,
)
from adaopt.batch_size.adapting import AdaptBatchSizeState, adapt_batch_size
from adaopt.batch_size.balancing import seesaw, seesaw_from_schedule
from adaopt.batch_size.holding import HoldUntilState, hold_until
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
)
from adaopt.batch_size.staging import late_switch, stage_schedule

__all__ = [
  'AccumulateState',
  'AdaptBatchSizeState',
  'HoldUntilState',
  'Policy',
  'ScheduleBatchSizeState',
  'accumulate',
  'adapt_batch_size',
  'capped_growth',
  'follow',
  'geometric_growth',
  'has_updated',
  'hold_until',
  'hysteresis',
  'late_switch',
  'measure',
  'schedule_batch_size',
  'seesaw',
  'seesaw_from_schedule',
  'stage_schedule',
]


def __dir__() -> list[str]:
  return __all__
