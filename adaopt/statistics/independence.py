"""Checks that a loss is a mean over independent examples."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adaopt._common import base, losses


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
  loss = losses.checked(loss_fn, has_aux, *args)
  groups = losses.grouped(batch, 1)
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
