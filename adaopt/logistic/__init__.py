"""Linear classification of separable data: large steps and perceptrons."""

from adaopt.logistic import bounds
from adaopt.logistic.margins import Separation, max_margin
from adaopt.logistic.methods import (
  Method,
  State,
  adaptive_gd,
  averaged,
  batch_perceptron,
  dual_momentum,
  lr_gd,
  nesterov,
  normalized_batch_perceptron,
  normalized_exponential_gd,
  normalized_lr_gd,
  perceptron,
  smooth_perceptron,
)
from adaopt.logistic.problem import Problem, make_problem
from adaopt.logistic.solving import Solution, Trajectory, record, solve

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
  'record',
  'smooth_perceptron',
  'solve',
]
