"""Sharing micro-batches out over the devices of the mesh that holds a state.

Where every device holds all parameters, the devices go over micro-batches of
their own, and what they measured is merged once a step. Where the axes that
share out the examples hold parts of parameters, as under FSDP, all devices go
over each micro-batch together.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from adaopt.statistics import devices, merging
from adaopt.training import placing, recipes

FIXED = frozenset(
  ['sample_sharding_constraint', 'shard_map', 'sharding_constraint']
)
"""The primitives of a loss that says itself how devices share its work."""


class Sharing(NamedTuple):
  """Which axes of a mesh share the examples out."""

  mesh: jax.sharding.Mesh
  axes: tuple[str, ...]
  apart: bool  # whether none of these axes holds a part of the state


def number(sharing: Sharing) -> int:
  """D, the number of parts."""
  return math.prod(sharing.mesh.shape[axis] for axis in sharing.axes)


def sharing_of(mesh: jax.sharding.Mesh, state: Any) -> Sharing:
  """Shares examples out over the axes that hold no part of a state.

  Where all do, as under FSDP, over the first axis of the mesh.
  """
  held = _axes_that_hold(state)
  axes = tuple(
    axis
    for axis in mesh.axis_names
    if mesh.shape[axis] > 1 and axis not in held
  )
  return Sharing(mesh, axes or mesh.axis_names[:1], apart=bool(axes))


def rows(sharing: Sharing) -> jax.sharding.NamedSharding:
  """Examples shared out, a part on each device."""
  spec = jax.sharding.PartitionSpec(sharing.axes)
  return jax.sharding.NamedSharding(sharing.mesh, spec)


def rows_beside(state: Any) -> jax.sharding.NamedSharding | None:
  """Examples shared out over the mesh that holds a state; None: it has none."""
  mesh = placing.mesh_of(state)
  return None if mesh is None else rows(sharing_of(mesh, state))


def is_whole(tree: Any) -> bool:
  """Whether no array of a tree lies in parts on several devices."""
  return not _axes_that_hold(tree)


def _axes_that_hold(tree):
  """The axes of meshes over which a leaf lies in parts."""
  held = set()
  for leaf in jax.tree.leaves(tree):
    sharding = getattr(leaf, 'sharding', None)
    if isinstance(sharding, jax.sharding.NamedSharding):
      for entry in sharding.spec:
        held.update(entry if isinstance(entry, tuple) else [entry])
  return held - {None}


def together(sharing: Sharing) -> Callable[[recipes.Recipe], recipes.Recipe]:
  """Recipes whose micro-batches all devices share, a part on each."""

  def change(recipe):
    def draw(dataset, seed, positions):
      batch = recipe.draw(dataset, seed, positions)
      if len(positions) % number(sharing):  # A few, to look at a loss.
        return batch
      return jax.lax.with_sharding_constraint(batch, rows(sharing))

    return recipe._replace(
      draw=draw,
      micro_batch_size=number(sharing) * _part(sharing, recipe),
    )

  return change


def apart(sharing: Sharing) -> Callable[[recipes.Recipe], recipes.Recipe]:
  """Recipes whose micro-batches are those of one device."""
  return lambda recipe: recipe._replace(micro_batch_size=_part(sharing, recipe))


def _part(sharing, recipe):
  """The whole groups of a micro-batch that one device takes."""
  groups = recipe.micro_batch_size // recipe.group_size
  return -(-groups // number(sharing)) * recipe.group_size


def fold(sharing: Sharing) -> Callable[..., Any]:
  """Like `merging.fold`, each device over every D-th micro-batch.

  The devices compute without each other; their totals are merged after it, as
  `MERGES` says.
  """
  parts, whole = number(sharing), jax.sharding.PartitionSpec()

  def fold_apart(count, one, add, *args):
    def of_device(count, *args):
      index = jax.lax.axis_index(sharing.axes)
      own = -(-(count - index) // parts)

      def term(i, *args):
        return one(i * parts + index, *args)

      total = merging.fold(own, term, add, *args)
      return MERGES[add](sharing.axes, total)

    return jax.shard_map(
      of_device,
      mesh=sharing.mesh,
      in_specs=whole,
      out_specs=whole,
      axis_names=set(sharing.axes),
      # What a loss computes with constants of its own is not marked as varying.
      check_vma=False,
    )(count, *args)

  return fold_apart


MERGES = {
  merging.merge: devices.merge_over,
  jnp.add: lambda axes, total: jax.lax.psum(total, axes),
}
"""How to merge over devices what a function adds on each."""
