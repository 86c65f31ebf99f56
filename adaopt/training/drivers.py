"""Drivers: how the micro-batches of a training step are run.

`traced` makes one program of the step, a loop with a traced trip count: no
host in the loop. `dispatched` runs a compiled micro-step from a host loop and
reads the batch size between two steps.

Only this module decides about convolutions on a CPU: XLA's CPU backend
compiles the weight gradient of a convolution to code 50 to 100 times slower
inside a loop body than outside it (https://github.com/jax-ml/jax/issues/12868).
There `dispatched` is right, and in a traced loop the mean gradient is
contracted from factors, without that operation.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adaopt._common import arithmetic, checks, fields, functions
from adaopt.per_example.program import ir
from adaopt.statistics import merging
from adaopt.training import measuring, meshes, placing, recipes

Step = Callable[[Any, Any], tuple[Any, Any]]
"""(state, dataset) → (state, metrics)."""


class Parts(NamedTuple):
  """The parts of a step, pure functions."""

  # (state, dataset) → the plan, the same for the same structure.
  plan: Callable[..., measuring.Plan]
  update: Callable[..., tuple[Any, Any]]  # (state, dataset, moments, along)
  donates: bool  # whether a step overwrites the state that it is given
  # (recipe → recipe) → the parts of the changed recipe.
  changed: Callable[[Callable[[recipes.Recipe], recipes.Recipe]], 'Parts']
  layout: tuple[Any, ...] | None = None  # of the state, see `placing.layout_of`


def _changed(parts, change):
  return parts.changed(change)._replace(layout=parts.layout)


def _jit(parts: Parts, function: Callable[..., Any]) -> Callable[..., Any]:
  """Compiles what takes a state first, and returns the next one first."""

  @functools.wraps(function)
  def keeping_its_layout(state, *args):
    state, metrics = function(state, *args)
    if parts.layout is not None:
      leaves, treedef = jax.tree.flatten(state)
      put = jax.lax.with_sharding_constraint
      state = treedef.unflatten(map(put, leaves, parts.layout))
    return state, metrics

  donated = 0 if parts.donates else ()
  return jax.jit(keeping_its_layout, donate_argnums=donated)


def _compose(
  parts: Parts,
  count: Callable,
  fold: Callable,
  choose: Callable,
  compiled: Callable = lambda function: function,
):
  """A step, given how to count and fold over micro-batches, and to branch."""

  def measure(measurement, number, state, dataset):
    moments = fold(number, measurement.moments, merging.merge, state, dataset)
    moments = compiled(measurement.complete)(moments)
    if measurement.along is None:
      return moments, compiled(_not_measured)(moments)
    args = state, dataset, moments.mean
    along = fold(number, measurement.along, jnp.add, *args)
    return moments, along.astype(moments.value.dtype)

  def step(state, dataset):
    plan = parts.plan(state, dataset)
    args = count(plan, state, dataset), state, dataset
    ways = [functools.partial(measure, one) for one in plan.measurements]
    if len(ways) == 1:
      measured = ways[0](*args)
    else:
      measured = choose(fields.is_test_due(state.opt_state), *ways, *args)
    return parts.update(state, dataset, *measured)

  return step


def _not_measured(moments):
  return jnp.full_like(moments.value, arithmetic.missing())


def driven(driver: Callable[[Parts], Step], parts: Parts) -> Step:
  """The step that a driver makes; ValueError for what is no driver."""
  checks.check_callable('of the parts of a step', driver=driver)
  functions.check_takes(1, driver=driver)
  step = driver(parts)
  if not callable(step):
    raise ValueError(
      'driver must return a step, (state, dataset) -> (state, metrics), got '
      f'{step!r}.'
    )
  return step


def _check_parts(parts):
  if not isinstance(parts, Parts):
    raise ValueError(
      'parts must be the training.Parts that train_step makes, got '
      f'{parts!r}; pass the driver itself, as in driver=training.traced.'
    )


def traced(parts: Parts) -> Step:
  """One program with a traced trip count; works under jit, scan and vmap."""
  _check_parts(parts)
  return _traced(parts, merging.fold)


def apart(sharing: meshes.Sharing) -> Callable[[Parts], Step]:
  """`traced`, each device over micro-batches of its own, merged once a step.

  Args:
    sharing: The axes of the mesh that share the examples out. They hold no
      part of state or dataset.

  Returns:
    The driver.
  """

  def driver(parts):
    parts = _changed(parts, meshes.apart(sharing))
    return _traced(parts, meshes.fold(sharing))

  return driver


def _traced(parts, fold):
  def in_a_loop(measurement, *args):
    slow = convolves_on_cpu(measurement.moments, 0, *args)
    return measurement._replace(
      moments=measurement.contracted if slow else measurement.moments
    )

  def plan(*args):
    found = parts.plan(*args)
    return found._replace(
      measurements=[in_a_loop(one, *args) for one in found.measurements]
    )

  step = _compose(
    parts._replace(plan=plan),
    lambda plan, state, dataset: plan.num_micro_batches(state),
    fold,
    jax.lax.cond,
  )
  return _jit(parts, step)


def dispatched(parts: Parts) -> Step:
  """A host loop over compiled micro-steps, each outside any loop body."""
  _check_parts(parts)

  @functools.cache
  def counter(num_micro_batches):
    return jax.jit(num_micro_batches)

  def micro_batches(plan, state, dataset):
    count = int(counter(plan.num_micro_batches)(state))
    indices = np.arange(count, dtype=np.int32)
    return lambda: ((jax.device_put(i), dataset) for i in indices)

  return hosted(parts, micro_batches)


def hosted(
  parts: Parts,
  micro_batches: Callable[..., Callable[[], Iterable]],
  shown: Callable[[Any], Any] = lambda dataset: dataset,
) -> Step:
  """A step that goes over its micro-batches on the host.

  Args:
    parts: The parts of the step.
    micro_batches: (plan, state, dataset) → a function that gives the index and
      the dataset of every micro-batch, once for each pass over them.
    shown: A dataset → the dataset of a micro-batch, for plan and update.

  Returns:
    The step.
  """

  @functools.cache
  def compiled(one):
    def micro_step(*args):
      return one(*args)

    return jax.jit(micro_step)

  @functools.cache
  def completed(complete):
    return jax.jit(complete)

  # Apart from the micro-step: within it, what consumes the gradient of a kernel
  # keeps XLA's CPU backend from computing that beside the rest.
  @functools.cache
  def merger(add):
    return jax.jit(add, donate_argnums=0)

  def fold(each, one, add, state, _, *args):
    terms = (compiled(one)(i, state, data, *args) for i, data in each())
    return functools.reduce(merger(add), terms)

  def choose(due, tested, untested, *args):
    return tested(*args) if due else untested(*args)

  update = _jit(parts, parts.update)
  return _compose(
    parts._replace(
      plan=lambda state, dataset: parts.plan(state, shown(dataset)),
      update=lambda state, dataset, *args: update(state, shown(dataset), *args),
    ),
    micro_batches,
    fold,
    choose,
    completed,
  )


def automatic(parts: Parts) -> Step:
  """The fastest driver for a model and a backend, over all devices of a mesh.

  `dispatched` for convolutions on a CPU, `traced` for everything else. On the
  mesh that holds the state the micro-batches are shared out, see `meshes`.
  """
  _check_parts(parts)
  steps = {}

  def step(state, dataset):
    if not checks.is_concrete(*jax.tree.leaves((state, dataset))):
      return traced(parts)(state, dataset)
    mesh, layout = placing.mesh_of(state), placing.layout_of(state)
    if (mesh, layout) not in steps:
      kept = parts._replace(layout=layout)
      steps[mesh, layout] = _chosen(kept, state, dataset)
    return steps[mesh, layout](state, dataset)

  return step


def one_program(parts: Parts, state: Any, dataset: Any) -> Step:
  """`traced`, over all devices of the mesh that holds the state, compiled."""
  parts = parts._replace(layout=placing.layout_of(state))
  names = _names(parts, state, dataset)
  return _shared_out(traced, names, parts, state, dataset)


def _chosen(parts, state, dataset):
  names = _names(parts, state, dataset)
  one = dispatched if _is_slow_in_a_loop(names) else traced
  return _shared_out(one, names, parts, state, dataset)


def _names(parts, state, dataset):
  """The names of what a measurement computes with."""
  moments = parts.plan(state, dataset).measurements[-1].moments
  return ir.names(jax.make_jaxpr(moments)(0, state, dataset))


def _shared_out(one, names, parts, state, dataset):
  mesh = placing.mesh_of(state)
  if mesh is None:
    return one(parts)
  sharing = meshes.sharing_of(mesh, state)
  free = sharing.apart and meshes.is_whole(dataset)
  if one is traced and free and not names & meshes.FIXED:
    return apart(sharing)(parts)
  return one(_changed(parts, meshes.together(sharing)))


def convolves_on_cpu(function: Callable[..., Any], *args: Any) -> bool:
  """Whether a function has convolutions, and they run on a CPU."""
  return _is_slow_in_a_loop(ir.names(jax.make_jaxpr(function)(*args)))


def _is_slow_in_a_loop(names):
  return jax.default_backend() == 'cpu' and 'conv_general_dilated' in names
