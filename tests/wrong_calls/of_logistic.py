"""Wrong calls of `logistic` and its bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from adaopt import logistic
from adaopt.logistic import bounds, losses, risks
from tests.wrong_calls import kinds
from tests.wrong_calls.table import Case, kind

X = np.float32([[3, 4], [-3, 4], [0, -9]])
Y = np.int32([1, 1, -1])
DATA = dict(features=X, labels=Y)


def changed(array, index, value):
  """The array with another value at an index."""
  array = np.array(array, np.result_type(array, type(value)))
  array[index] = value
  return array


FEATURES = (
  kind('must be [n, d]', X[0], X[None], 1.0, X[:0], X[:, :0], shown='got [')
  + kind('convert them first', X.astype(int), shown='got int')
  + kind('convert them first', X.astype(bool), shown='got bool')
  + kind('convert them first', X * 1j, shown='got complex')
  + kind('an array [n, d] of numbers', X.astype(str), shown='got <U')
  + kind('an array [n, d] of numbers', X.astype(object), shown='got object')
  + kind('an array [n, d] of numbers', 'x', abs)
  + kind('an array [n, d]', None, {'x': X}, [[1.0], [2.0, 3.0]])
  + kind('drop it', changed(X, (1, 0), np.nan), shown='row 1')
  + kind('drop it', changed(X, (2, 1), np.inf), shown='row 2')
  + kind('drop it', changed(X, 0, 0.0), shown='row 0')
  + kind('drop it', np.float32(1e30) * X, shown='row 0')
)
LABELS = (
  kind('±1 or {0, 1}', np.array([0, 1, 2]), shown='got 0, 1, 2')
  + kind('±1 or {0, 1}', np.array([-1, 0, 1]), shown='got -1, 0, 1')
  + kind('±1 or {0, 1}', np.array([0.5, 1, 1]), shown='got 0.5, 1.0')
  + kind('±1 or {0, 1}', np.array([np.nan, 1, 1]), shown='got')
  + kind('labels == positive_class', ['a', 'b', 'a'], shown='got <U1')
  + kind('labels == positive_class', np.array([1, None, 1]), shown='got object')
  + kind('labels == positive_class', Y * 1j, shown='got complex128')
  + kind('labels == positive_class', abs, {}, shown='got object')
  + kind('to match the rows', Y[:2], shown='got [2]')
  + kind('to match the rows', Y[:, None], shown='got [3, 1]')
  + kind('to match the rows', 1, shown='got []')
  + kind('labels == positive_class', None, 'ab', shown='got')
)
WEIGHTS = (
  kind('finite and at least 0', np.array([1, 1, -1]), shown='-1')
  + kind('finite and at least 0', np.array([1, 1, np.nan]), shown='nan')
  + kind('finite and at least 0', np.array([1, 1, np.inf]), shown='inf')
  + kind('at least one must be positive', np.zeros(3), shown='all weights')
  + kind('how often each example counts', Y * 1j, shown='complex128')
  + kind('how often each example counts', ['1'] * 3, shown='<U1')
  + kind('how often each example counts', 'a', abs, {}, shown='got')
  + kind('to match the rows', np.ones(2), shown='got [2]')
  + kind('to match the rows', 1.0, shown='got []')
  + kind('to match the rows', np.ones([3, 1]), shown='got [3, 1]')
)
MODEL = (
  kind('must be a Model', 'two_layer', 0.5, abs, {}, shown='got')
  + kind('must be a Model', logistic.two_layer, shown='got two_layer')
  + kind('must be a Model', logistic.hadamard, shown='got hadamard')
  + kind('must be a Model', logistic.Model, shown='got Model')
)
OF_DATA = dict(features=FEATURES, labels=LABELS, weights=WEIGHTS, model=MODEL)
OF_LINEAR_DATA = dict(features=FEATURES, labels=LABELS, weights=WEIGHTS)
STEP_SIZE = tuple(
  w for w in kinds.positive if not callable(w.value)
) + kinds.schedule('step_size')
KEY = jax.random.key(0)
METHOD = (
  kind('call it, as in lr_gd', logistic.lr_gd, shown='got lr_gd')
  + kind('call it', logistic.perceptron, shown='got perceptron')
  + kind('call it', logistic.batch_perceptron, shown='got batch_perceptron')
  + kind('call it', logistic.normalized_batch_perceptron, shown='normalized_')
  + kind('call it', logistic.dual_momentum, shown='got dual_momentum')
  + kind('call it', logistic.nesterov, shown='got nesterov')
  + kind('call it', logistic.smooth_perceptron, shown='got smooth_perceptron')
  + kind('call it', logistic.averaged, shown='got averaged')
  + kind('call it', logistic.Method, shown='got Method')
  + kind('must be a Method', optax.sgd(1.0), shown='got GradientTransformation')
  + kind('must be a Method', None, shown='got NoneType')
  + kind('must be a Method', 'lr_gd', shown='got str')
  + kind('must be a Method', 0.5, shown='got float')
)
STEP_SIZED = (
  logistic.lr_gd,
  logistic.normalized_lr_gd,
  logistic.normalized_exponential_gd,
  logistic.adaptive_gd,
)
WITHOUT_ARGUMENTS = (
  logistic.perceptron,
  logistic.batch_perceptron,
  logistic.normalized_batch_perceptron,
  logistic.dual_momentum,
  logistic.nesterov,
  logistic.smooth_perceptron,
)

methods = [
  *(
    Case(public, dict(step_size=1.0), dict(step_size=STEP_SIZE))
    for public in STEP_SIZED
  ),
  Case(
    logistic.gd,
    dict(loss=losses.logistic(), step_size=1.0),
    dict(
      loss=kind('must be a Loss', None, 'logistic', 0.5, abs, {}, shown='got')
      + kind('must be a Loss', losses.tsallis, shown='got tsallis')
      + kind('must be a Loss', losses.Loss, shown='got Loss'),
      step_size=STEP_SIZE,
    ),
  ),
  Case(
    losses.Loss,
    dict(loss=losses.hinge()),
    dict(
      loss=kind('of the margins', losses.Loss(1.0, abs, 1.0), shown='got 1.0')
      + kind('of the margins', losses.Loss(abs, 'r', 1.0), shown="got 'r'")
    ),
    lambda loss: logistic.gd(loss, 1.0),
  ),
  *(
    Case(
      public,
      dict(loss=public()),
      dict(
        loss=kind('such as losses.log', public, shown=f'got {public.__name__}')
      ),
      lambda loss: logistic.gd(loss, 1.0),
    )
    for public in (
      losses.logistic,
      losses.exponential,
      losses.hinge,
      losses.squared_hinge,
    )
  ),
  Case(
    losses.tsallis,
    dict(q=2.0),
    dict(q=kinds.positive + kind('above 1', 1, 0.5, np.float32(1))),
  ),
  Case(
    losses.renyi,
    dict(q=2.0),
    dict(q=kinds.positive + kind('above 1 and at most 2', 1, 0.5, 2.5, 3)),
  ),
  Case(
    logistic.regularized_lr_gd,
    dict(step_size=1.0, penalty=0.1),
    dict(
      step_size=STEP_SIZE
      + kind('must be below 2', 20.0, 21, shown='each step would turn'),
      penalty=kinds.positive
      + kind('must be below 2', 2.0, np.float32(3), shown='each step'),
    ),
  ),
  Case(
    logistic.sampled,
    dict(method=logistic.lr_gd(1.0), batch_size=2, key=KEY),
    dict(method=METHOD, batch_size=kinds.count, key=kinds.key),
  ),
  Case(
    logistic.two_layer,
    dict(width=2, key=KEY),
    dict(
      width=kinds.count,
      key=kinds.key,
      activation=kinds.functions_of('of an array'),
      scale=kinds.positive,
    ),
  ),
  Case(logistic.hadamard, dict(scale=1.0), dict(scale=kinds.positive)),
  Case(
    logistic.Model,
    dict(model=logistic.hadamard()),
    dict(
      model=kind(
        'features -> params', logistic.Model(1.0, abs, 2), shown='got 1.0'
      )
      + kind('-> scores', logistic.Model(abs, 'f', 2), shown="got 'f'")
      + kind('positive', logistic.Model(abs, abs, -1), shown='got -1')
    ),
    lambda model: logistic.make_problem(X, Y, model=model),
  ),
  Case(
    logistic.progressive_rescaling,
    dict(step_size=1.0, growth=1.5, every=10),
    dict(
      step_size=kinds.positive,
      growth=kinds.factor,
      every=kinds.integers(1),
    ),
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
      call,
    )
    for public in WITHOUT_ARGUMENTS
    for call in (
      lambda method: logistic.solve(method, X, Y, max_steps=2),
      lambda method: logistic.record(method, X, Y, num_steps=2),
    )
  ),
  Case(
    logistic.increasing_steps,
    dict(margin=0.5, radius=1.0),
    dict(
      margin=kinds.positive
      + kind('both as max_margin returns', 2.0, 1.5, shown='exceeds radius=1'),
      radius=kinds.positive
      + kind('both as max_margin returns', 0.25, shown='margin=0.5 exceeds'),
    ),
  ),
  Case(
    logistic.averaged, dict(method=logistic.lr_gd(1.0)), dict(method=METHOD)
  ),
  Case(
    logistic.Method,
    dict(method=logistic.Method(*logistic.lr_gd(1.0))),
    dict(
      method=kind(
        'of the problem', logistic.Method('x', abs), shown='method.init'
      )
      + kind('-> state', logistic.Method(abs, 2.0), shown='got 2.0')
      + kind('of the problem', logistic.Method(None, abs), shown='got None')
    ),
    lambda method: logistic.solve(method, X, Y, max_steps=2),
  ),
]

runs = [
  Case(logistic.make_problem, DATA, OF_DATA),
  Case(
    logistic.solve,
    dict(method=logistic.lr_gd(1.0), max_steps=2, **DATA),
    dict(method=METHOD, max_steps=kinds.integers(0), **OF_DATA),
  ),
  Case(
    logistic.record,
    dict(method=logistic.lr_gd(1.0), num_steps=2, **DATA),
    dict(method=METHOD, num_steps=kinds.integers(1), **OF_DATA),
  ),
  Case(
    logistic.settle,
    dict(method=logistic.lr_gd(1.0), tolerance=0.1, max_steps=2, **DATA),
    dict(
      method=METHOD,
      tolerance=kinds.positive,
      max_steps=kinds.integers(0),
      **OF_DATA,
    ),
  ),
  Case(
    logistic.sweep,
    dict(make=logistic.lr_gd, parameters=jnp.ones(2), max_steps=2, **DATA),
    dict(
      make=kind('must be a function', None, 'lr_gd', 1.0, logistic.lr_gd(1.0))
      + kind('must return a Method', kinds.returns_none, shown='got NoneType')
      + kind('must return a Method', kinds.returns_text, shown='got str')
      + kind('must return a Method', optax.sgd, shown='got Gradient')
      + kind(
        'must return a Method', lambda _: logistic.lr_gd, shown='got lr_gd'
      )
      + kind('cannot be called with', logistic.perceptron, shown='perceptron'),
      parameters=kind(
        'same leading axis', 1.0, None, {}, (), shown='got shapes'
      )
      + kind('same leading axis', np.ones(0), shown='got shapes [[0]]')
      + kind('same leading axis', (np.ones(2), np.ones(3)), shown='[[2], [3]]')
      + kind(
        'only arrays of numbers', np.array(['a']), ['a'], shown='parameters'
      )
      + kind('only arrays of numbers', abs, shown='parameters'),
      max_steps=kinds.integers(0),
      **OF_DATA,
    ),
  ),
  Case(
    logistic.sweep,
    dict(step_sizes=jnp.ones(2)),
    dict(
      step_sizes=kind('positive and finite', np.array([1.0, -1.0]), shown='-1')
      + kind('positive and finite', np.array([np.nan]), shown='nan')
      + kind('must be a number', np.ones([2, 2]), shown='got Array')
    ),
    lambda step_sizes: logistic.sweep(
      logistic.lr_gd, step_sizes, X, Y, max_steps=2
    ),
    named=dict(step_sizes='step_size'),
  ),
  Case(
    logistic.max_margin,
    DATA,
    dict(
      features=FEATURES
      + kind(
        'convert them first', jnp.asarray(X, jnp.bfloat16), shown='bfloat16'
      )
      + kind('convert them first', X.astype(np.float16), shown='float16'),
      labels=LABELS,
      weights=WEIGHTS,
      tolerance=tuple(w for w in kinds.positive if w.value is not None),
      max_steps=kinds.integers(1),
    ),
  ),
]

_OF_BOUNDS = dict(n=10, radius=1.0, margin=0.5)
in_bounds = [
  Case(
    public,
    dict(_OF_BOUNDS, **more),
    dict.fromkeys((*_OF_BOUNDS, *more), kinds.positive_arrays),
  )
  for public, more in (
    *(
      (public, {})
      for public in (
        bounds.perceptron,
        bounds.normalized_batch_perceptron,
        bounds.batch_perceptron,
        bounds.nesterov,
        bounds.smooth_perceptron,
      )
    ),
    *(
      (public, dict(step_size=1.0))
      for public in (
        bounds.normalized_lr_gd,
        bounds.lr_gd,
        bounds.normalized_exponential_gd,
        risks.phase_transition,
      )
    ),
    (bounds.gd, dict(step_size=1.0, separation=1.0)),
    *(
      (public, dict(step_size=1.0, num_steps=10))
      for public in (
        risks.lr_gd,
        risks.mean_lr_gd,
        risks.averaged_exponential_gd,
      )
    ),
  )
]
CASES = [*methods, *runs, *in_bounds]
