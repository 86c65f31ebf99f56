"""Where the examples of a run are put: beside its state."""

from typing import Any

import jax


def beside(state: Any) -> jax.sharding.Sharding | None:
  """On all devices of the mesh that holds a state; None: it has no mesh."""
  for leaf in jax.tree.leaves(state):
    sharding = getattr(leaf, 'sharding', None)
    on_mesh = isinstance(sharding, jax.sharding.NamedSharding)
    if on_mesh and sharding.mesh.size > 1:
      everywhere = jax.sharding.PartitionSpec()
      return jax.sharding.NamedSharding(sharding.mesh, everywhere)
  return None


def placed(data: Any, sharding: jax.sharding.Sharding | None) -> Any:
  """Data on devices; arrays that are committed to theirs stay there."""

  def place(x):
    if isinstance(x, jax.Array) and x.committed:
      return x
    return jax.device_put(x, sharding)

  return jax.tree.map(place, data)
