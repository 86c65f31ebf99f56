"""What may be passed wrongly for an argument of each kind."""

import datetime

import jax
import jax.numpy as jnp
import numpy as np
import optax

import adaopt
from tests.wrong_calls.table import INF, NAN, Kind, Left, kind


def no_argument():
  """A function that takes none."""
  return 1.0


def returns_none(*args, **kwargs):
  """A function that forgot to return."""


def returns_text(*args, **kwargs):
  """A function whose result is a string."""
  return '0.5'


def returns_vector(*args, **kwargs):
  """A function whose result has an axis too many."""
  return jnp.ones(3)


def returns_function(*args, **kwargs):
  """A function that makes a function."""
  return returns_none


def returns_complex(*args, **kwargs):
  """A function whose result is complex."""
  return 1j


class Model:
  """A class that is passed in place of an instance."""


# Numbers.

_NUMBERLESS = (None, '0.5', b'0.5', [0.1], (0.1,), {'value': 0.1}, 1j)
_ARRAYS = (np.ones(2), jnp.ones([1]), np.array('0.5'), np.array(None))
_OBJECTS = (Model, datetime.date(2026, 1, 1), jax.random.key(0), adaopt)

no_numbers = kind('must be a number', *_NUMBERLESS, *_ARRAYS, *_OBJECTS)
functions = kind('must be a number', abs, optax.sgd, returns_none)


def numbers(remedy: str, *values) -> Kind:
  """What is no number, and numbers that are out of range."""
  return no_numbers + functions + kind(remedy, *values)


positive = numbers(
  'positive and finite', 0, -1, -0.5, NAN, INF, np.float32(0), jnp.array(NAN)
)
not_negative = numbers(
  'finite and at least 0', -1, -1e-30, NAN, INF, -INF, np.float32(-1)
)
adagrad_constants = dict(
  initial_accumulator_value=not_negative, eps=not_negative
)
decay = not_negative + kind('below 1', 1, 1.5, jnp.array(1.0))
floor = positive + kind('at most 1', 1.5, np.float64(2), 100)
factor = positive + kind('above 1', 1, 0.5, np.float32(1))
positive_arrays = kind(
  'must be numbers', None, '1', ['1.5'], 1j, abs, Model, [[1], [2, 3]]
) + kind('positive and finite', 0, -1, NAN, INF, [1.0, -1.0], np.zeros(2))


def integers(minimum: int, bits: int = 31) -> Kind:
  """What is no integer of [minimum, 2^bits)."""
  return kind(
    f'must be an integer of at least {minimum} and below 2^{bits}',
    *(minimum - 1, -(2**40), 2**bits, 2**70, 2.5, 4.0, NAN, INF, True),
    *(np.float32(4), jnp.array(4.0), np.array([4]), jnp.array([4, 8])),
    *(None, '4', b'4', [4], (4, 8), {4}, 4j, abs, int, jax.random.key(4)),
  )


count = integers(1)
long_count = integers(1, bits=62)
seed = integers(0, bits=32)

key = (
  kind('must be a random key', None, 0.5, 'x', abs)
  + kind('must be a random key', jnp.ones(2), shown='got float32[2]')
  + kind(
    'must be a random key', jax.random.split(jax.random.key(0), 3), shown='[3]'
  )
)
flag = kind('must be True or False', 'no', None, 2, [], abs, jnp.ones(2))


# Functions.

no_functions = (None, 'f', 0.5, [abs], {}, np.ones(2))


def functions_of(role: str) -> Kind:
  """What cannot be called where a function is asked for."""
  return kind(f'must be a function {role}', *no_functions)


def kept_functions_of(role: str) -> Kind:
  """Likewise of a function by which compiled programs are kept."""
  return (
    kind(f'must be a function {role}', None, 'f', 0.5)
    + kind('must be hashable', [abs], shown='got a list')
    + kind('must be hashable', {}, shown='got a dict')
    + kind('must be hashable', np.ones(2), shown='got a ndarray')
  )


def numbers_of(function: str) -> Kind:
  """Functions that do not return a number; the argument is a function."""
  remedy = f'{function} must return a number'
  return (
    kind(remedy, returns_none, shown='got None')
    + kind(remedy, returns_text, shown="got '0.5'")
    + kind(remedy, returns_vector, shown='got shape [3]')
    + kind(remedy, returns_function, shown='got <function returns_none')
    + kind(remedy, returns_complex, shown='got 1j')
  )


uncalled_schedules = (
  kind('call it', optax.cosine_decay_schedule, shown='cosine_decay_schedule')
  + kind('call it', optax.linear_schedule, shown='linear_schedule')
  + kind('cannot be called with', no_argument, shown='no_argument')
)


def schedule(name: str) -> Kind:
  """What is no schedule: nor one left uncalled, nor an optimizer."""
  remedy = f'{name} must return a number'
  return (
    numbers_of(name)
    + uncalled_schedules
    + kind(remedy, optax.sgd, shown='GradientTransformation')
    + kind(remedy, optax.constant_schedule, shown='got <function')
  )


learning_rate = (
  tuple(w for w in no_numbers if not callable(w.value))
  + kind('must be finite', NAN, INF, -INF, np.float32(NAN), jnp.array(INF))
  + kind('at least 0', -1, -1e-9, np.float32(-0.1), jnp.array(-1.0))
  + schedule('learning_rate')
)
only_schedule = functions_of('of the') + schedule('schedule')

optimizer = (
  kind('must be an optax optimizer', None, 0.1, 'adam', [], {}, jnp.ones(2))
  + kind('call it first, as in sgd', optax.sgd, shown='function sgd')
  + kind('call it first, as in adamw', optax.adamw, shown='function adamw')
  + kind('call it first, as in adaptive', adaopt.adaptive, shown='adaptive')
  + kind(
    'call it first',
    optax.GradientTransformation,
    optax.GradientTransformationExtraArgs,
    Model,
    shown='class',
  )
)
without_batch_size = kind(
  'adapt_batch_size(...)',
  optax.sgd(0.1),
  optax.adam(0.1),
  shown='0 batch sizes',
)

criterion = (
  functions_of('of the statistics')
  + kind('call it, as in norm_test(', adaopt.norm_test, shown='norm_test')
  + kind('call it', adaopt.debiased_norm_test, shown='debiased_norm_test')
  + kind('call it', adaopt.goodput, shown='goodput')
  + kind('call it', adaopt.StatefulCriterion, shown='StatefulCriterion')
  + kind('call it', adaopt.Policy, shown='Policy')
  + kind('cannot be called with', no_argument, shown='no_argument')
  + kind('must be a function', adaopt.follow, optax.sgd(0.1))
  + kind(
    'must be a function of params',
    adaopt.StatefulCriterion(None, abs),
    shown='got None',
  )
  + kind(
    '-> (required, state)', adaopt.StatefulCriterion(abs, 1), shown='got 1'
  )
)
policy = (
  functions_of('(current, required) -> next')
  + kind('call it', adaopt.capped_growth, shown='capped_growth')
  + kind('call it', adaopt.batch_size.hysteresis, shown='hysteresis')
  + kind('call it', adaopt.Policy, shown='Policy')
  + kind('two arguments', no_argument, shown='no_argument')
  + kind('two arguments', lambda current: current, shown='lambda')
  + kind(
    'must be a function', adaopt.Policy(None), adaopt.Policy(2.0), shown='got'
  )
)

of_other_arguments = kind(
  'cannot be called with', no_argument, shown='no_argument'
) + kind('cannot be called with', lambda params: params, shown='(params)')
loss = functions_of('(params, batch) -> loss') + of_other_arguments
kept_loss = kept_functions_of('(params, batch) -> loss') + of_other_arguments
"""Of a loss function before it is called."""

returned_loss = (
  kind('return the mean loss', returns_none, shown='None')
  + kind('return the mean loss', returns_text, shown="'0.5'")
  + kind('return the mean loss', lambda *_: 0.5, shown='0.5')
  + kind('return the mean loss', returns_function, shown='<function')
  + kind('a real scalar', returns_vector, shown='got float32[3]')
  + kind(
    'a real scalar',
    lambda params, batch: jnp.sum(batch['x']) * (1 + 1j),
    shown='got complex64[]',
  )
  + kind('a real scalar', lambda *_: jnp.ones([], int), shown='got int32[]')
  + kind('only the loss', lambda *_: (jnp.ones([]), {}), shown='tuple')
  + kind('only the loss', lambda *_: (jnp.ones([]),) * 3, shown='tuple')
  + kind(
    'real scalar',
    lambda params, batch: adaopt.WeightedLoss(batch['x'], 1.0),
    shown='got float32[',
  )
)
"""Of a loss function that is called and has no aux."""


# Data.

_X = np.ones([4, 2], np.float32)

batch = (
  kind('pass arrays with a leading', None, {}, [], shown='no array')
  + kind('leading example axis', 1.0, {'x': np.float32(1)}, shown='scalar')
  + kind(
    'must be equal',
    {'x': _X, 'y': np.ones(3)},
    shown="['x']: 4, ['y']: 3",
  )
  + kind('at least one example', {'x': _X[:0]}, shown='empty')
  + kind('only arrays of numbers', {'x': _X, 'name': 'a'}, shown="string 'a'")
  + kind('only arrays of numbers', {'x': np.array(['a'] * 4)}, shown='<U1')
  + kind('only arrays of numbers', {'x': abs}, shown="function 'abs'")
  + kind('only arrays of numbers', iter([1]), shown='iterator')
  + kind('only arrays of numbers', {'x': np.array([None] * 4)}, shown='object')
)
params = (
  kind('pass floating or complex parameters', {'w': 1}, shown='int')
  + kind('pass floating or complex parameters', jnp.arange(2), shown='int32')
  + kind('pass floating', {'w': np.array([True])}, shown='bool')
  + kind('pass only arrays', {'w': 'a'}, shown="string 'a'")
  + kind('pass only arrays', {'w': abs}, Model, shown='the function')
  + kind('nothing to train', None, {}, [], {'w': None}, shown='no array')
)
positions = kind(
  'must be integers',
  *(None, 'first', 0.5, [0.5], np.ones(2), jnp.zeros(3), {}, abs),
  shown='got',
)
statistics = kind(
  'adaopt.GradientStatistics',
  *(None, 1.0, {}, jnp.ones(2), (4, jnp.ones(2)), adaopt.GradientStatistics),
  shown='',
)
required_statistics = kind(
  'pass statistics= to', Left(), shown='needs the statistics'
) + kind(
  'such as value_and_statistics returns',
  *({}, jnp.ones(2), 'noise', 4),
  shown='got',
)
sized_statistics = required_statistics + kind(
  'pass adaopt.GradientStatistics(batch_size, gradient)',
  None,
  shown='statistics=None',
)

axis_name = kind(
  'of jax.shard_map, jax.vmap or jax.pmap', 'devices', 3, ('x', 'y')
)
