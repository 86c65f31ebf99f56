"""If these fail, a function of a user is refused, or a wrong one accepted."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adaopt
from adaopt._common import functions


class Loss:
  def __call__(self, params, batch):
    return params


@functools.wraps(lambda model, batch, rng: None)
def wrapping(params, batch):
  """Has the signature of another."""


@pytest.mark.parametrize(
  'function',
  [
    lambda params, batch: params,
    lambda *args: args,
    lambda params, batch, key=None: params,
    functools.partial(lambda scale, params, batch: params, 1.0),
    jax.jit(lambda params, batch: params),
    Loss(),
    wrapping,
    jnp.maximum,
    np.maximum,
    max,
  ],
  ids=range(10),
)
def test_what_may_take_two_arguments_is_believed(function):
  functions.check_takes(2, loss=function)


@pytest.mark.parametrize(
  ('function', 'shown'),
  [
    (lambda params: params, r'got <lambda>\(params\)'),
    (Loss, r'got Loss\(\)'),
    (lambda params, batch, key: params, r'<lambda>\(params, batch, key\)'),
    (functools.partial(lambda a, b: a, 1.0), r'got functools.partial'),
  ],
  ids=range(4),
)
def test_what_takes_another_number_is_named(function, shown):
  with pytest.raises(ValueError, match=f'^loss cannot .* 2 argument.*{shown}'):
    functions.check_takes(2, loss=function)


@pytest.mark.parametrize(
  'schedule',
  [
    optax.constant_schedule(0.1),
    optax.warmup_cosine_decay_schedule(0.0, 1.0, 10, 100),
    lambda count: 0.1,
    lambda count: np.float64(0.1),
    lambda count: jnp.bfloat16(0.1),
    lambda count: 3,
    # Those that need a concrete number are believed.
    lambda count: 0.1 if count < 10 else 0.01,
    lambda count: float(np.cos(count)),
    lambda count: [0.1, 0.2][count],
  ],
  ids=range(9),
)
def test_schedules_pass_and_are_not_run(schedule):
  with jax.transfer_guard('disallow'):
    functions.check_schedule(learning_rate=schedule)


def test_a_schedule_may_read_what_is_traced():
  @jax.jit
  def first(rate):
    optimizer = adaopt.adagrad(lambda count: rate / (1 + count))
    updates, _ = optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))
    return updates

  np.testing.assert_allclose(first(0.5), [-0.5, -0.5], rtol=1e-6)  # float32


def test_an_error_of_the_schedule_is_its_own():
  def schedule(count):
    raise KeyError('mine')

  with pytest.raises(KeyError, match='mine'):
    functions.check_schedule(schedule=schedule)


@pytest.mark.parametrize(
  ('value', 'dtype'),
  [
    (3, 'int32'),
    (True, 'int32'),
    (np.int64(2**40), 'int32'),
    (0.5, 'float32'),
    (jnp.bfloat16(2), 'bfloat16'),
  ],
)
def test_a_number_is_an_array(value, dtype):
  found = functions.number('policy', value)
  assert found.shape == ()
  assert found.dtype == dtype
