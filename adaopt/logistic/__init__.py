"""Linear classification of separable data: large steps and perceptrons."""

from adaopt.logistic import bounds, losses, multiclass, risks
from adaopt.logistic.accelerated import (
  dual_momentum,
  nesterov,
  smooth_perceptron,
)
from adaopt.logistic.cutting_planes import CertifiedMargin
from adaopt.logistic.descent import (
  adaptive_gd,
  gd,
  lr_gd,
  normalized_exponential_gd,
  normalized_lr_gd,
)
from adaopt.logistic.margins import Separation, max_margin
from adaopt.logistic.methods import Method, State, averaged
from adaopt.logistic.models import Model, hadamard, two_layer
from adaopt.logistic.perceptrons import (
  batch_perceptron,
  normalized_batch_perceptron,
  perceptron,
)
from adaopt.logistic.polyhedral_margins import (
  max_margin_l1,
  max_margin_linf,
)
from adaopt.logistic.problem import Problem, make_problem
from adaopt.logistic.regularized import (
  Settled,
  regularized_lr_gd,
  settle,
)
from adaopt.logistic.rescaling import progressive_rescaling
from adaopt.logistic.sampling import sampled
from adaopt.logistic.solving import Solution, Trajectory, record, solve
from adaopt.logistic.steepest import (
  coordinate_descent,
  normalized_gd,
  sign_descent,
)
from adaopt.logistic.stepping import increasing_steps
from adaopt.logistic.sweeping import sweep

__all__ = [
  'CertifiedMargin',
  'Method',
  'Model',
  'Problem',
  'Separation',
  'Settled',
  'Solution',
  'State',
  'Trajectory',
  'adaptive_gd',
  'averaged',
  'batch_perceptron',
  'bounds',
  'coordinate_descent',
  'dual_momentum',
  'gd',
  'hadamard',
  'increasing_steps',
  'losses',
  'lr_gd',
  'make_problem',
  'max_margin',
  'max_margin_l1',
  'max_margin_linf',
  'multiclass',
  'nesterov',
  'normalized_batch_perceptron',
  'normalized_exponential_gd',
  'normalized_gd',
  'normalized_lr_gd',
  'perceptron',
  'progressive_rescaling',
  'record',
  'regularized_lr_gd',
  'risks',
  'sampled',
  'settle',
  'sign_descent',
  'smooth_perceptron',
  'solve',
  'sweep',
  'two_layer',
]


def __dir__() -> list[str]:
  return __all__
