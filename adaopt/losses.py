"""Loss functions and the samples they are evaluated on."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adaopt import base, checks


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
        'loss_fn must return (loss, aux) with has_aux=True and the loss alone '
        f'without; with has_aux={has_aux} it returned {type(output).__name__}.'
      )
    value, aux = output if has_aux else (output, ())
    if jnp.shape(value) or not jnp.issubdtype(
      jnp.result_type(value), jnp.floating
    ):
      raise ValueError(
        'loss_fn must return a real scalar, the mean loss over the batch; got '
        f'{jnp.result_type(value)}{list(jnp.shape(value))}.'
      )
    return value, aux

  return loss


def grouped(batch: base.Batch, size: int) -> base.Batch:
  """Arrays [b, ...] as [b / size, size, ...]."""
  length = checks.num_examples(batch)
  if length % size:
    raise ValueError(
      f'a batch of {length} examples is no multiple of group_size={size}.'
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


def check_independent_examples(
  loss_fn: base.LossFn,
  params: Any,
  batch: base.Batch,
  *args: Any,
  has_aux: bool = False,
) -> None:
  """Checks that a loss is the mean of the losses of single examples.

  Only then has an example a gradient of its own. A few examples will do; it is
  meant for debugging, before training.

  Args:
    loss_fn: (params, batch, *args) → the loss, or (loss, aux).
    params: The parameters.
    batch: A few examples, [b, ...].
    *args: Further arguments of loss_fn.
    has_aux: Whether loss_fn returns (loss, aux).

  Raises:
    ValueError: If the loss of the batch is not the mean of its examples', or is
      not finite, which tells nothing.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> whitened = lambda w, x: jnp.mean(w * (x - x.mean(0)) ** 2)
    >>> adaopt.check_independent_examples(
    ...   whitened, 1.0, jnp.arange(4.0))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
      ...
    ValueError: the loss of 4 examples is 1.25, the mean of their ...
  """
  loss = checked(loss_fn, has_aux, *args)
  groups = grouped(batch, 1)
  whole = jax.jit(lambda p, batch: loss(p, batch)[0])(params, batch)
  singles = jax.jit(jax.vmap(lambda p, x: loss(p, x)[0], (None, 0)))(
    params, groups
  )
  tolerance = max(1e-3, 8 * float(jnp.finfo(singles.dtype).eps))
  singles, whole = np.asarray(singles, np.float64), float(whole)
  if not np.isfinite(whole):
    raise ValueError(
      f'the loss of {len(singles)} examples is {whole}, which cannot tell '
      'whether they are independent; check other parameters or examples, of '
      'which the loss is finite.'
    )
  with np.errstate(invalid='ignore'):  # ∞ - ∞
    mean, scale = singles.mean(), np.abs(singles).mean()
  close = abs(whole - mean) <= tolerance * max(scale, abs(whole))
  if not (np.isfinite(mean) and close):
    raise ValueError(
      f'the loss of {len(singles)} examples is {whole:.6g}, the mean of their '
      f'single losses is {mean:.6g}; the examples are coupled, for example by '
      'BatchNorm in training mode, a random key for the whole batch, or a sum '
      'in place of the mean. Make the loss a mean over examples, or estimate '
      'from groups of them with group_size.'
    )
