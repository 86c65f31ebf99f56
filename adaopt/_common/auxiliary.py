"""What a loss function returns beside the loss: averages, and rows."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from adaopt._common import arithmetic, base, checks


def by_example(
  aux_of: Callable[[base.Batch], Any], batch: base.Batch, group_size: int
) -> Any:
  """Which leaves of an aux have the examples as their leading axis.

  Found from the shapes for q and for 2 q examples, so that a table of ten
  classes is none in a group of ten. A loss function that takes only q is
  believed at its leading axis.

  Args:
    aux_of: Batch → aux.
    batch: Arrays [b, ...], or their shapes.
    group_size: q.

  Returns:
    A bool for every leaf of the aux.
  """

  def shapes(count):
    cut = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype),
      jax.tree.map(jax.typeof, batch),
    )
    return jax.eval_shape(aux_of, cut)

  leads = lambda x, count: x.shape[:1] == (count,)
  once = shapes(group_size)
  try:
    twice = shapes(2 * group_size)
  except Exception:  # pylint: disable=broad-except
    return jax.tree.map(lambda x: leads(x, group_size), once)
  return jax.tree.map(
    lambda x, y: leads(x, group_size) and leads(y, 2 * group_size), once, twice
  )


def check_averages(aux: Any) -> None:
  """Raises ValueError unless every leaf can be averaged."""
  for path, leaf in jax.tree.leaves_with_path(aux):
    if not checks.is_number(leaf):
      raise ValueError(
        f'aux{jax.tree_util.keystr(path)} is {jnp.result_type(leaf)}, which '
        'cannot be averaged over samples; return numbers in aux. A loss that '
        'draws random numbers takes a parameter key.'
      )


def check_no_rows(aux: Any, rows: Any) -> None:
  """Raises ValueError if a leaf of the aux has a row for each example."""
  found = jax.tree.map(lambda x, each: x if each else None, aux, rows)
  for path, leaf in jax.tree.leaves_with_path(found):
    raise ValueError(
      f'aux{jax.tree_util.keystr(path)} {list(leaf.shape)} has a row for each '
      'example, and the batches of a training step have no fixed number of '
      'them; return a metric, such as the mean over the batch. '
      'value_and_statistics gives rows, [b, ...].'
    )


def average(samples: jax.Array, shares: jax.Array) -> jax.Array:
  """Σ_j s_j x_j / Σ_j s_j of samples [J, ...] for shares s_j [J].

  A sample with s_j = 0 counts for nothing, even if it is NaN, as an average
  over no tokens is. Without any other the average is missing.
  """
  wide = samples.astype(arithmetic.accumulator_dtype(samples))
  share = shares.astype(wide.dtype)
  rows = jnp.expand_dims(share, range(1, wide.ndim))
  total = jnp.sum(share)
  weighed = jnp.sum(rows * jnp.where(rows != 0, wide, 0), 0)
  found = weighed / jnp.where(total == 0, 1, total)
  return jnp.where(total == 0, arithmetic.missing(), found)


def joined(averaged: Any, each: Any) -> Any:
  """The aux again, of averages and of rows [J, q, ...] as [b, ...]."""
  if each is None:
    return averaged
  flat = lambda x: jnp.reshape(x, (-1, *x.shape[2:]))
  return jax.tree.map(
    lambda x, rows: x if rows is None else flat(rows),
    averaged,
    each,
    is_leaf=lambda x: x is None,
  )
