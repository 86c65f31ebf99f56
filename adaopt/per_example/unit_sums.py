"""Sums of per-example gradients with weights that follow from their norms.

Norms come from the factors of the gradients, and the same factors are then
contracted with the weights: no gradient per example, and no second backward
pass. Only gradients that a scan emits take one, since their factors are gone
after it.

The gradient g_j of a unit, of q examples, is that of the loss of this unit
alone, whatever else is in the batch: for a `WeightedLoss` ∇(a_j / w_j), and 0
where w_j is. A sum is not divided by anything: those of micro-batches add up,
and so do those of devices.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from adaopt._common import (
  auxiliary,
  base,
  calls,
  checks,
  explicit,
  losses,
  varying,
)
from adaopt.per_example import factorisation, reductions
from adaopt.per_example.program import pruning
from adaopt.per_example.rules import choice

Weigh = Callable[..., tuple[Any, Any]]
"""(constants, ‖g_j‖² of every tensor, losses [J], ⟨g_j, u⟩ [J] for a direction
u) → norms to return, and weights: [J] for each part of the parameters."""


def check(loss_fn: base.LossFn, has_aux: bool, group_size: int = 1) -> None:
  """Raises ValueError if what a reduction is made with is out of range."""
  checks.check_callable('(params, batch) -> loss', loss_fn=loss_fn)
  checks.check_integer(1, group_size=group_size)
  checks.check_flag(has_aux=has_aux)


def summed(
  loss_fn: base.LossFn,
  weigh: Weigh,
  constants: Any,
  params: optax.Params,
  batch: base.Batch,
  *args: Any,
  key: jax.Array | None,
  model_state: Any,
  mask: jax.Array | None,
  group_size: int,
  has_aux: bool,
  direction: optax.Updates | None = None,
) -> tuple[Any, optax.Updates, Any]:
  """Σ_j c_j g_j, with c_j as `weigh` has it.

  Args:
    loss_fn: The loss function.
    weigh: See `Weigh`.
    constants: The numbers and arrays that it takes, a pytree.
    params: The parameters.
    batch: The examples, [b, ...].
    *args: Further arguments of loss_fn.
    key: As in `value_and_statistics`.
    model_state: As in `value_and_statistics`.
    mask: Which examples count, [b] bool; None: all. Units that do not have norm
      and weight 0.
    group_size: q.
    has_aux: Whether loss_fn returns an aux.
    direction: u, like params; None for no products.

  Returns:
    (loss or (loss, aux), the sum like params, norms), in float32 or wider.
  """

  def measure(
    loss_fn, params, batch, constants, direction, args, key, model_state, mask
  ):
    call = calls.prepare(
      loss_fn,
      params,
      batch,
      *args,
      key=key,
      model_state=model_state,
      mask=mask,
      group_size=group_size,
      has_aux=has_aux,
    )
    measured = functools.partial(_measured, _alone(call.loss), weigh)
    arguments = varying.alike(
      params, call.samples, call.mask, constants, direction
    )
    (value, aux, each), total, norms = pruning.pruned(measured)(*arguments)
    if has_aux:
      value = value, auxiliary.joined(aux, each)
    return value, total, norms

  return explicit.on_auto_axes(
    *(measure, placed, loss_fn),
    *(params, batch, constants, direction, args, key, model_state, mask),
  )


def placed(
  result: tuple[Any, optax.Updates, Any], placing: explicit.Placing
) -> tuple[Any, optax.Updates, Any]:
  """Values and norms as the examples lie, and a sum as the parameters do."""
  value, total, norms = result
  like_params = placing.like_params(total)
  return placing.by_rows(value), like_params, placing.by_rows(norms)


def _measured(loss, weigh, params, samples, mask, constants, direction):
  """The averages, the sum and the norms, of all units."""
  # Without Gram matrices, whose norms cancel where the gradients of positions
  # do: a norm that is too small would clip too little.
  factored = factorisation.factorise(
    loss,
    params,
    samples,
    mask,
    preference=choice.SQUARES_FIRST,
    direction=direction,
  )
  counted = lambda x: losses.keep(x, mask)
  squares = jax.tree.map(counted, reductions.sums(factored).norms)
  known = [squares, counted(factored.values)]
  if direction is not None:
    known.append(counted(reductions.products(factored, direction)))
  norms, weights = jax.lax.stop_gradient(weigh(constants, *known))
  coefficients = _of_tensors(jax.tree.map(counted, weights), params)
  if factored.stacks:
    factored = factorisation.factorise(
      loss, params, samples, mask, coefficients=coefficients
    )
  total = reductions.weighted(factored, coefficients)
  return _averages(factored.values, factored.aux, mask), total, norms


def _alone(loss):
  """The loss of a unit alone, a_j / w_j."""

  def alone(params, sample):
    total, outcome = loss(params, sample)
    if outcome.weight is None:
      return total, outcome
    counts = outcome.weight != 0
    share = jnp.where(counts, 1 / jnp.where(counts, outcome.weight, 1), 0)
    return jnp.where(counts, total, 0) * share.astype(total.dtype), outcome

  return alone


def _averages(values, outcome, mask):
  """The loss and the aux averaged over the units that count, and rows."""
  auxiliary.check_averages(outcome.aux)
  weight = jnp.ones(len(mask)) if outcome.weight is None else outcome.weight
  shares = losses.keep(weight, mask)
  average = lambda x: auxiliary.average(x, shares)
  return average(values), jax.tree.map(average, outcome.aux), outcome.each


def norms_of(squares: Any) -> jax.Array:
  """‖g_j‖ of some tensors together, from those of each, squared. [J]."""
  return jnp.sqrt(sum(jax.tree.leaves(squares)))


def _of_tensors(weights, params):
  """The weights of parts of the parameters, for every tensor."""
  return jax.tree.map(
    lambda c, part: jax.tree.map(lambda _: c, part), weights, params
  )
