"""Checks of arguments: a wrong value raises a sentence, a tracer passes."""

import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def is_concrete(*values: Any) -> bool:
  """Whether every value is known now rather than traced."""
  return not any(isinstance(value, jax.core.Tracer) for value in values)


def _array(value: Any) -> np.ndarray:
  """The value as an array; of objects where numpy cannot make one."""
  try:
    return np.asarray(value)
  except (TypeError, ValueError):
    return np.asarray(None)


def _is_real(array: np.ndarray) -> bool:
  # numpy does not count bfloat16 among its floating types.
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


def check_decays(**values: Any) -> None:
  """Raises ValueError unless each named decay of an average is in [0, 1)."""
  for name, value in values.items():
    # What stands for an array, such as a decay that follows the batch size.
    as_array = getattr(value, '__jax_array__', None)
    decay = value if as_array is None else as_array()
    check_not_negative(**{name: decay})
    if is_concrete(decay) and not decay < 1:
      raise ValueError(f'{name} must be below 1, got {decay}.')


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


def check_flag(**values: Any) -> None:
  """Raises ValueError unless each named value is True or False."""
  for name, value in values.items():
    if not isinstance(value, bool | np.bool_):
      raise ValueError(f'{name} must be True or False, got {value!r}.')


def injected(*names: str) -> str:
  """What to tell whose function may have been taken for a schedule."""
  return (
    'Within optax.inject_hyperparams, which takes every function for a '
    f'schedule and calls it with a count, pass static_args={names} to that.'
  )


def check_callable(role: str, **values: Any) -> None:
  """Raises ValueError unless each named value can be called; says its role."""
  for name, value in values.items():
    if not callable(value):
      wrong = f'{name} must be a function {role}, got {value!r}.'
      hint = isinstance(value, jax.Array | np.generic)
      raise ValueError(f'{wrong} {injected(name)}' if hint else wrong)


def check_hashable(**functions: Any) -> None:
  """Raises ValueError unless each named function can key a cache."""
  for name, function in functions.items():
    try:
      hash(function)
    except TypeError as error:
      raise ValueError(
        f'{name} must be hashable, since the programs compiled for it are kept '
        f'by it, got a {type(function).__name__}; pass a function that calls '
        'it, the same one every time.'
      ) from error


def check_made(role: str, **values: Any) -> None:
  """Like `check_callable`, and not a factory of the toolkit left uncalled.

  Such as `norm_test` for `norm_test(eta=0.5)`, which can be called too.
  """
  check_callable(role, **values)
  for name, value in values.items():
    module = getattr(value, '__module__', None) or ''
    factory = getattr(value, '__qualname__', '')
    defined = getattr(sys.modules.get(module), factory, None)
    if module.startswith('adaopt.') and defined is value:
      raise ValueError(
        f'{name} must be a function {role}, and {factory} makes one: call it, '
        f'as in {factory}(...).'
      )


def check_optimizer(optimizer: Any, name: str = 'optimizer') -> None:
  """Raises ValueError unless the optimizer has init and update."""
  if not (
    callable(getattr(optimizer, 'init', None))
    and callable(getattr(optimizer, 'update', None))
  ):
    function = getattr(optimizer, '__name__', '')
    call = f'; call it first, as in {function}(…)' if function else ''
    raise ValueError(
      f'{name} must be an optax optimizer, got {optimizer!r}{call}.'
    )


def check_learning_rate(learning_rate: Any) -> None:
  """Raises ValueError unless it is a finite number ≥ 0 or a schedule."""
  if callable(learning_rate) or not is_concrete(learning_rate):
    return
  number = _number('learning_rate', learning_rate)
  if not np.isfinite(number):
    raise ValueError(f'learning_rate must be finite, got {learning_rate}.')
  if number < 0:
    raise ValueError(
      f'learning_rate must be at least 0, got {learning_rate}: updates descend '
      'with a positive one.'
    )


def is_number(leaf: Any) -> bool:
  """Whether a leaf holds numbers or bools, and not random keys."""
  dtype = getattr(leaf, 'dtype', None)
  if dtype is None:
    return _array(leaf).dtype.kind in 'biufc'
  return jnp.issubdtype(dtype, jnp.number) or jnp.issubdtype(dtype, jnp.bool_)


def _is_iterator(leaf: Any) -> bool:
  return isinstance(leaf, Iterator)


def _describe(leaf: Any) -> str | None:
  """What a leaf is that is not an array of numbers; None: it is one."""
  if callable(leaf):
    return f'the function {getattr(leaf, "__name__", leaf)!r}'
  if isinstance(leaf, str):
    return f'the string {leaf!r}'
  if _is_iterator(leaf):
    return f'an iterator ({type(leaf).__name__}), which is read once'
  dtype = getattr(leaf, 'dtype', None)
  if dtype is None:
    dtype = _array(leaf).dtype
  # Strings, objects and dates of numpy; keys of JAX are data.
  if getattr(dtype, 'kind', 'f') in 'OSUMm':
    return f'of type {dtype}'
  return None


def check_params(params: Any) -> None:
  """Raises ValueError unless all parameters can have a gradient."""
  if not jax.tree.leaves(params):
    raise ValueError('the parameters hold no array; there is nothing to train.')
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    name = f'parameter {jax.tree_util.keystr(path) or "params"}'
    wrong = _describe(leaf)
    if wrong:
      raise ValueError(
        f'{name} is {wrong}, which has no gradient; pass only arrays. For an '
        'Equinox module: params, static = eqx.partition(model, '
        'eqx.is_inexact_array), and eqx.combine(params, static) in loss_fn.'
      )
    dtype = jnp.result_type(leaf)
    if not jnp.issubdtype(dtype, jnp.inexact):
      raise ValueError(
        f'{name} is of type {dtype}, which has no gradient; pass floating or '
        'complex parameters and close over the rest.'
      )


def check_like(params: Any, **trees: Any) -> None:
  """Raises ValueError unless each named tree has the parameters' shapes."""
  structure = jax.tree.structure(params)
  check_arrays(**trees)
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


def check_arrays(**trees: Any) -> None:
  """Raises ValueError if a leaf of a named tree is not an array of numbers."""
  for name, tree in trees.items():
    for path, leaf in jax.tree_util.tree_leaves_with_path(
      tree, is_leaf=_is_iterator
    ):
      wrong = _describe(leaf)
      if wrong:
        raise ValueError(
          f'{name}{jax.tree_util.keystr(path)} is {wrong}; a {name} holds '
          'only arrays of numbers.'
        )


def num_examples(batch: Any, name: str = 'batch') -> int:
  """The length of the leading axis that all arrays of a batch share.

  Args:
    batch: A pytree of arrays, or of their shapes.
    name: What messages call it.

  Returns:
    The number of examples, at least one.

  Raises:
    ValueError: If there is no array, one is a scalar, the lengths differ, or
      there is no example.
  """
  check_arrays(**{name: batch})
  lengths = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
    entry = jax.tree_util.keystr(path)
    if jnp.ndim(leaf) == 0:
      raise ValueError(
        f'{name}{entry} is a scalar; every array of a {name} needs a leading '
        'example axis.'
      )
    lengths[entry or name] = jnp.shape(leaf)[0]
  if not lengths:
    raise ValueError(
      f'the {name} holds no array, got {batch!r}; pass arrays with a leading '
      'example axis.'
    )
  if len(set(lengths.values())) > 1:
    listing = ', '.join(f'{name}: {n}' for name, n in lengths.items())
    raise ValueError(
      f'the leading axes of a {name} must be equal, got {listing}.'
    )
  (length,) = set(lengths.values())
  if length == 0:
    raise ValueError(f'the {name} is empty; it needs at least one example.')
  return length
