"""How the state of a run lies on the devices of a mesh."""

from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

SMALLEST = 1024
"""Arrays with fewer entries are not taken apart."""


def mesh_of_all() -> jax.sharding.Mesh:
  """All devices of all processes, along one axis."""
  return jax.make_mesh(
    (jax.device_count(),), ('data',), axis_types=(AxisType.Auto,)
  )


def fully_sharded(mesh: jax.sharding.Mesh, x: Any) -> NamedSharding:
  """An equal part on each device (FSDP), along the longest axis that can be."""
  (axis,) = mesh.axis_names
  able = [(n, -i) for i, n in enumerate(x.shape) if n % mesh.size == 0]
  if x.size < SMALLEST or not able:
    return replicated(mesh, x)
  return NamedSharding(mesh, PartitionSpec(*[None] * -max(able)[1], axis))


def replicated(mesh: jax.sharding.Mesh, x: Any) -> NamedSharding:
  """The whole on each device (data parallelism)."""
  del x
  return NamedSharding(mesh, PartitionSpec())


LAYOUTS = {'fully_sharded': fully_sharded, 'replicated': replicated}
