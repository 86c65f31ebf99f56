"""The fields of an optimizer's state that the toolkit reads."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax


def _is_field(path: Any, value: Any) -> bool:
  """Whether a path ends with the field of a state."""
  del value
  return hasattr(path[-1], 'tuple_name')


def find_all(opt_state: optax.OptState, field: str) -> list[Any]:
  """The fields of this name of states, never an entry of a parameter tree."""
  found = optax.tree.get_all_with_path(
    opt_state,
    field,
    filtering=_is_field,
  )
  return [value for _, value in found]


def find(opt_state: optax.OptState, field: str, default: Any = None) -> Any:
  """The only field of this name, or the default where there is none."""
  (value,) = find_all(opt_state, field) or [default]
  return value


def states_of(opt_state: optax.OptState, kind: type) -> list[Any]:
  """The states of this type, at any depth."""
  is_kind = lambda node: isinstance(node, kind)
  return [
    node
    for node in jax.tree.leaves(opt_state, is_leaf=is_kind)
    if is_kind(node)
  ]


def is_test_due(opt_state: optax.OptState) -> jax.Array | None:
  """Whether a state asks for the next statistics, [] bool; None: none can."""
  due = find_all(opt_state, 'test_due')
  return functools.reduce(jnp.logical_or, due) if due else None


def batch_size_of(opt_state: optax.OptState) -> jax.Array:
  """The batch size that an optimizer holds; ValueError unless it holds one."""
  found = find_all(opt_state, 'batch_size')
  if len(found) != 1:
    raise ValueError(
      f'the optimizer holds {len(found)} batch sizes instead of one; chain it '
      'with one adapt_batch_size(...) or schedule_batch_size(...), or make it '
      'by adaptive(...) or adadagrad(...).'
    )
  return found[0]


def map_field(
  function: Callable[[Any], Any], opt_state: optax.OptState, field: str
) -> optax.OptState:
  """The state with function(value) for every field of this name."""
  holds = lambda node: field in getattr(node, '_fields', ())

  def one(node):
    if not holds(node):
      return node
    return node._replace(**{field: function(getattr(node, field))})

  return jax.tree.map(one, opt_state, is_leaf=holds)


def with_batch_size(
  opt_state: optax.OptState, batch_size: jax.Array
) -> optax.OptState:
  """The state with this batch size in place of the one that it holds."""
  return optax.tree.set(opt_state, _is_field, batch_size=batch_size)
