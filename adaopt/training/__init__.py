"""Training: the state of a run, its steps, how they are run, and the loop."""

from adaopt.training.drivers import Parts, Step, automatic, dispatched, traced
from adaopt.training.fitting import fit, iterate
from adaopt.training.steps import Metrics, train_step
from adaopt.training.stream import draw, example_indices, example_keys
from adaopt.training.train_state import TrainState, init_train_state

__all__ = [
  'Metrics',
  'Parts',
  'Step',
  'TrainState',
  'automatic',
  'dispatched',
  'draw',
  'example_indices',
  'example_keys',
  'fit',
  'init_train_state',
  'iterate',
  'traced',
  'train_step',
]
