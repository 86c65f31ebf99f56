"""What a bridge gives, and what it does with the results of a loss."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from adaopt._common import base


class Bridge(NamedTuple):
  """What a run needs of a model.

  Attributes:
    loss_fn: (params, batch, key, model_state) → (loss, new model_state), or
      (loss, (aux, new model_state)) where the loss has an aux.
    params: What is trained.
    model_state: What the model keeps beside: running statistics, frozen
      parameters and other variables.
  """

  loss_fn: Callable[..., Any]
  params: optax.Params
  model_state: Any


def with_state(result: Any, model_state: Any) -> tuple[Any, Any]:
  """What a loss returned, a loss or (loss, aux), with the new model state."""
  if not isinstance(result, tuple) or isinstance(result, base.WeightedLoss):
    return result, model_state
  if len(result) != 2:
    raise ValueError(
      f'the loss returned a tuple of {len(result)}; return the loss alone, or '
      'the pair (loss, aux).'
    )
  loss, aux = result
  return loss, (aux, model_state)


def updated(model_state: Any, after: Any) -> Any:
  """The leaves of `after` that stand where the model state has one."""
  leaves = dict(jax.tree_util.tree_leaves_with_path(after))
  paths, structure = jax.tree_util.tree_flatten_with_path(model_state)
  for path, _ in paths:
    if path not in leaves:
      raise ValueError(
        f'the loss removed {jax.tree_util.keystr(path)} from the model state; '
        'leave every variable in its place, and change its value only.'
      )
  return jax.tree.unflatten(structure, [leaves[path] for path, _ in paths])
