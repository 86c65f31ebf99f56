"""Loss functions and the samples they are evaluated on."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adaopt._common import base, checks


def checked(loss_fn: base.LossFn, has_aux: bool, *args: Any) -> base.LossFn:
  """The loss function with an aux, its value checked to be a real scalar.

  Args:
    loss_fn: (params, batch, *args) → the mean loss, or (loss, aux).
    has_aux: Whether loss_fn returns (loss, aux).
    *args: Its further arguments, the same for all examples.

  Returns:
    (params, batch) → (loss, aux), with aux () where there is none.
  """

  def loss(params, batch):
    output = loss_fn(params, batch, *args)
    pair = isinstance(output, tuple)
    if pair != has_aux or (pair and len(output) != 2):
      raise ValueError(
        'loss_fn must return (loss, aux) with has_aux=True, and only the loss '
        f'without; with has_aux={has_aux} it returned {type(output).__name__}.'
      )
    value, aux = output if has_aux else (output, ())
    if not isinstance(value, jax.Array | np.ndarray | np.generic):
      raise ValueError(
        f'loss_fn returned {value!r}, which is not an array and has no '
        'gradient; return the mean loss over the batch as JAX computes it, '
        'without float() or .item().'
      )
    if jnp.shape(value) or not jnp.issubdtype(value.dtype, jnp.floating):
      raise ValueError(
        'loss_fn must return a real scalar, the mean loss over the batch; got '
        f'{value.dtype}{list(jnp.shape(value))}.'
      )
    return value, aux

  return loss


def grouped(batch: base.Batch, size: int) -> base.Batch:
  """Arrays [b, ...] as [b / size, size, ...]."""
  length = checks.num_examples(batch)
  if length % size:
    raise ValueError(
      f'a batch of {length} examples is not a multiple of group_size={size}.'
    )
  return jax.tree.map(
    lambda x: jnp.reshape(x, (length // size, size, *jnp.shape(x)[1:])), batch
  )


def keep(samples: jax.Array, mask: jax.Array) -> jax.Array:
  """Samples [J, ...] where mask [J] says so, and 0 elsewhere."""
  mask = jnp.expand_dims(mask, range(1, samples.ndim))
  return jnp.where(mask, samples, 0)


def samples(
  batch: base.Batch, mask: jax.Array | None, group_size: int
) -> tuple[base.Batch, jax.Array]:
  """The samples [J, q, ...] and which of them count, [J] bool."""
  groups = grouped(batch, group_size)
  if mask is None:
    return groups, jnp.ones(checks.num_examples(groups), bool)
  return groups, jnp.all(grouped(mask, group_size), 1)
