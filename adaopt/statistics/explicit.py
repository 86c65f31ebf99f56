"""Meshes of explicit axes, as `jax.make_mesh` makes them.

There the type of an array holds its sharding, which every reduction over
samples would have to spell out. They run on automatic axes instead, where the
compiler derives it, and their results get explicit shardings again.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from adaopt._common import base, checks

Measure = Callable[..., tuple[Any, base.GradientStatistics]]
"""(loss_fn, params, batch, *rest) → (value, statistics)."""


def on_auto_axes(
  measure: Measure,
  loss_fn: base.LossFn,
  params: optax.Params,
  batch: base.Batch,
  *rest: Any,
) -> tuple[Any, base.GradientStatistics]:
  """Measures on automatic axes where parameters or examples are on others.

  Args:
    measure: What to call.
    loss_fn: The loss function.
    params: The parameters.
    batch: The examples, [b, ...].
    *rest: What else `measure` takes.

  Returns:
    (value, statistics). Gradients are sharded like the parameters, and rows
    [b, ...] like the examples.
  """
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
    value, statistics = measure(constrained, *jax.tree.map(free, arguments))

  length = checks.num_examples(batch)
  place = lambda x, spec: jax.sharding.reshard(x, NamedSharding(mesh, spec))
  spec_of = lambda x: rows if jnp.shape(x)[:1] == (length,) else PartitionSpec()
  value = jax.tree.map(lambda x: place(x, spec_of(x)), value)
  return value, _placed(statistics, params, place)


def _rows(batch):
  """How the examples are sharded."""
  specs = [jax.typeof(leaf).sharding.spec for leaf in jax.tree.leaves(batch)]
  return PartitionSpec(next((s[0] for s in specs if s and s[0]), None))


def _placed(statistics, params, place):
  """The statistics, with trees like the parameters sharded like these."""
  specs = jax.tree.map(lambda p: jax.typeof(p).sharding.spec, params)
  names = ('mean', 'coordinate_variance', 'weight_covariance')
  like_params = {
    name: None
    if (tree := getattr(statistics, name)) is None
    else jax.tree.map(place, tree, specs)
    for name in names
  }
  numbers = jax.tree.map(
    lambda x: place(x, PartitionSpec()),
    statistics._replace(**dict.fromkeys(names)),
  )
  return numbers._replace(**like_params)
