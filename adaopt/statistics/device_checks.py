"""Checks of what the devices of an axis have measured."""

from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from adaopt._common import arrays, base, checks, varying


def check_axis(axis_name: Hashable) -> None:
  """Raises ValueError unless an axis of this name is mapped over here."""
  try:
    jax.lax.axis_size(axis_name)
  except (NameError, TypeError, ValueError) as error:
    raise ValueError(
      'axis_name must name an axis of jax.shard_map, jax.vmap or jax.pmap that '
      f'the call is mapped over, got {axis_name!r}.'
    ) from error


def check_device(
  loss: jax.Array | base.WeightedLoss,
  gradient: optax.Updates,
  axis_name: Hashable,
  group_size: Any,
) -> None:
  """Raises ValueError for what a device cannot have measured."""
  checks.check_integer(1, group_size=group_size)
  check_axis(axis_name)
  total = loss.total if isinstance(loss, base.WeightedLoss) else loss
  if not arrays.is_real_scalar(total):
    raise ValueError(
      'loss must be a real scalar, the mean loss over the examples of a '
      f'device, got {arrays.described(total)}.'
    )
  checks.check_arrays(gradient=gradient)
  if not jax.tree.leaves(gradient):
    raise ValueError(
      f'gradient holds no array, got {gradient!r}; pass that of the loss by '
      'the parameters.'
    )
  check_varies(gradient, axis_name)


def check_dimensions(dimensions: Any, gradient: optax.Updates) -> None:
  """Raises ValueError unless there is an axis or None for each tensor."""
  is_none = lambda x: x is None
  expected = jax.tree.structure(gradient)
  if jax.tree.structure(dimensions, is_leaf=is_none) != expected:
    raise ValueError(
      f'dimensions must be like params, {expected}, got '
      f'{jax.tree.structure(dimensions, is_leaf=is_none)}.'
    )
  for dimension, g in zip(
    jax.tree.leaves(dimensions, is_leaf=is_none),
    jax.tree.leaves(gradient),
    strict=True,
  ):
    if dimension is None:
      continue
    checks.check_integer(0, dimensions=dimension)
    if dimension >= jnp.ndim(g):
      raise ValueError(
        f'dimensions must be axes of the tensors, got {dimension} for one of '
        f'shape {list(jnp.shape(g))}.'
      )


def check_varies(gradient: optax.Updates, axis_name: Hashable) -> None:
  """Raises ValueError for a gradient that JAX has added up over an axis."""
  checked = varying.axes_of(jax.lax.axis_index(axis_name))
  if checked and not set(checked).intersection(varying.axes_of(gradient)):
    raise ValueError(
      f'the gradient is the same on all devices of the axis {axis_name!r}: '
      'with check_vma=True jax.shard_map adds up the gradients of parameters '
      'that do not vary over it. Differentiate by jax.lax.pcast(params, '
      f'{axis_name!r}, to="varying").'
    )
