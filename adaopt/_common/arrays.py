"""Arrays of users: whether they hold numbers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adaopt._common import checks


def described(value: Any) -> str:
  """An array by its type and shape, or a value as it is written out."""
  if hasattr(value, 'dtype') and hasattr(value, 'shape'):
    return f'{value.dtype}{list(value.shape)}'
  return repr(value)


def array_of(asked: str, **named: Any) -> jax.Array:
  """The named value as an array; ValueError where JAX cannot make one."""
  ((name, value),) = named.items()
  try:
    return jnp.asarray(value)
  except (TypeError, ValueError) as error:
    raise ValueError(
      f'{name} must be {asked}, got {described(value)}.'
    ) from error


def is_real_scalar(value: Any) -> bool:
  """Whether a value is one real number."""
  real = checks.is_number(value) and not jnp.iscomplexobj(value)
  return real and not np.shape(value)


def check_real(**values: Any) -> None:
  """Raises ValueError unless each named value holds real numbers."""
  for name, value in values.items():
    if not checks.is_number(value) or jnp.iscomplexobj(value):
      raise ValueError(f'{name} must be real numbers, got {described(value)}.')


def check_diagonal(gradient: Any, **results: Any) -> None:
  """Raises ValueError unless each function's result is like the gradient.

  Args:
    gradient: A tree of arrays.
    **results: What a function of this name returned: a tree of real numbers in
      the shapes of the gradient, or one number for a tensor.
  """
  structure = jax.tree.structure(gradient)
  for name, diagonal in results.items():
    if jax.tree.structure(diagonal) != structure:
      raise ValueError(
        f'{name} must return a diagonal like the gradient, got '
        f'{jax.tree.structure(diagonal)} for {structure}.'
      )
    for entry, g in zip(
      jax.tree.leaves(diagonal), jax.tree.leaves(gradient), strict=True
    ):
      real = checks.is_number(entry) and not jnp.iscomplexobj(entry)
      if not real or np.shape(entry) not in ((), jnp.shape(g)):
        raise ValueError(
          f'{name} must return real numbers like the gradient, '
          f'{list(jnp.shape(g))}, got {described(entry)}.'
        )
