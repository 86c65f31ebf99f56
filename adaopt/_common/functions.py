"""Functions of users: whether they can be called, and what they return."""

import contextlib
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adaopt._common import arithmetic, checks


def described(function: Any) -> str:
  """A function by its name and parameters, or as it is written out."""
  name = getattr(function, '__name__', None)
  if name is None:
    return repr(function)
  try:
    return f'{name}{inspect.signature(function)}'
  except (TypeError, ValueError):  # A builtin without a signature.
    return name


def takes(function: Callable[..., Any], *args: Any, **keywords: Any) -> bool:
  """Whether a function can be called so, as far as its signature tells.

  One that wraps another is believed by its own signature and by the other's.
  """

  def binds(follow_wrapped):
    try:
      signature = inspect.signature(function, follow_wrapped=follow_wrapped)
    except (TypeError, ValueError):  # A builtin without a signature.
      return True
    try:
      signature.bind(*args, **keywords)
    except TypeError:
      return False
    return True

  return binds(True) or binds(False)


def check_takes(count: int, **values: Any) -> None:
  """Raises ValueError unless each function takes so many arguments."""
  for name, function in values.items():
    if not takes(function, *range(count)):
      raise ValueError(
        f'{name} cannot be called with {count} argument(s), got '
        f'{described(function)}; if that makes such a function, call it first.'
      )


def number(name: str, value: Any) -> jax.Array:
  """What a function returned, int32 or floating. []; ValueError for others."""
  if not checks.is_number(value) or jnp.iscomplexobj(value):
    raise ValueError(f'{name} must return a number, got {value!r}.')
  if isinstance(value, float | np.float64):
    value = jnp.asarray(value, jnp.float32)
  if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
    value = arithmetic.saturating_int(value)
  if np.ndim(value):
    raise ValueError(
      f'{name} must return a number, got shape {list(np.shape(value))}.'
    )
  return jnp.asarray(value)


def check_schedule(dtype: Any = jnp.int32, **schedules: Any) -> None:
  """Raises ValueError unless each function makes a number of a count.

  It is called with a tracer: what needs a concrete number is believed.
  """
  check_takes(1, **schedules)
  for name, schedule in schedules.items():

    def call(count, name=name, schedule=schedule):
      number(name, schedule(count))

    with contextlib.suppress(jax.errors.JAXTypeError, jax.errors.JAXIndexError):
      jax.eval_shape(call, jax.ShapeDtypeStruct((), dtype))


def check_scalar_or_schedule(learning_rate: Any) -> None:
  """Raises ValueError unless it is a finite number ≥ 0 or a schedule."""
  if callable(learning_rate):
    check_schedule(learning_rate=learning_rate)
  else:
    checks.check_learning_rate(learning_rate)
