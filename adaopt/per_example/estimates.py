"""Reductions of per-example gradients, for users.

Privacy, importance sampling and the pruning of networks need them. Each
function turns a loss function into a function of parameters and batch, and
calls the loss with batches of one example. All work under jit, vmap and scan.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from adaopt._common import base, checks, losses
from adaopt.per_example import factorisation, forward, reductions
from adaopt.per_example.program import pruning
from adaopt.per_example.rules import choice


def _prepare(loss_fn, has_aux, params, batch, args):
  """Checked arguments of `factorise`: every example is a sample."""
  checks.check_params(params)
  loss = losses.checked(loss_fn, has_aux, *args)
  return loss, params, *losses.samples(batch, None, 1)


def _mean(tree):
  return jax.tree.map(lambda x: jnp.mean(x, 0), tree)


def squared_norms(
  loss_fn: base.LossFn, *, has_aux: bool = False
) -> Callable[..., tuple[Any, optax.Updates, jax.Array]]:
  """Like `jax.value_and_grad`, with ‖g_i‖² of every example.

  Args:
    loss_fn: (params, batch, *args) → the mean loss over the batch, or
      (loss, aux).
    has_aux: Whether loss_fn returns (loss, aux); aux is averaged.

  Returns:
    f(params, batch, *args) → (loss or (loss, aux), ḡ like params, ‖g_i‖² [b]
    in float32 or wider).

  Raises:
    ValueError: From f, if parameters are integers, if the loss is not a
      scalar, or if the batch is empty or ragged.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> loss_fn = lambda w, x: jnp.mean((x @ w) ** 2) / 2
    >>> x = jnp.array([[3.0, 4.0], [6.0, 8.0]])
    >>> w = jnp.array([1.0, 0.0])
    >>> loss, mean, norms = adaopt.per_example.squared_norms(loss_fn)(w, x)
    >>> print(loss, mean, norms)
    11.25 [22.5 30. ] [ 225. 3600.]

  References:
    Goodfellow, `Efficient per-example gradient computations
    <https://arxiv.org/abs/1510.01799>`_, 2015
  """
  checks.check_callable('(params, batch) -> loss', loss_fn=loss_fn)

  def estimate(params, batch, *args):
    prepared = _prepare(loss_fn, has_aux, params, batch, args)
    factored = factorisation.factorise(*prepared)
    gradient, norms = pruning.pruned(lambda: reductions.sums(factored)[:2])()
    length = len(factored.values)
    mean = jax.tree.map(lambda g: g / length, gradient)
    value, aux = _mean((factored.values, factored.aux))
    return (
      (value, aux) if has_aux else value,
      optax.tree.cast_like(mean, params),
      sum(jax.tree.leaves(norms)),
    )

  return estimate


def inner_products(
  loss_fn: base.LossFn, *, has_aux: bool = False
) -> Callable[..., jax.Array]:
  """⟨g_i, u⟩ of every example for a direction u, by forward mode.

  Args:
    loss_fn: As for `squared_norms`.
    has_aux: As for `squared_norms`.

  Returns:
    f(params, batch, direction, *args) → [b], with `direction` like params. For
    complex tensors it is the real part, Re Σ g_i conj(u).

  Raises:
    ValueError: As for `squared_norms`, and if the direction is unlike params.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> loss_fn = lambda w, x: jnp.mean((x @ w) ** 2) / 2
    >>> x = jnp.array([[3.0, 4.0], [1.0, 0.0]])
    >>> w, u = jnp.array([1.0, 1.0]), jnp.array([0.0, 1.0])
    >>> print(adaopt.per_example.inner_products(loss_fn)(w, x, u))
    [28.  0.]
  """
  checks.check_callable('(params, batch) -> loss', loss_fn=loss_fn)

  def estimate(params, batch, direction, *args):
    loss, params, samples, _ = _prepare(loss_fn, has_aux, params, batch, args)
    checks.check_like(params, direction=direction)
    return forward.along(loss, params, samples, direction)

  return estimate


def second_moment(
  loss_fn: base.LossFn, *, has_aux: bool = False
) -> Callable[..., optax.Updates]:
  """(1/b) Σ_i |g_i|² of every coordinate: the empirical Fisher's diagonal.

  Args:
    loss_fn: As for `squared_norms`.
    has_aux: As for `squared_norms`.

  Returns:
    f(params, batch, *args) → like params, real, in float32 or wider.

  Raises:
    ValueError: As for `squared_norms`.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> loss_fn = lambda w, x: jnp.mean((x @ w) ** 2) / 2
    >>> x = jnp.array([[3.0, 4.0], [1.0, 0.0]])
    >>> w = jnp.array([1.0, 1.0])
    >>> print(adaopt.per_example.second_moment(loss_fn)(w, x))
    [221. 392.]
  """
  checks.check_callable('(params, batch) -> loss', loss_fn=loss_fn)

  def estimate(params, batch, *args):
    prepared = _prepare(loss_fn, has_aux, params, batch, args)
    factored = factorisation.factorise(*prepared)
    squares = pruning.pruned(
      lambda: reductions.sums(factored, choice.SQUARES_FIRST).squares
    )()
    return jax.tree.map(lambda s: s / len(factored.values), squares)

  return estimate
