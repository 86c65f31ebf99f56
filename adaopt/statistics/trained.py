"""Which tensors an optimizer moves."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from adaopt.statistics import signs


def trained_tensors(update: Callable[..., optax.Updates], *args: Any) -> Any:
  """Whether an optimizer's update can move each tensor.

  It is traced, never run. A tensor is not trained if its update is zero for all
  finite inputs, as `optax.set_to_zero` makes it, also in a partition or behind
  a mask and with whatever keeps a zero after it: a learning rate, a cast, a
  clip, a branch. What the trace does not show to be zero is trained.

  Args:
    update: (*args) → updates, like params. What it closes over is constant.
    *args: What the update depends on, such as the gradient, the state and the
      parameters, or their shapes.

  Returns:
    A bool for every tensor, in the structure of the updates.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from adaopt.statistics import trained
    >>> optimizer = optax.chain(
    ...   optax.sgd(0.1), optax.transforms.freeze({'w': False, 'b': True}))
    >>> params = {'w': jnp.zeros(3), 'b': jnp.zeros([])}
    >>> update = lambda *args: optimizer.update(*args)[0]
    >>> print(trained.trained_tensors(update, params, optimizer.init(params)))
    {'b': False, 'w': True}
  """
  closed, shapes = jax.make_jaxpr(update, return_shape=True)(*args)
  found = signs.propagated(closed, [signs.UNKNOWN] * len(closed.in_avals))
  moved = [sign != signs.ZERO for sign in found]
  return jax.tree.unflatten(jax.tree.structure(shapes), moved)
