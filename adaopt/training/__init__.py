"""Training: the state of a run, its steps, how they are run, and the loop."""

from adaopt.training.drivers import Parts, Step, automatic, dispatched, traced
from adaopt.training.fed import feed_step
from adaopt.training.feeding import Feed, feed
from adaopt.training.fitting import fit
from adaopt.training.loops import iterate
from adaopt.training.memory import largest_micro_batch_size
from adaopt.training.steps import Metrics, train_step
from adaopt.training.stream import draw, example_indices, example_keys
from adaopt.training.train_state import TrainState, init_train_state

__all__ = [
  'Feed',
  'Metrics',
  'Parts',
  'Step',
  'TrainState',
  'automatic',
  'dispatched',
  'draw',
  'example_indices',
  'example_keys',
  'feed',
  'feed_step',
  'fit',
  'init_train_state',
  'iterate',
  'largest_micro_batch_size',
  'traced',
  'train_step',
]


def __dir__() -> list[str]:
  return __all__
