"""Loops of optax without adaopt, on the batches that adaopt would draw."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import adaopt


def train(
  loss_fn: Callable[[Any, Any], jax.Array],
  optimizer: optax.GradientTransformation,
  params: Any,
  dataset: Any,
  *,
  batch_size: int,
  num_steps: int,
  seed: int,
  order: np.ndarray | None = None,
) -> tuple[Any, jax.Array]:
  """A loop of optax over the batches that a training step would draw.

  `order` is that of the examples within each batch. Returns the parameters, and
  the loss of the last batch before its update.
  """
  offsets = jnp.arange(batch_size) if order is None else jnp.asarray(order)

  def body(carry, first):
    params, state = carry
    batch = adaopt.draw(dataset, seed, first + offsets)
    loss, gradient = jax.value_and_grad(loss_fn)(params, batch)
    updates, state = optimizer.update(gradient, state, params)
    return (optax.apply_updates(params, updates), state), loss

  @jax.jit
  def run(params):
    firsts = batch_size * jnp.arange(num_steps)
    return jax.lax.scan(body, (params, optimizer.init(params)), firsts)

  (params, _), losses = run(params)
  return params, losses[-1]
