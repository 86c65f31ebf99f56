"""What a step measures: the statistics that its update reads, and no other."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from adaopt._common import (
  arithmetic,
  auxiliary,
  checks,
  fields,
)
from adaopt.per_example.program import pruning
from adaopt.per_example.rules import choice
from adaopt.statistics import estimators, merging, reading, spreads, trained
from adaopt.training import (
  agreeing,
  placing,
  recipes,
  stream,
  train_state,
  updating,
)


def _unchanged(moments):
  return moments


class Measurement(NamedTuple):
  """How the gradient and its noise are measured, a micro-batch at a time."""

  moments: Callable[..., merging.Moments]  # (index, state, dataset) → moments
  contracted: Callable[..., merging.Moments]  # the same, from factors alone
  along: Callable[..., jax.Array] | None  # (index, state, dataset, mean) → []
  # Moments of all micro-batches → the same in the structure of the other way.
  complete: Callable[[merging.Moments], merging.Moments] = _unchanged


class Plan(NamedTuple):
  """What a step is to measure, given the optimizer that reads it."""

  num_examples: Callable[[Any], jax.Array]  # state → [] int32
  num_micro_batches: Callable[[Any], jax.Array]  # state → [] int32
  moved: Any  # whether the optimizer moves each tensor
  # Where a test is due and where none is, in the same structure; or one.
  measurements: tuple[Measurement, ...]
  # (index, state, dataset) → the samples, and which count.
  micro_batch: Callable[..., recipes.Samples]


def make_plan(
  recipe: recipes.Recipe, state: train_state.TrainState, dataset: Any
) -> Plan:
  """The plan for states and datasets of these structures, shapes and dtypes."""
  train_state.check_whole_batches(state.opt_state)
  checks.check_params(state.params)
  train_state.check_model_state(recipe.loss_fn, state.model_state)
  reads, moved = _reads(recipe, state, dataset)
  num_examples = _num_examples(recipe, reads)

  def micro_batch(index, state, dataset):
    return recipe.take(recipe, index, state, dataset, num_examples(state))

  return Plan(
    num_examples,
    lambda state: -(-num_examples(state) // recipe.micro_batch_size),
    moved,
    _measurements(recipe, micro_batch, reads, moved, state, dataset),
    micro_batch,
  )


def check_same_update(
  recipe: recipes.Recipe, state: train_state.TrainState, dataset: Any
) -> None:
  """Raises ValueError if the optimizers of several processes differ.

  It compares the programs of their updates, constants included.
  """
  mesh = placing.mesh_of(state)
  if len(agreeing.processes(mesh)) == 1:
    return
  update, args = _update_of(recipe, state, dataset)
  everything = jax.tree.map(lambda _: True, args[0].mean)
  update_all = jax.jit(functools.partial(update, everything))
  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), args)
  agreeing.check(mesh, optimizer=update_all.lower(*shapes).as_text())


def _update_of(recipe, state, dataset):
  """The update of such a state, and the shapes of what it takes."""

  def first_group(state, dataset):
    samples = recipes.draw_samples(recipe, state, dataset, positions)
    params = train_state.fast(state.params)
    return estimators.measure_mean(
      recipes.loss_of(recipe, state), params, *samples
    )

  positions = jnp.arange(recipe.group_size)
  with explained(state.params, stream.examples_of(dataset)):
    if recipe.has_aux:
      _check_rows(recipe, state, dataset, positions)
    found = jax.eval_shape(first_group, state, dataset)
  params, opt_state = jax.tree.map(jax.typeof, (state.params, state.opt_state))
  every = reading.shapes_of(
    train_state.fast(params), weighted=found.weight is not None
  )
  args = every, params, opt_state, found.value, found.aux

  def update(moved, statistics, *args):
    tested = trained.statistics_of(moved, statistics)
    return updating.update(
      recipe.optimizer, statistics.mean, tested, *args, value_fn=_constant
    )

  return update, args


def _reads(recipe, state, dataset):
  """What the update of such a state reads, and which tensors it moves."""
  update, args = _update_of(recipe, state, dataset)
  every, *_ = args
  everything = jax.tree.map(lambda _: True, every.mean)
  update_all = functools.partial(update, everything)
  moved = trained.trained_tensors(
    lambda *args: train_state.fast(update_all(*args)[0]), *args
  )
  # An optimizer that moves nothing measures, and what it measures is all.
  if not any(jax.tree.leaves(moved)):
    moved = everything
  if not all(jax.tree.leaves(moved)):
    read = reading.reads_of(update_all, *args).tested
    trained.check_coordinates(moved, read.coordinate_variance)
  return reading.reads_of(functools.partial(update, moved), *args), moved


def _constant(params):
  """A loss in the place of the batch's, of which no statistic is made."""
  del params
  return jnp.zeros([], float)


def _check_rows(recipe, state, dataset, positions):
  """Raises ValueError for an aux with rows, which no step can average."""

  def aux_of(batch):
    samples, _ = recipes.draw_samples(recipe, state, dataset, positions)
    first = jax.tree.map(lambda x: x[0], samples)
    _, outcome = recipes.loss_of(recipe, state)(
      train_state.fast(state.params), first._replace(batch=batch)
    )
    return outcome.aux

  batch = jax.eval_shape(lambda: recipe.draw(dataset, state.seed, positions))
  rows = auxiliary.by_example(aux_of, batch, len(positions))
  auxiliary.check_no_rows(jax.eval_shape(aux_of, batch), rows)


@contextlib.contextmanager
def explained(params, dataset):
  """Tells on what a loss failed that was called for the first time."""
  try:
    yield
  except Exception as error:
    described = lambda tree: jax.tree.map(
      lambda x: f'{x.dtype}{list(x.shape)}', jax.tree.map(jax.typeof, tree)
    )
    note = (
      f'This was raised by the first call of loss_fn, with parameters '
      f'{described(params)} and examples of {described(dataset)}; check that '
      'they belong to the model that it calls.'
    )
    if isinstance(error, ValueError | TypeError):
      error.add_note(note)
      raise
    raise ValueError(f'{type(error).__name__}: {error} {note}') from error


def _num_examples(recipe, reads):
  """State → the examples of its next batch: whole groups, two for a noise."""
  q = recipe.group_size

  def num_examples(state):
    groups = -(-fields.batch_size_of(state.opt_state) // q)
    at_least = 1
    if any(reading.noise_read(reads.untested)):
      at_least = 2
    elif any(reading.noise_read(reads.tested)):
      at_least = jnp.where(fields.is_test_due(state.opt_state), 2, 1)
    most = arithmetic.LARGEST // q
    return jnp.clip(groups, at_least, most) * q

  return num_examples


def _measurements(recipe, micro_batch, reads, moved, state, dataset):
  """How to measure where a test is due, and where none is if that differs."""
  tested = _measurement(recipe, micro_batch, reads.tested, moved)
  if reading.noise_read(reads.tested) == reading.noise_read(reads.untested):
    return (tested,)
  untested = _measurement(recipe, micro_batch, reads.untested, moved)
  shapes = jax.eval_shape(tested.moments, 0, state, dataset)

  def complete(moments):
    names = (*(kind.field for kind in spreads.SPREADS), 'weighted_spread')
    return moments._replace(
      **{
        name: or_missing(getattr(moments, name), getattr(shapes, name))
        for name in names
      }
    )

  return tested, untested._replace(complete=complete)


def _measurement(recipe, micro_batch, read, moved):
  """The measurement of what is read, and no more."""

  def measured_by(measure):
    def moments(index, state, dataset, *args):
      samples = micro_batch(index, state, dataset)
      params = train_state.fast(state.params)
      return measure(recipes.loss_of(recipe, state), params, *samples, *args)

    return moments

  def selected(loss, params, samples, mask):
    found = estimators.measure_moments(loss, params, samples, mask, preference)
    return found._replace(
      **{
        kind.field: reading.select(
          getattr(read, kind.statistic), getattr(found, kind.field)
        )
        for kind in spreads.SPREADS
      }
    )

  is_read = {
    kind: any(jax.tree.leaves(getattr(read, kind.statistic)))
    for kind in spreads.SPREADS
  }
  preference = choice.preferred(
    squares=is_read[spreads.BY_COORDINATE],
    matrices=is_read[spreads.OF_MATRICES],
  )
  mean = measured_by(estimators.measure_mean)
  contracted = measured_by(estimators.contract_mean)

  def along(*args):
    *args, gradient = args
    direction = trained.moved_by(moved, gradient)
    return measured_by(estimators.measure_along)(*args, direction)

  second_pass = along if read.variance_along_mean else None
  if any(is_read.values()):
    mean = contracted = pruning.pruned(measured_by(selected))
  return Measurement(mean, contracted, second_pass)


def or_missing(tree: Any, like: Any) -> Any:
  """The tree, and where it has None missing numbers in the shapes of `like`."""
  if tree is None:
    tree = jax.tree.map(lambda x: None, like)

  def filled(x, one):
    if x is not None or one is None:
      return x
    return jnp.full(one.shape, arithmetic.missing(), one.dtype)

  return jax.tree.map(filled, tree, like, is_leaf=lambda x: x is None)
