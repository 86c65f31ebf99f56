"""Meshes of explicit axes, as `jax.make_mesh` makes them.

There the type of an array holds its sharding, which every reduction over
samples would have to spell out. They run on automatic axes instead, where the
compiler derives it, and their results get explicit shardings again.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from adaopt._common import base, checks


class Placing(NamedTuple):
  """How results get explicit shardings; each takes a pytree."""

  like_params: Callable[[Any], Any]  # of trees like the parameters
  by_rows: Callable[[Any], Any]  # rows [b, ...] as the examples, others whole
  whole: Callable[[Any], Any]  # the same on all devices


def on_auto_axes(
  measure: Callable[..., Any],
  place: Callable[[Any, Placing], Any],
  loss_fn: base.LossFn,
  params: optax.Params,
  batch: base.Batch,
  *rest: Any,
) -> Any:
  """Measures on automatic axes where parameters or examples are on others.

  Args:
    measure: (loss_fn, params, batch, *rest) → a result.
    place: The result and how to place its parts → the result.
    loss_fn: The loss function.
    params: The parameters.
    batch: The examples, [b, ...].
    *rest: What else `measure` takes.

  Returns:
    The result.

  Raises:
    ValueError: If parameters or batch are not what can be measured.
  """
  checks.check_params(params)
  checks.num_examples(batch)
  arguments = params, batch, *rest
  leaves = jax.tree.leaves((params, batch))
  meshes = [jax.typeof(leaf).sharding.mesh for leaf in leaves]
  explicit = [mesh for mesh in meshes if mesh.explicit_axes]
  if not explicit:
    return measure(loss_fn, *arguments)
  mesh = explicit[0].abstract_mesh
  kinds = dict.fromkeys(mesh.explicit_axes, AxisType.Auto)
  rows = _rows(batch)

  @functools.wraps(loss_fn)
  def constrained(params, batch, *args, **keywords):
    batch = jax.lax.with_sharding_constraint(batch, rows)
    return loss_fn(params, batch, *args, **keywords)

  free = lambda x: (
    jax.sharding.reshard(x, PartitionSpec()) if isinstance(x, jax.Array) else x
  )
  with jax.sharding.use_abstract_mesh(mesh.update_axis_types(kinds)):
    result = measure(constrained, *jax.tree.map(free, arguments))

  length = checks.num_examples(batch)
  specs = jax.tree.map(lambda p: jax.typeof(p).sharding.spec, params)
  put = lambda x, spec: jax.sharding.reshard(x, NamedSharding(mesh, spec))
  spec_of = lambda x: rows if jnp.shape(x)[:1] == (length,) else PartitionSpec()
  return place(
    result,
    Placing(
      like_params=lambda tree: jax.tree.map(put, tree, specs),
      by_rows=lambda tree: jax.tree.map(lambda x: put(x, spec_of(x)), tree),
      whole=lambda tree: jax.tree.map(lambda x: put(x, PartitionSpec()), tree),
    ),
  )


def _rows(batch):
  """How the examples are sharded."""
  specs = [jax.typeof(leaf).sharding.spec for leaf in jax.tree.leaves(batch)]
  return PartitionSpec(next((s[0] for s in specs if s and s[0]), None))
