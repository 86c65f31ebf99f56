"""Values that differ between the devices of `jax.shard_map`.

With check_vma=True, its default, the type of a value tells over which axes of
the mesh it varies. JAX adds up the gradient of a parameter that does not vary,
so that noise is measured by a copy of the parameter that does.
"""

from typing import Any

import jax


def axes_of(tree: Any) -> tuple[Any, ...]:
  """The axes of the mesh over which a leaf of a tree varies, by its type."""
  types = (jax.typeof(leaf).manual_axis_type for leaf in jax.tree.leaves(tree))
  found = {axis for kind in types if kind for axis in kind.varying}
  return tuple(sorted(found, key=str))


def cast(tree: Any, axes: tuple[Any, ...]) -> Any:
  """The same numbers, varying over these axes, too."""

  def one(x):
    varying = axes_of(x)
    more = tuple(axis for axis in axes if axis not in varying)
    return jax.lax.pcast(x, more, to='varying') if more else x

  return jax.tree.map(one, tree)


def alike(*trees: Any) -> tuple[Any, ...]:
  """The same numbers, all varying over the axes that any of them varies over.

  Args:
    *trees: Pytrees of arrays.

  Returns:
    The trees, unchanged where nothing varies.
  """
  return cast(trees, axes_of(trees))
