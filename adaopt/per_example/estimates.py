"""Reductions of per-example gradients, for users.

Privacy, importance sampling and the pruning of networks need them. Each
function turns a loss function into a function of parameters and batch, and
calls the loss with batches of one example. All work under jit, vmap and scan.

The gradient of example i is g_i, and (1/b) Σ g_i that of the batch: for a
`WeightedLoss` of totals a_i and weights w_i it is g_i = (b / Σ w_i) ∇a_i.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from adaopt._common import auxiliary, base, calls, checks, explicit, varying
from adaopt.per_example import factorisation, forward, reductions, unit_sums
from adaopt.per_example.program import constraints, pruning
from adaopt.per_example.rules import choice, common


def _estimate(
  measure, place, loss_fn, has_aux, params, batch, args, key, model_state, *u
):
  """What measure(call, params, *u) finds, on meshes of any axes."""

  def called(loss_fn, params, batch, args, key, model_state, *u):
    call = calls.prepare(
      loss_fn,
      params,
      batch,
      *args,
      key=key,
      model_state=model_state,
      mask=None,
      group_size=1,
      has_aux=has_aux,
    )
    params, samples, mask, u = varying.alike(params, call.samples, call.mask, u)
    return measure(call._replace(samples=samples, mask=mask), params, *u)

  return explicit.on_auto_axes(
    *(called, place, loss_fn),
    *(params, batch, args, key, model_state, *u),
  )


def _estimator(loss_fn, has_aux, measure, place):
  """An estimate that takes no direction."""
  unit_sums.check(loss_fn, has_aux)

  def estimate(params, batch, *args, key=None, model_state=None):
    return _estimate(
      *(measure, place, loss_fn, has_aux),
      *(params, batch, args, key, model_state),
    )

  return estimate


def _scale(outcome):
  """b / Σ w_i, by which the gradient of a total becomes that of an example."""
  if outcome.weight is None:
    return 1
  return len(outcome.weight) / jnp.sum(outcome.weight)


def _weigh(count, outcome):
  """Coefficients of 1, and Σ w_i, the number of examples of a mean."""
  return jnp.ones(count), jnp.asarray(count / _scale(outcome), float)


def _averages(values, outcome):
  """The loss of the batch, and the aux: averages, and rows."""
  auxiliary.check_averages(outcome.aux)
  shares = jnp.ones(len(values)) if outcome.weight is None else outcome.weight
  averaged = jax.tree.map(lambda x: auxiliary.average(x, shares), outcome.aux)
  value = _scale(outcome) * jnp.mean(common.widen(values))
  return value, auxiliary.joined(averaged, outcome.each)


def _rows_placed(rows, placing):
  return placing.by_rows(rows)


def _like_params_placed(tree, placing):
  return placing.like_params(tree)


def squared_norms(
  loss_fn: base.LossFn, *, has_aux: bool = False
) -> Callable[..., tuple[Any, optax.Updates, jax.Array]]:
  """Like `jax.value_and_grad`, with ‖g_i‖² of every example.

  Args:
    loss_fn: (params, batch, *args) → the mean loss over the batch, or
      (loss, aux), see `LossFn`.
    has_aux: Whether loss_fn returns (loss, aux); aux as in
      `value_and_statistics`.

  Returns:
    f(params, batch, *args, key=, model_state=) → (loss or (loss, aux), ḡ like
    params, ‖g_i‖² [b] in float32 or wider), with keywords as in
    `value_and_statistics`. A new model state is dropped.

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

  def measure(call, params):
    def measured(params, samples, mask):
      factored = factorisation.factorise(
        call.loss,
        params,
        samples,
        mask,
        weigh=functools.partial(_weigh, len(mask)),
      )
      sums = reductions.sums(factored)
      return sums.total, sums.norms, factored.values, factored.aux

    found = pruning.pruned(measured)(params, call.samples, call.mask)
    mean, norms, values, outcome = found
    scale = _scale(outcome)
    value, aux = _averages(values, outcome)
    return (
      (value, aux) if has_aux else value,
      optax.tree.cast_like(mean, params),
      scale**2 * sum(jax.tree.leaves(norms)),
    )

  return _estimator(loss_fn, has_aux, measure, unit_sums.placed)


def inner_products(
  loss_fn: base.LossFn, *, has_aux: bool = False
) -> Callable[..., jax.Array]:
  """⟨g_i, u⟩ of every example for a direction u, by forward mode.

  Args:
    loss_fn: As for `squared_norms`.
    has_aux: As for `squared_norms`.

  Returns:
    f(params, batch, direction, *args, key=, model_state=) → [b], with
    `direction` like params. For complex tensors it is the real part,
    Re Σ g_i conj(u).

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
  unit_sums.check(loss_fn, has_aux)

  def measure(call, params, direction):
    samples = call.samples
    _, outcome = constraints.of_samples(call.loss, params, samples)(
      params, samples
    )
    products = forward.along(call.loss, params, samples, direction)
    return _scale(outcome) * products

  def estimate(params, batch, direction, *args, key=None, model_state=None):
    checks.check_params(params)
    checks.check_like(params, direction=direction)
    return _estimate(
      *(measure, _rows_placed, loss_fn, has_aux),
      *(params, batch, args, key, model_state, direction),
    )

  return estimate


def second_moment(
  loss_fn: base.LossFn, *, has_aux: bool = False
) -> Callable[..., optax.Updates]:
  """(1/b) Σ_i |g_i|² of every coordinate: the empirical Fisher's diagonal.

  Args:
    loss_fn: As for `squared_norms`.
    has_aux: As for `squared_norms`.

  Returns:
    f(params, batch, *args, key=, model_state=) → like params, real, in float32
    or wider.

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

  def measure(call, params):
    def measured(params, samples, mask):
      factored = factorisation.factorise(
        call.loss, params, samples, mask, preference=choice.SQUARES_FIRST
      )
      return reductions.sums(factored).squares, factored.aux

    squares, outcome = pruning.pruned(measured)(params, call.samples, call.mask)
    share = _scale(outcome) ** 2 / len(call.mask)
    return jax.tree.map(lambda s: (share * s).astype(s.dtype), squares)

  return _estimator(loss_fn, has_aux, measure, _like_params_placed)


def mean_of_signs(
  loss_fn: base.LossFn, *, has_aux: bool = False
) -> Callable[..., optax.Updates]:
  """(1/b) Σ_i sgn g_i of every coordinate: the vote of the examples.

  The sign of an outer product x δᵀ is that of x times that of δ, so that a
  dense layer without a sequence takes a product of signs. Where a gradient is a
  sum, over positions or patches, it is made a few examples at a time.

  A coordinate whose gradient cancels to 0 but for rounding votes as it rounds.

  Args:
    loss_fn: As for `squared_norms`.
    has_aux: As for `squared_norms`.

  Returns:
    f(params, batch, *args, key=, model_state=) → like params, between −1 and 1,
    in float32 or wider. For complex tensors sgn z = z / |z|.

  Raises:
    ValueError: As for `squared_norms`.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> loss_fn = lambda w, x: jnp.mean((x @ w) ** 2) / 2
    >>> x = jnp.array([[3.0, -4.0], [1.0, 0.0]])
    >>> w = jnp.array([1.0, 0.0])  # gradients (9, −12) and (1, 0)
    >>> print(adaopt.per_example.mean_of_signs(loss_fn)(w, x))
    [ 1.  -0.5]

  References:
    Roulet and Agarwala, `Per-example Gradients: a New Frontier for
    Understanding and Improving Optimizers
    <https://arxiv.org/abs/2510.00236>`_, 2025
  """

  def measure(call, params):
    def measured(params, samples, mask):
      factored = factorisation.factorise(
        call.loss, params, samples, mask, preference=choice.SQUARES_FIRST
      )
      return reductions.sums(factored).signs

    signs = pruning.pruned(measured)(params, call.samples, call.mask)
    return jax.tree.map(lambda s: s / len(call.mask), signs)

  return _estimator(loss_fn, has_aux, measure, _like_params_placed)
