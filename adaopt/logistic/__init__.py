"""Linear classification of separable data: large steps and perceptrons."""

from adaopt.logistic import bounds
from adaopt.logistic.accelerated import (
  dual_momentum,
  nesterov,
  smooth_perceptron,
)
from adaopt.logistic.descent import (
  adaptive_gd,
  lr_gd,
  normalized_exponential_gd,
  normalized_lr_gd,
)
from adaopt.logistic.margins import Separation, max_margin
from adaopt.logistic.methods import Method, State, averaged
from adaopt.logistic.perceptrons import (
  batch_perceptron,
  normalized_batch_perceptron,
  perceptron,
)
from adaopt.logistic.problem import Problem, make_problem
from adaopt.logistic.rescaling import progressive_rescaling
from adaopt.logistic.solving import Solution, Trajectory, record, solve
from adaopt.logistic.sweeping import sweep

__all__ = [
  'Method',
  'Problem',
  'Separation',
  'Solution',
  'State',
  'Trajectory',
  'adaptive_gd',
  'averaged',
  'batch_perceptron',
  'bounds',
  'dual_momentum',
  'lr_gd',
  'make_problem',
  'max_margin',
  'nesterov',
  'normalized_batch_perceptron',
  'normalized_exponential_gd',
  'normalized_lr_gd',
  'perceptron',
  'progressive_rescaling',
  'record',
  'smooth_perceptron',
  'solve',
  'sweep',
]
