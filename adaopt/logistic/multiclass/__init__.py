"""Linear classification of k classes: one row of W for each."""

from adaopt.logistic.multiclass.descent import (
  batch_perceptron,
  lr_gd,
  normalized_lr_gd,
  perceptron,
)
from adaopt.logistic.multiclass.margins import max_margin, max_margin_max
from adaopt.logistic.multiclass.methods import Method, State
from adaopt.logistic.multiclass.problem import Problem, make_problem
from adaopt.logistic.multiclass.solving import record, solve
from adaopt.logistic.multiclass.spectral_margin import max_margin_spectral
from adaopt.logistic.multiclass.steepest import (
  normalized_gd,
  sign_descent,
  spectral_descent,
)

__all__ = [
  'Method',
  'Problem',
  'State',
  'batch_perceptron',
  'lr_gd',
  'make_problem',
  'max_margin',
  'max_margin_max',
  'max_margin_spectral',
  'normalized_gd',
  'normalized_lr_gd',
  'perceptron',
  'record',
  'sign_descent',
  'solve',
  'spectral_descent',
]


def __dir__() -> list[str]:
  return __all__
