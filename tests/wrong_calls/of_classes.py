"""Wrong calls of k classes, of steepest descent, and of margins in norms."""

import numpy as np

from adaopt import logistic
from adaopt.logistic import multiclass
from tests.wrong_calls import kinds, of_logistic
from tests.wrong_calls.table import Case, kind

X, Y = of_logistic.X, np.array([0, 1, 2])
DATA = dict(features=X, labels=Y)
LABELS = (
  kind('LabelEncoder', np.array(['a', 'b', 'c']), shown='got <U1')
  + kind('LabelEncoder', np.array([1.0, 0, 2]), shown='got float64')
  + kind('LabelEncoder', np.array([True, False, True]), shown='got bool')
  + kind('LabelEncoder', np.array([1, None, 0]), shown='got object')
  + kind('LabelEncoder', [[1], [1, 2]], None, abs, shown='got object')
  + kind('LabelEncoder', np.array([-1, 0, 1]), shown='got -1, 0, 1')
  + kind('LabelEncoder', np.array([1, 2, 3]), shown='got 1, 2, 3')
  + kind('LabelEncoder', np.array([0, 0, 0]), shown='got 0')
  + kind('to match the rows', Y[:2], shown='got [2]')
  + kind('to match the rows', Y[:, None], shown='got [3, 1]')
  + kind('to match the rows', 1, shown='got []')
)
NUM_CLASSES = tuple(w for w in kinds.integers(2) if w.value is not None) + kind(
  'num_classes= counts', 2, shown='got 0, 1, 2'
)
OF_DATA = dict(
  features=of_logistic.FEATURES,
  labels=LABELS,
  weights=of_logistic.WEIGHTS,
  num_classes=NUM_CLASSES,
)
OF_TWO_CLASSES = dict(
  features=of_logistic.FEATURES,
  labels=of_logistic.LABELS,
  weights=of_logistic.WEIGHTS,
)
METHOD = (
  kind('call it, as in lr_gd', multiclass.lr_gd, shown='got lr_gd')
  + kind('call it', multiclass.Method, shown='got Method')
  + kind('same name in logistic.multiclass', logistic.lr_gd(1.0), shown='two')
  + kind('must be a Method', None, shown='got NoneType')
  + kind('must be a Method', 'lr_gd', shown='got str')
)
STEP_SIZE = tuple(
  w for w in kinds.positive if not callable(w.value)
) + kinds.schedule('step_size')
STEEPEST = (
  logistic.sign_descent,
  logistic.coordinate_descent,
  logistic.normalized_gd,
  multiclass.sign_descent,
  multiclass.normalized_gd,
  multiclass.spectral_descent,
)
STEP_SIZED = multiclass.lr_gd, multiclass.normalized_lr_gd
WITHOUT_ARGUMENTS = multiclass.perceptron, multiclass.batch_perceptron

methods = [
  *(
    Case(
      public,
      dict(step_size=1.0, momentum=0.5),
      dict(step_size=STEP_SIZE, momentum=kinds.decay),
    )
    for public in STEEPEST
  ),
  *(
    Case(public, dict(step_size=1.0), dict(step_size=STEP_SIZE))
    for public in STEP_SIZED
  ),
  # Left uncalled, which is what can be wrong about them.
  *(
    Case(
      public,
      dict(method=public()),
      dict(
        method=kind(
          f'call it, as in {public.__name__}(', public, shown='must be a Method'
        )
      ),
      lambda method: multiclass.solve(method, X, Y, max_steps=2),
    )
    for public in WITHOUT_ARGUMENTS
  ),
  Case(
    multiclass.Method,
    dict(method=multiclass.Method(*multiclass.lr_gd(1.0))),
    dict(
      method=kind(
        'of the problem', multiclass.Method('x', abs), shown='method.init'
      )
      + kind('-> state', multiclass.Method(abs, 2.0), shown='got 2.0')
    ),
    lambda method: multiclass.solve(method, X, Y, max_steps=2),
  ),
  Case(
    multiclass.Method,
    dict(method=logistic.lr_gd(1.0)),
    dict(
      method=kind(
        'or multiclass.solve', multiclass.lr_gd(1.0), shown='multiclass'
      )
    ),
    lambda method: logistic.solve(method, X, [1, 1, -1], max_steps=2),
  ),
]
runs = [
  Case(multiclass.make_problem, DATA, OF_DATA),
  Case(
    multiclass.solve,
    dict(method=multiclass.lr_gd(1.0), max_steps=2, **DATA),
    dict(method=METHOD, max_steps=kinds.integers(0), **OF_DATA),
  ),
  Case(
    multiclass.record,
    dict(method=multiclass.lr_gd(1.0), num_steps=2, **DATA),
    dict(method=METHOD, num_steps=kinds.integers(1), **OF_DATA),
  ),
]
margins = [
  *(
    Case(
      public,
      of_logistic.DATA,
      dict(OF_TWO_CLASSES, tolerance=kinds.positive),
    )
    for public in (logistic.max_margin_l1, logistic.max_margin_linf)
  ),
  *(
    Case(public, DATA, dict(OF_DATA, tolerance=kinds.positive))
    for public in (multiclass.max_margin, multiclass.max_margin_max)
  ),
  Case(
    multiclass.max_margin_spectral,
    dict(DATA, max_steps=1),
    dict(OF_DATA, tolerance=kinds.positive, max_steps=kinds.integers(1)),
  ),
]
CASES = [*methods, *runs, *margins]
