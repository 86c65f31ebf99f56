"""Removes what a function computes and does not return."""

from collections.abc import Callable
from typing import Any

import jax
from jax.interpreters import partial_eval


def pruned(function: Callable[..., Any]) -> Callable[..., Any]:
  """Returns the function without the equations that its result does not need.

  Nothing unread is computed outside `jax.jit` either. Unread carries and
  outputs of scans are removed, too. Equations with effects are kept.

  Args:
    function: A function from pytrees of arrays to a pytree of arrays.

  Returns:
    An equal function, traced at every call.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> both = lambda x: {'sine': jnp.sin(x), 'cosine': jnp.cos(x)}
    >>> jaxpr = jax.make_jaxpr(pruned(lambda x: both(x)['sine']))(1.0)
    >>> print(*(equation.primitive for equation in jaxpr.eqns))
    sin
  """

  def call(*args):
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
    jaxpr, _ = partial_eval.dce_jaxpr(
      closed.jaxpr, [True] * len(closed.out_avals), instantiate=True
    )
    leaves = jax.tree.leaves(args)
    results = jax.core.eval_jaxpr(jaxpr, closed.consts, *leaves)
    return jax.tree.structure(shapes).unflatten(results)

  return call
