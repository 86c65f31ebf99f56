"""Checks of arguments: a wrong value meets a sentence, a tracer passes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def is_concrete(*values: Any) -> bool:
  """Whether every value is known now rather than traced."""
  return not any(isinstance(value, jax.core.Tracer) for value in values)


def _array(value: Any) -> np.ndarray:
  """The value as an array, which holds objects where numpy can make none."""
  try:
    return np.asarray(value)
  except (TypeError, ValueError):
    return np.asarray(None)


def _is_real(array: np.ndarray) -> bool:
  # Bfloat16 is no floating type of numpy's.
  return array.dtype.kind in 'biuf' or jnp.issubdtype(array.dtype, jnp.floating)


def _number(name: str, value: Any) -> float:
  number = _array(value)
  if number.ndim or not _is_real(number):
    raise ValueError(f'{name} must be a number, got {value!r}.')
  return float(number)


def check_positive(**values: Any) -> None:
  """Raises ValueError unless each named value is finite and above zero."""
  for name, value in values.items():
    if is_concrete(value) and not 0 < _number(name, value) < float('inf'):
      raise ValueError(f'{name} must be positive and finite, got {value}.')


def check_all_positive(**values: Any) -> None:
  """Like `check_positive`, of all numbers of each named array."""
  for name, value in values.items():
    if not is_concrete(value):
      continue
    numbers = _array(value)
    if not _is_real(numbers):
      raise ValueError(f'{name} must be numbers, got {value!r}.')
    if not np.all((numbers > 0) & np.isfinite(numbers)):
      raise ValueError(f'{name} must be positive and finite, got {value}.')


def check_at_least(minimum: float, **values: Any) -> None:
  """Raises ValueError unless each named value is finite and ≥ `minimum`."""
  for name, value in values.items():
    if not is_concrete(value):
      continue
    if not minimum <= _number(name, value) < float('inf'):
      raise ValueError(
        f'{name} must be finite and at least {minimum}, got {value}.'
      )


def check_not_negative(**values: Any) -> None:
  """Raises ValueError if a named value is below zero or not finite."""
  check_at_least(0, **values)


def check_integer(minimum: int, *, bits: int = 31, **values: Any) -> None:
  """Raises ValueError unless each is an integer of [minimum, 2^bits)."""
  for name, value in values.items():
    if not is_concrete(value):
      continue
    number = _array(value)
    integral = np.issubdtype(number.dtype, np.integer) and number.ndim == 0
    if not integral or not minimum <= number < 2**bits:
      raise ValueError(
        f'{name} must be an integer of at least {minimum} and below 2^{bits}, '
        f'got {value!r}.'
      )


def check_callable(role: str, **values: Any) -> None:
  """Raises ValueError unless each named value can be called; says its role."""
  for name, value in values.items():
    if not callable(value):
      raise ValueError(f'{name} must be a function {role}, got {value!r}.')


def check_params(params: Any) -> None:
  """Raises ValueError unless all parameters can have a gradient."""
  if not jax.tree.leaves(params):
    raise ValueError('the parameters hold no array; there is nothing to train.')
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    dtype = jnp.result_type(leaf)
    if not jnp.issubdtype(dtype, jnp.inexact):
      raise ValueError(
        f'parameter {jax.tree_util.keystr(path) or "params"} is of type '
        f'{dtype}, which has no gradient; pass floating or complex parameters '
        'and close over the rest.'
      )


def check_like(params: Any, **trees: Any) -> None:
  """Raises ValueError unless each named tree has the parameters' shapes."""
  structure = jax.tree.structure(params)
  for name, tree in trees.items():
    if jax.tree.structure(tree) != structure:
      raise ValueError(
        f'{name} must be like the parameters, {structure}, got '
        f'{jax.tree.structure(tree)}.'
      )
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    for (path, leaf), like in zip(leaves, jax.tree.leaves(params), strict=True):
      if jnp.shape(leaf) != jnp.shape(like):
        raise ValueError(
          f'{name}{jax.tree_util.keystr(path)} must have the shape of its '
          f'parameter, {list(jnp.shape(like))}, got {list(jnp.shape(leaf))}.'
        )


def num_examples(batch: Any) -> int:
  """The length of the leading axis that all arrays of a batch share.

  Args:
    batch: A pytree of arrays, or of their shapes.

  Returns:
    The number of examples, at least one.

  Raises:
    ValueError: If there is no array, one is a scalar, the lengths differ, or
      there is no example.
  """
  lengths = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
    name = jax.tree_util.keystr(path) or 'batch'
    if jnp.ndim(leaf) == 0:
      raise ValueError(
        f'{name} is a scalar; every array of a batch needs a leading example '
        'axis.'
      )
    lengths[name] = jnp.shape(leaf)[0]
  if not lengths:
    raise ValueError('the batch holds no array.')
  if len(set(lengths.values())) > 1:
    listing = ', '.join(f'{name}: {n}' for name, n in lengths.items())
    raise ValueError(
      f'the leading axes of a batch must be equal, got {listing}.'
    )
  (length,) = set(lengths.values())
  if length == 0:
    raise ValueError('the batch is empty; it needs at least one example.')
  return length
