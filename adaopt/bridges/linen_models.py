"""A model of Flax Linen as a loss_fn, its parameters and its model state."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax

from adaopt._common import base, checks, functions
from adaopt.bridges import bridging

# Importing it takes as long as optax: it waits for the first call.
if TYPE_CHECKING:
  from flax import linen as nn


def linen_loss(
  model: 'nn.Module',
  variables: Mapping[str, Any],
  loss: Callable[[Any, base.Batch], Any],
  *,
  streams: Sequence[str] = ('dropout',),
) -> bridging.Bridge:
  """Splits the variables of a Linen model into parameters and model state.

  The loss calls the model as if it held its variables, and says itself that it
  trains, as the model spells it: `model(batch['image'], train=True)`.

  The collections of `variables` are kept, and those that come into being in
  the loss, such as sown intermediates, are not.

  Args:
    model: A module.
    variables: What `model.init` returned: 'params', which is trained, and the
      other collections, which make up the model state.
    loss: (model, batch) → the mean loss over the batch, or (loss, aux), where
      the model is bound to its variables.
    streams: The RNG streams that get a key of their own beside 'params'. Any
      other name draws from 'params', as always in Linen; give the names that
      a lifted transform splits, as `nn.scan(..., split_rngs={'noise': True})`.

  Returns:
    A `Bridge`, made once for a run, since the compiled steps are kept by its
    loss_fn. After training, `{'params': state.params, **state.model_state}`
    are the variables of the model.

  Raises:
    ValueError: If an argument is of another kind, or there are no parameters.
      In loss_fn, if the loss returns a tuple that is not a pair.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from adaopt import bridges
    >>> from flax import linen as nn
    >>> class Model(nn.Module):
    ...   @nn.compact
    ...   def __call__(self, x, train):
    ...     x = nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x))
    ...     return nn.Dropout(0.5, deterministic=not train)(x)
    >>> model = Model()
    >>> variables = model.init(jax.random.key(0), jnp.ones([1, 3]), train=False)
    >>> def loss(model, batch):
    ...   return jnp.mean(model(batch, train=True) ** 2)
    >>> loss_fn, params, model_state = bridges.linen_loss(
    ...   model, variables, loss)
    >>> value, new_state = loss_fn(
    ...   params, jnp.eye(3), key=jax.random.key(0), model_state=model_state)
    >>> jax.tree.map(jnp.shape, new_state)
    {'batch_stats': {'BatchNorm_0': {'mean': (4,), 'var': (4,)}}}
  """
  from flax import linen as nn

  checks.check_callable('(model, batch) → loss', loss=loss)
  functions.check_takes(2, loss=loss)
  _check_model(model)
  if not isinstance(variables, Mapping):
    raise ValueError(
      'variables must be collections by their names, got '
      f'{type(variables).__name__}; pass what model.init returned.'
    )
  if not jax.tree.leaves(variables.get('params')):
    raise ValueError(
      "variables must have parameters in the collection 'params', got "
      f'{list(variables)}; pass what model.init returned.'
    )
  _check_streams(streams)
  names = ('params', *(name for name in streams if name != 'params'))
  model_state = {
    name: collection
    for name, collection in variables.items()
    if name != 'params'
  }
  applied = nn.apply(loss, model, mutable=list(model_state))

  def loss_fn(params, batch, key, model_state):
    keys = {name: jax.random.fold_in(key, i) for i, name in enumerate(names)}
    result, after = applied({'params': params, **model_state}, batch, rngs=keys)
    after = bridging.updated(model_state, after)
    return bridging.with_state(result, after)

  return bridging.Bridge(loss_fn, variables['params'], model_state)


def _check_model(model):
  from flax import linen as nn

  if isinstance(model, type):
    raise ValueError(
      f'model must be a module of Linen, got the class {model.__name__}: call '
      'it first.'
    )
  if not isinstance(model, nn.Module):
    raise ValueError(
      f'model must be a module of Linen, got {type(model).__name__}; for one '
      'of NNX there is nnx_loss.'
    )


def _check_streams(streams):
  if isinstance(streams, str):
    raise ValueError(
      f'streams must be a sequence of names, got {streams!r}; pass '
      f'[{streams!r}].'
    )
  named = isinstance(streams, Iterable)
  if not named or not all(isinstance(name, str) for name in streams):
    raise ValueError(
      f"streams must be a sequence of names, such as ('dropout',), got "
      f'{streams!r}.'
    )
