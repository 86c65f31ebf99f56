"""Batches of few shapes, for jitted loops whose batch size moves."""

import jax
import jax.numpy as jnp
import numpy as np

from adaopt._common import base, checks


def pad(batch: base.Batch, size: int) -> tuple[base.Batch, np.ndarray]:
  """Fills up a batch to one of few sizes, so that `jit` compiles few programs.

  These are size, size // 2, size // 4, …, of which the smallest that holds the
  batch is taken: for batches of b_0 to b_max = size examples at most
  ⌊log₂(b_max / b_0)⌋ + 1 shapes. The first example is repeated, so that what
  is computed of the filling is as finite as the rest; the mask leaves it out.

  Args:
    batch: b examples, a pytree of arrays [b, ...].
    size: The largest batch size, at least b.

  Returns:
    The batch, [padded, ...], and the mask, [padded] bool of numpy: True for the
    b examples. Arrays of numpy stay there, and nothing is compiled for them;
    those of JAX, keys included, are padded on their device by a program for
    every b.

  Raises:
    ValueError: If size is not a positive integer, or the batch is larger, empty
      or ragged.

  Example:
    >>> import adaopt
    >>> import numpy as np
    >>> batch, mask = adaopt.pad({'x': np.array([7, 8, 9])}, size=8)
    >>> print(batch['x'], mask)
    [7 8 9 7] [ True  True  True False]
  """
  checks.check_integer(1, size=size)
  length = checks.num_examples(batch)
  if length > size:
    raise ValueError(
      f'the batch holds {length} examples, more than size={size}; pass the '
      'largest batch size, max_batch_size.'
    )
  # The most halvings ⌊size / 2^k⌋ that still hold the batch.
  padded = int(size) >> ((int(size) // length).bit_length() - 1)
  missing = padded - length

  def fill(x):
    xp = jnp if isinstance(x, jax.Array) else np
    x = xp.asarray(x)
    first = xp.broadcast_to(x[:1], (missing, *x.shape[1:]))
    return xp.concatenate([x, first])

  mask = np.arange(padded) < length
  return (jax.tree.map(fill, batch) if missing else batch), mask
