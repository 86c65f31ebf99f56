"""Where the examples of a run are put: beside its state."""

import math
from typing import Any

import jax
import numpy as np

from adaopt.training import agreeing


def mesh_of(tree: Any) -> jax.sharding.Mesh | None:
  """The mesh of several devices that holds an array of a tree, if one does."""
  for leaf in jax.tree.leaves(tree):
    sharding = getattr(leaf, 'sharding', None)
    on_mesh = isinstance(sharding, jax.sharding.NamedSharding)
    if on_mesh and sharding.mesh.size > 1:
      return sharding.mesh
  return None


def beside(state: Any) -> jax.sharding.Sharding | None:
  """On all devices of the mesh that holds a state; None: it has no mesh."""
  mesh = mesh_of(state)
  if mesh is None:
    return None
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def layout_of(state: Any) -> tuple[Any, ...] | None:
  """How a state lies on its mesh: what a step is to leave as it is.

  Without it XLA would choose where to put a new state, and take apart what was
  whole.

  Args:
    state: A pytree of arrays.

  Returns:
    A sharding for each leaf, on the mesh; None if there is none, or its axes
    are explicit, and arrays know themselves how they lie.
  """
  mesh = mesh_of(state)
  if mesh is None or set(mesh.axis_types) != {jax.sharding.AxisType.Auto}:
    return None
  whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  on_mesh = lambda x: isinstance(x, jax.sharding.NamedSharding)
  shardings = [leaf.sharding for leaf in jax.tree.leaves(state)]
  return tuple(x if on_mesh(x) else whole for x in shardings)


def placed(data: Any, sharding: jax.sharding.Sharding | None) -> Any:
  """Data on devices; arrays that are committed to theirs stay there.

  Args:
    data: A pytree of arrays.
    sharding: Where to put them.

  Returns:
    The same pytree, of arrays on devices.
  """
  of_processes = sharding is not None and not sharding.is_fully_addressable

  def place(x):
    if _is_placed(x):
      return x
    if not of_processes:
      return jax.device_put(x, sharding)
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, x.__getitem__)

  return jax.tree.map(place, data)


def still_to_place(data: Any) -> list[Any]:
  """The arrays of data that are not committed to devices."""
  return [x for x in jax.tree.leaves(data) if not _is_placed(x)]


def _is_placed(x):
  return isinstance(x, jax.Array) and x.committed


def check_shares(
  micro_batch_size: int, sharding: jax.sharding.Sharding | None
) -> None:
  """Raises ValueError unless each device takes as many of the examples."""
  if not isinstance(sharding, jax.sharding.NamedSharding) or not sharding.spec:
    return
  axes = sharding.spec[0] or ()
  axes = axes if isinstance(axes, tuple) else (axes,)
  parts = math.prod(sharding.mesh.shape[axis] for axis in axes)
  if micro_batch_size % parts:
    raise ValueError(
      f'a micro-batch of the feed has {micro_batch_size} examples, which '
      f'{parts} devices cannot share; make them a multiple of {parts}, or pass '
      'feed a sharding= of your own.'
    )


def check_same(data: Any, mesh: jax.sharding.Mesh | None) -> None:
  """Raises ValueError if processes are to place different arrays on a mesh."""
  if agreeing.differing(mesh, {'data': still_to_place(data)}):
    raise ValueError(
      f'the {len(agreeing.processes(mesh))} processes hold different data '
      'sets, and a run takes one: pass the same arrays on all, or make global '
      'arrays of their parts by jax.make_array_from_process_local_data.'
    )
