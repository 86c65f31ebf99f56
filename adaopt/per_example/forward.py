"""Inner products of per-sample gradients with a direction, by forward mode."""

import functools

import jax
import jax.numpy as jnp
import optax

from adaopt._common import base, varying
from adaopt.per_example import factorisation, reductions
from adaopt.per_example.program import constraints, ir, pruning


def along(
  loss: base.LossFn,
  params: optax.Params,
  samples: base.Batch,
  direction: optax.Updates,
) -> jax.Array:
  """Re ⟨g_j, u⟩, the derivative of loss_j in direction u.

  Computed by forward mode, or from the factors if a function in the loss has a
  reverse rule only.

  Args:
    loss: (params, sample) → (loss, aux).
    params: The parameters.
    samples: The samples, [J, ...].
    direction: u, like params.

  Returns:
    The inner products, [J].
  """
  params, samples, direction = varying.alike(params, samples, direction)
  each = constraints.of_samples(loss, params, samples)
  values_of = lambda params: each(params, samples)[0]
  if 'custom_vjp_call' in ir.names(jax.make_jaxpr(values_of)(params)):
    by_reverse_mode = functools.partial(_by_reverse_mode, loss)
    return pruning.pruned(by_reverse_mode)(params, samples, direction)
  # JAX's gradient of a real loss is the conjugate of its ascent direction.
  tangents = optax.tree.cast_like(jax.tree.map(jnp.conj, direction), params)
  return jax.jvp(values_of, (params,), (tangents,))[1]


def _by_reverse_mode(loss, params, samples, direction):
  ones = jnp.ones(len(jax.tree.leaves(samples)[0]))
  factored = factorisation.factorise(
    loss, params, samples, ones, direction=direction
  )
  return reductions.products(factored, direction)
