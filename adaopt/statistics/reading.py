"""Which statistics an update reads; no other is computed.

JAX's own dead-code elimination tells, leaf by leaf and through calls, branches
and loops.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.interpreters import partial_eval

from adaopt._common import arithmetic, base, matrices

NOISE = (
  'variance',
  'coordinate_variance',
  'matrix_variance',
  'variance_along_mean',
)
"""The statistics that take more than a gradient."""


class Reads(NamedTuple):
  """What an update reads of the noise.

  Each is a `GradientStatistics` of bools, of which the fields in `NOISE` count.
  """

  tested: base.GradientStatistics  # where a test is due
  untested: base.GradientStatistics  # where none is


def leaves_read(function: Callable[..., Any], argument: Any, *args: Any) -> Any:
  """Whether what a function returns depends on each leaf of an argument.

  Args:
    function: Of pytrees of arrays.
    argument: Its first argument, or the shapes.
    *args: Its other arguments, or the shapes.

  Returns:
    A bool for every leaf, in the structure of `argument`.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt.statistics import reading
    >>> argument = {'x': jnp.ones(2), 'y': jnp.ones(2)}
    >>> print(reading.leaves_read(lambda a: jnp.sum(a['x']), argument))
    {'x': True, 'y': False}
  """
  closed = jax.make_jaxpr(function)(argument, *args)
  outputs = [True] * len(closed.jaxpr.outvars)
  _, read = partial_eval.dce_jaxpr(closed.jaxpr, outputs)
  structure = jax.tree.structure(argument)
  return jax.tree.unflatten(structure, read[: structure.num_leaves])


def reads_of(
  update: Callable[..., tuple[Any, Any]],
  statistics: base.GradientStatistics,
  *args: Any,
) -> Reads:
  """Which statistics an optimizer's update reads.

  What only states with the field `test_due` depend on is read where a test is
  due; everything else in every step.

  Args:
    update: (statistics, *args) → (updates, state).
    statistics: All statistics, or their shapes.
    *args: What else the update depends on, or the shapes.

  Returns:
    The leaves that it reads.
  """

  def outside_tests(statistics, *args):
    updates, state = update(statistics, *args)
    nodes = jax.tree.leaves(state, is_leaf=_is_tester)
    return updates, [node for node in nodes if not _is_tester(node)]

  return Reads(
    tested=leaves_read(update, statistics, *args),
    untested=leaves_read(outside_tests, statistics, *args),
  )


def _is_tester(node: Any) -> bool:
  return 'test_due' in getattr(node, '_fields', ())


def shapes_of(
  gradient: optax.Updates, weighted: bool = False
) -> base.GradientStatistics:
  """The shapes of all statistics of such a gradient, of a loss with weights."""
  scalar = jax.ShapeDtypeStruct((), jnp.result_type(float))
  real = arithmetic.real_dtype
  like = lambda make: jax.tree.map(make, gradient)
  return base.GradientStatistics(
    batch_size=jax.ShapeDtypeStruct((), jnp.int32),
    mean=like(lambda g: jax.ShapeDtypeStruct(g.shape, g.dtype)),
    variance=like(lambda g: jax.ShapeDtypeStruct((), real(g))),
    coordinate_variance=like(lambda g: jax.ShapeDtypeStruct(g.shape, real(g))),
    matrix_variance=like(matrices.shape_of_square),
    variance_along_mean=scalar,
    weight=scalar if weighted else None,
    weight_variance=scalar if weighted else None,
    weight_covariance=like(
      lambda g: jax.ShapeDtypeStruct(g.shape, arithmetic.accumulator_dtype(g))
    )
    if weighted
    else None,
  )


def noise_read(read: base.GradientStatistics) -> list[bool]:
  """Whether each leaf of the noise is read."""
  return jax.tree.leaves([getattr(read, field) for field in NOISE])


def select(read: Any, tree: Any) -> Any:
  """The tree, with None for every leaf that is not read."""
  return jax.tree.map(lambda is_read, x: x if is_read else None, read, tree)
