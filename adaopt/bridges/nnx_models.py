"""A model of Flax NNX as a loss_fn, its parameters and its model state."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from adaopt._common import base, checks, functions
from adaopt.bridges import bridging

# Importing it takes longer than JAX and optax: it waits for the first call.
if TYPE_CHECKING:
  from flax import nnx


def nnx_loss(
  model: 'nnx.Module',
  loss: Callable[[Any, base.Batch], Any],
  *,
  wrt: Any = None,
) -> bridging.Bridge:
  """Splits an NNX model into what is trained and what it keeps beside.

  The loss_fn runs the loss on a copy of the model, so that the model itself
  never changes, and gives every RNG stream of the copy a key of its own, made
  from the key of the sample: dropout needs no more than the stream it has, an
  array of streams, as of `nnx.split_rngs`, gets independent ones, and modules
  that take their streams at the call find them in an `nnx.Rngs` of the model.
  The model is copied as it is now: call `model.train()` first.

  Variables that come into being in the loss, as by `sow`, are not kept.

  Args:
    model: A model. Its variables hold arrays: no `ref=True`, no `hijax=True`.
    loss: (model, batch) → the mean loss over the batch, or (loss, aux), as
      for `nnx.grad`.
    wrt: The filter of the variables to train: `nnx.LoRAParam`, or
      `nnx.All(nnx.Param, nnx.PathContains('head'))`. All others but the RNG
      state make up the model state. None: `nnx.Param`.

  Returns:
    A `Bridge`, made once for a run, since the compiled steps are kept by its
    loss_fn. After training,
    `nnx.update(model, state.params, state.model_state)` brings the model up to
    date, and `model.eval()` makes it ready to evaluate.

  Raises:
    ValueError: If an argument is of another kind, `wrt` selects nothing, or a
      variable holds what is not an array. In loss_fn, if the loss returns a
      tuple that is not a pair, or removes a variable.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from adaopt import bridges
    >>> from flax import nnx
    >>> model = nnx.Sequential(
    ...   nnx.Linear(3, 4, rngs=nnx.Rngs(0)),
    ...   nnx.BatchNorm(4, rngs=nnx.Rngs(0)),
    ...   nnx.Dropout(0.5, rngs=nnx.Rngs(0)),
    ... )
    >>> def loss(model, batch):
    ...   return jnp.mean(model(batch) ** 2)
    >>> loss_fn, params, model_state = bridges.nnx_loss(model, loss)
    >>> value, new_state = loss_fn(
    ...   params, jnp.eye(3), key=jax.random.key(0), model_state=model_state)
    >>> jax.tree.map(jnp.shape, nnx.to_pure_dict(new_state))
    {'layers': {1: {'mean': (4,), 'var': (4,)}}}
  """
  from flax import nnx

  wrt = nnx.Param if wrt is None else wrt
  checks.check_callable('(model, batch) → loss', loss=loss)
  functions.check_takes(2, loss=loss)
  _check_model(model)
  _check_filter(wrt)
  # The variables of a split are the model's own; mapping makes new ones.
  graphdef, *parts = nnx.split(model, nnx.RngKey, nnx.RngState, wrt, ...)
  keys, counts, params, model_state = jax.tree.map(lambda leaf: leaf, parts)
  if not jax.tree.leaves(params):
    raise ValueError(
      f'wrt={wrt} selects no variable of the model, which holds '
      f'{_kinds(model_state)}; name what is to be trained, as in wrt=nnx.Param.'
    )
  _check_leaves({'params': params, 'model_state': model_state})

  def loss_fn(params, batch, key, model_state):
    own = nnx.merge(
      graphdef, _reseeded(keys, key), counts, params, model_state, copy=True
    )
    result = loss(own, batch)
    after = bridging.updated(model_state, nnx.state(own))
    return bridging.with_state(result, after)

  return bridging.Bridge(loss_fn, params, model_state)


def _reseeded(keys, key):
  """The keys of all streams, made from one; a key for each stream."""
  leaves, structure = jax.tree.flatten(keys)
  streams = []
  for index, leaf in enumerate(leaves):
    stream = jax.random.fold_in(key, index)
    if leaf.shape:
      stream = jax.random.split(stream, math.prod(leaf.shape))
    streams.append(stream.reshape(leaf.shape))
  return jax.tree.unflatten(structure, streams)


def _check_model(model):
  from flax import nnx

  if isinstance(model, type):
    raise ValueError(
      f'model must be an nnx.Module, got the class {model.__name__}: make one.'
    )
  if isinstance(model, nnx.Module):
    return
  is_variable = lambda leaf: isinstance(leaf, nnx.Variable)
  leaves = jax.tree.leaves(nnx.split(model)[1], is_leaf=is_variable)
  if not any(map(is_variable, leaves)):
    raise ValueError(
      f'model must be an nnx.Module, got {type(model).__name__}; for one of '
      'Linen there is linen_loss.'
    )


def _check_filter(wrt):
  from flax import nnx

  try:
    nnx.filterlib.to_predicate(wrt)
  except (TypeError, ValueError) as error:
    raise ValueError(
      f'wrt={wrt!r} is not a filter of nnx; name what is to be trained, as in '
      'wrt=nnx.Param.'
    ) from error


def _kinds(state):
  from flax import nnx

  is_variable = lambda leaf: isinstance(leaf, nnx.Variable)
  leaves = jax.tree.leaves(state, is_leaf=is_variable)
  return ', '.join(sorted({type(leaf).__name__ for leaf in leaves})) or 'none'


def _check_leaves(parts):
  arrays = (jax.Array, np.ndarray, np.generic, int, float, complex)
  for name, part in parts.items():
    for path, leaf in jax.tree_util.tree_leaves_with_path(part):
      if not isinstance(leaf, arrays):
        raise ValueError(
          f'{name}{jax.tree_util.keystr(path)} is of type '
          f'{type(leaf).__name__}; the variables of a model must hold arrays '
          '(ref=False and hijax=False), and other data be static attributes.'
        )
