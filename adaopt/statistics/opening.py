"""Backward passes of parameters that are not linear, applied once a batch.

A loss may hold functions of parameters alone with a backward pass of their own
(`jax.custom_vjp`), such as a quantiser or a clip of the gradient. Where that is
not linear, the gradient of a batch is not the mean of what it makes of single
examples. The loss is opened at the results z of those functions: the gradient
by z adds up over examples and micro-batches, and the backward pass is applied
to the mean, as `jax.grad` does for the batch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from adaopt._common import arithmetic, losses, varying
from adaopt.per_example.program import constraints, inlining, ir

CUSTOM = 'custom_vjp_call'


class Parts(NamedTuple):
  """The parameters, and what functions of them alone make."""

  params: optax.Params
  made: tuple[jax.Array, ...]


class Opened(NamedTuple):
  """A loss of parts, and how parameters make them."""

  opens: bool  # whether there are any; else all are in loops or branches
  loss: Callable[..., Any]  # (parts, sample) → (total, outcome)
  prepare: Callable[[optax.Params], tuple[jax.Array, ...]]  # params → made


def opened(
  loss: Callable[..., Any], params: optax.Params, samples: losses.Sample
) -> Opened | None:
  """Opens a loss at the functions of parameters with backward passes.

  Args:
    loss: (params, sample) → (total, outcome).
    params: The parameters.
    samples: The samples, [J, q, ...].

  Returns:
    The opened loss; None where no backward pass is its own, but for functions
    of samples outside of loops.
  """
  leaves, treedef = jax.tree.flatten(params)
  one = constraints.one_of(samples)
  closed, shapes = jax.make_jaxpr(loss, return_shape=True)(params, one)
  if CUSTOM not in ir.names(closed):
    return None
  flat = inlining.flatten(closed, inlining.PLAIN_CALLS)
  given, drawn = flat.inputs[: len(leaves)], flat.inputs[len(leaves) :]
  of_params = ir.dependents(flat.equations, given)
  of_samples = ir.dependents(flat.equations, drawn)
  own = [
    equation
    for equation in flat.equations
    if equation.name == CUSTOM
    and of_params.intersection(equation.outputs)
    and not of_samples.intersection(equation.outputs)
  ]
  in_loops = any(
    equation.name != CUSTOM and CUSTOM in ir.names_in(equation)
    for equation in flat.equations
  )
  if not own and not in_loops:
    return None
  made = [value for equation in own for value in equation.outputs]
  rest = [equation for equation in flat.equations if equation not in own]

  def known(params):
    values = map(jnp.asarray, treedef.flatten_up_to(params))
    return flat.constants | dict(zip(given, values, strict=True))

  def prepare(params):
    equations = ir.needed(flat.equations, made)
    return tuple(ir.evaluate(equations, known(params), made))

  def loss_of_parts(parts, sample):
    values = known(parts.params) | dict(zip(made, parts.made, strict=True))
    values |= dict(zip(drawn, jax.tree.leaves(sample), strict=True))
    equations = ir.needed(rest, flat.outputs, effects=True)
    results = ir.evaluate(equations, values, flat.outputs)
    return jax.tree.unflatten(jax.tree.structure(shapes), results)

  return Opened(bool(own), loss_of_parts, prepare)


def closed(
  opening: Opened, params: optax.Params, gradient: Parts
) -> optax.Updates:
  """The gradient by parameters, from that by parts.

  Args:
    opening: The opened loss.
    params: The parameters.
    gradient: The mean gradient by parts.

  Returns:
    Like params, float32 or wider.
  """
  params, gradient = varying.alike(params, gradient)
  made, pull = jax.vjp(opening.prepare, params)
  (through,) = pull(optax.tree.cast_like(gradient.made, made))
  return jax.tree.map(
    lambda direct, x: direct + x.astype(arithmetic.accumulator_dtype(direct)),
    gradient.params,
    through,
  )
