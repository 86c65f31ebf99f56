"""Sharding constraints in a model, for samples that are mapped over.

A model constrains the activations of a batch, as in P('data', None, 'model')
of [b, T, d]. It is traced for one sample of q examples, and what shards the
examples belongs to the axis of samples [J, q, T, d] that `vmap` adds. A
dimension holds examples if it grows with q.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.interpreters import ad, batching, mlir
from jax.sharding import NamedSharding, PartitionSpec

from adaopt.per_example.program import ir

SAMPLES = '_adaopt_samples'
"""The name of the axis of samples, for `jax.vmap`."""


class Traced(NamedTuple):
  """A function of one sample."""

  closed: core.ClosedJaxpr
  shapes: Any  # of what it returns
  axes: tuple[str, ...]  # the mesh axes that shard the examples; (): not known


def trace(function: Callable[..., Any], shared: Any, sample: Any) -> Traced:
  """Traces a function of one sample, with the constraints of many.

  Args:
    function: (shared, sample) → a pytree.
    shared: What is the same for all samples.
    sample: Shapes [q, ...], and [] of what does not grow with q.

  Returns:
    The function. Under `vmap` with the axis name `SAMPLES` a constraint means
    what it means for the batch.
  """
  make = jax.make_jaxpr(function, return_shape=True)
  closed, shapes = make(shared, sample)
  found = _constraints(closed)
  if not found:
    return Traced(closed, shapes, ())
  holds = _holds_examples(found, lambda: make(shared, _doubled(sample))[0])
  axes, of_one = {}, {}
  for equation, held in zip(found, holds, strict=True):
    entries = _entries(equation.params['sharding'], len(held))
    for dim in range(len(held)):
      if held[dim]:
        axes |= dict.fromkeys(_names(entries[dim]))
        entries[dim] = None
    of_one[id(equation)] = _with(equation.params['sharding'], entries)
  jaxpr = _rewritten(closed.jaxpr, of_one, tuple(axes))
  return Traced(core.ClosedJaxpr(jaxpr, closed.consts), shapes, tuple(axes))


def of_samples(
  function: Callable[..., Any], shared: Any, samples: Any
) -> Callable[..., Any]:
  """(shared, samples) → what a function returns for each sample, [J, ...].

  Args:
    function: (shared, sample) → a pytree.
    shared: What is the same for all samples.
    samples: The samples, [J, q, ...].

  Returns:
    The function under `vmap`, with the constraints of a batch.
  """
  traced = trace(function, shared, one_of(samples))
  run = core.jaxpr_as_fun(traced.closed)

  def each(shared, sample):
    results = run(*jax.tree.leaves((shared, sample)))
    return jax.tree.structure(traced.shapes).unflatten(results)

  constrained = ir.names(traced.closed).intersection([constrain.name])
  return mapped(each if constrained else function, (None, 0))


def mapped(
  function: Callable[..., Any], in_axes: Any = 0, out_axes: Any = 0
) -> Callable[..., Any]:
  """Maps a function over samples, as `jax.vmap` does."""
  over_samples = jax.vmap(function, in_axes, out_axes, axis_name=SAMPLES)

  def call(*args):
    try:
      return over_samples(*args)
    except NotImplementedError as error:
      if not any(word in str(error) for word in ('vmap', 'atching rule')):
        raise
      raise ValueError(
        f'loss_fn cannot be mapped over examples ({error}), so that no example '
        'has a gradient of its own. Measure plain gradients: those of devices '
        'by adaopt.device_statistics, of micro-batches by adaopt.accumulate('
        'optimizer, group_size=their size), or of two sizes by '
        'adaopt.noise.from_two_sizes.'
      ) from error

  return call


def one_of(samples: Any) -> Any:
  """The shapes of one sample."""
  first = lambda tree: jax.tree.map(lambda x: x[0], tree)
  return jax.eval_shape(first, samples)


def _doubled(sample):
  twice = lambda x: jnp.concatenate([x, x]) if x.ndim else x
  return jax.eval_shape(lambda tree: jax.tree.map(twice, tree), sample)


def _constraints(closed):
  """The constraints of a program at any depth, in order."""
  return [
    equation
    for equation in ir.equations_in([closed.jaxpr])
    if equation.primitive.name == 'sharding_constraint'
    and isinstance(equation.params['sharding'], NamedSharding)
    and equation.params['layout'] is None
  ]


def _holds_examples(found, trace_doubled):
  """Whether each dimension of each constrained value holds examples."""
  shapes = [equation.outvars[0].aval.shape for equation in found]
  try:
    doubled = _constraints(trace_doubled())
  except Exception:  # pylint: disable=broad-except
    doubled = []  # A function that takes only q examples.
  if len(doubled) != len(found):
    return [[dim == 0 for dim in range(len(shape))] for shape in shapes]
  longer = [equation.outvars[0].aval.shape for equation in doubled]
  return [
    [n != m for n, m in zip(*pair, strict=True)]
    for pair in zip(shapes, longer, strict=True)
  ]


def _entries(sharding, rank):
  """What shards each dimension."""
  return [*sharding.spec, *[None] * (rank - len(sharding.spec))]


def _with(sharding, entries):
  return NamedSharding(sharding.mesh, PartitionSpec(*entries))


def _names(entry):
  """The mesh axes that shard a dimension."""
  if entry is None or entry is PartitionSpec.UNCONSTRAINED:
    return ()
  return entry if isinstance(entry, tuple) else (entry,)


def _rewritten(jaxpr, of_one, axes):
  """A jaxpr with `constrain` in the place of constraints, at any depth."""

  def inner(value):
    if isinstance(value, core.ClosedJaxpr):
      return value.replace(jaxpr=_rewritten(value.jaxpr, of_one, axes))
    is_jaxpr = isinstance(value, core.Jaxpr)
    return _rewritten(value, of_one, axes) if is_jaxpr else value

  def rewrite(equation):
    if id(equation) in of_one:
      params = {'sharding': of_one[id(equation)], 'axes': axes}
      return equation.replace(primitive=constrain, params=params)
    params = equation.params
    if ir.jaxprs_in(params):
      params = dict(
        zip(params, jax.tree.map(inner, [*params.values()]), strict=True)
      )
    return equation.replace(params=params)

  return jaxpr.replace(eqns=list(map(rewrite, jaxpr.eqns)))


constrain = core.Primitive('sample_sharding_constraint')
"""The constraint of one sample, of samples that are sharded over `axes`."""


@constrain.def_impl
def _apply(x, *, sharding, axes):
  del axes
  return jax.lax.with_sharding_constraint(x, sharding)


constrain.def_abstract_eval(lambda aval, **_: aval)
ad.deflinear2(constrain, lambda g, _, **params: [constrain.bind(g, **params)])
mlir.register_lowering(constrain, mlir.lower_fun(_apply, False))


def _batched(axis_data, args, dims, *, sharding, axes):
  """The samples take the axes that shard them; any other new axis is free."""
  (x,), (axis,) = args, dims
  if axis is None:
    return constrain.bind(x, sharding=sharding, axes=axes), None
  entries = _entries(sharding, x.ndim - 1)
  if axis_data.name != SAMPLES:
    entries.insert(axis, PartitionSpec.UNCONSTRAINED)
    sharding = _with(sharding, entries)
    return constrain.bind(x, sharding=sharding, axes=axes), axis
  entries = [_without(entry, axes) for entry in entries]
  entries.insert(axis, axes or PartitionSpec.UNCONSTRAINED)
  return jax.lax.with_sharding_constraint(x, _with(sharding, entries)), axis


def _without(entry, axes):
  """What shards a dimension, less some mesh axes."""
  if not set(axes).intersection(_names(entry)):
    return entry
  return tuple(name for name in _names(entry) if name not in axes) or None


batching.fancy_primitive_batchers[constrain] = _batched
