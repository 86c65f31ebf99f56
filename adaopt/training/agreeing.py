"""What the processes that share a mesh must have in common.

Each process makes digests of what it holds, and the devices of the mesh gather
them. Of an array in parts, whose parts are on devices of several processes, the
shape alone is compared.
"""

import functools
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Answers = Callable[[], dict[int, np.ndarray]]
"""() → the numbers of every process, by its index; waits for them."""


def processes(mesh: jax.sharding.Mesh | None) -> set[int]:
  """The indices of the processes that have devices on a mesh."""
  if mesh is None:
    return {jax.process_index()}
  return {device.process_index for device in mesh.devices.flat}


def ask(mesh: jax.sharding.Mesh, numbers: list[int]) -> Answers:
  """Asks every process on a mesh for its numbers, and does not wait.

  Args:
    mesh: The mesh. All its processes must ask, in the same order.
    numbers: Those of this process, as many on all, in [0, 2³²).

  Returns:
    What waits for the answers.
  """
  axes = jax.sharding.PartitionSpec(mesh.axis_names)
  whole = jax.sharding.PartitionSpec()
  row = np.array([numbers], np.uint32)
  rows = jax.make_array_from_callback(
    (mesh.size, len(numbers)),
    jax.sharding.NamedSharding(mesh, axes),
    lambda _: row,
  )
  everywhere = jax.sharding.NamedSharding(mesh, whole)
  gathered = _gather(everywhere)(rows)
  owners = [device.process_index for device in mesh.devices.flat]
  return lambda: dict(
    zip(owners, np.asarray(gathered.addressable_data(0)), strict=True)
  )


@functools.cache
def _gather(sharding):
  return jax.jit(lambda x: x, out_shardings=sharding)


def differing(
  mesh: jax.sharding.Mesh | None, values: Mapping[str, Any]
) -> list[str]:
  """The names of the values in which the processes on a mesh differ.

  Args:
    mesh: The mesh; all its processes must call this.
    values: By name, pytrees of arrays, numbers and texts; the same names on all
      processes.

  Returns:
    The names, the same on all. None differ on one process.
  """
  if len(processes(mesh)) == 1:
    return []
  own = [digest(value) for value in values.values()]
  all_digests = np.stack([*ask(mesh, own)().values()])
  differ = np.any(all_digests != all_digests[:1], axis=0)
  return [name for name, found in zip(values, differ, strict=True) if found]


def check(mesh: jax.sharding.Mesh | None, **values: Any) -> None:
  """Raises ValueError, on all processes of a mesh, if values differ on them.

  Args:
    mesh: As in `differing`.
    **values: As in `differing`, what a run has one of.
  """
  names = differing(mesh, values)
  if names:
    raise ValueError(
      f'the {len(processes(mesh))} processes differ in '
      f'{", ".join(_shown(name, values[name]) for name in names)} (of process '
      f'{jax.process_index()}), and a run has one of each: pass the same on '
      'all, and make parameters from the same key.'
    )


def _shown(name, value):
  """A name, and its value if that is one number."""
  if isinstance(value, jax.Array) and value.is_fully_replicated:
    value = value.addressable_data(0)
  is_number = value is None or isinstance(value, int | float)
  is_number |= getattr(value, 'ndim', None) == 0
  return f'{name}={value}' if is_number else name


def digest(value: Any) -> int:
  """A checksum of what this process holds of a pytree, in [0, 2³²)."""
  checksum = 0
  for leaf in jax.tree.leaves(value):
    for part in _bytes(leaf):
      checksum = zlib.crc32(part, checksum)
  return checksum


def _bytes(leaf):
  """What there is to compare of a leaf, as bytes."""
  if not hasattr(leaf, 'dtype'):
    return [repr(leaf).encode()]
  described = f'{leaf.dtype}{list(leaf.shape)}'.encode()
  if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    leaf = jax.random.key_data(leaf)
  if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
    if not leaf.is_fully_replicated:
      return [described]
    leaf = leaf.addressable_data(0)
  flat = np.ascontiguousarray(leaf).reshape(-1)
  return [described, flat.view(np.uint8)]
