"""The training step: the batch size is data, so no change of it recompiles.

A step adds up micro-batches of one static shape, as many as the batch size
asks for, the last one masked, so that any size is exact. The driver decides how
the micro-batches are run.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from adaopt._common import arithmetic, base, checks, fields
from adaopt.statistics import (
  estimators,
  merging,
  model_states,
  reading,
  spreads,
  trained,
)
from adaopt.training import (
  counting,
  drivers,
  measuring,
  recipes,
  stream,
  train_state,
  updating,
)


class Metrics(NamedTuple):
  """What one step saw, as scalars on the device.

  NaN where nothing was measured, and -1 under jax_debug_nans or
  jax_debug_infs, which take a NaN for a fault.
  """

  step: jax.Array  # [] int32, steps done, this one included
  examples: jax.Array  # [] int32, consumed, this step's included; modulo 2³¹
  batch_size: jax.Array  # [] int32, of this step
  next_batch_size: jax.Array  # [] int32
  loss: jax.Array  # [], mean over the batch, before the update
  aux: Any  # mean over the batch, () without has_aux
  # Of the tensors that the optimizer moves:
  squared_norm: jax.Array  # [], ‖ḡ‖²
  variance: jax.Array  # [], v per example; NaN where not measured
  variance_along_mean: jax.Array  # [], v∥; NaN where not measured
  required: jax.Array  # [], by the last test; NaN: no evidence or no test
  finite: jax.Array  # [] bool; False: the update was left out


def train_step(
  loss_fn: base.LossFn,
  optimizer: optax.GradientTransformation,
  *,
  micro_batch_size: int = 256,
  group_size: int = 1,
  has_aux: bool = False,
  draw: recipes.Draw = stream.draw,
  driver: Callable[[drivers.Parts], drivers.Step] = drivers.automatic,
  donate: bool = False,
) -> drivers.Step:
  """A training step that takes any batch size without recompiling.

  The batch is the range of the example stream that follows the examples
  consumed so far.

  The step computes only the statistics that the optimizer's update reads. What
  nothing but a test reads is computed in the steps in which the test is due, by
  the field `test_due` of its state; the rest in every step. Tensors that the
  optimizer never moves, as behind `optax.set_to_zero`, have no part in the
  statistics.

  Where the loss or the mean gradient is not finite the update is left out:
  parameters and optimizer, counts included, keep their values, and the metrics
  say so.

  Examples are counted modulo 2³¹, and there the stream of a dataset in memory
  starts anew. `fit` raises beyond 2³⁰.

  Args:
    loss_fn: (params, batch) → the mean loss over the batch, or (loss, aux),
      see `LossFn`.
    optimizer: An optimizer that holds a batch size, such as `adaptive`,
      `adadagrad` or a chain with `adapt_batch_size` or `schedule_batch_size`.
      Its update is passed `statistics=`, `value=`, the loss, and `opt_state=`,
      the whole state before the update, `grad=`, and `value_fn=` and `grad_fn=`
      of the same batch, for line searches and SAM; where the aux is a dict,
      also its entries by their names, such as `mean_residual=`.
    micro_batch_size: The number of examples processed at once, rounded up to
      whole groups, of every device the same number. It bounds the memory and
      leaves the results as they are.
    group_size: As in `value_and_statistics`. A batch is made of whole groups,
      at least two where its noise is measured.
    has_aux: As in `value_and_statistics`.
    draw: (dataset, seed, positions [n]) → a batch of n examples. The default
      takes them from the shuffled epochs of a dataset in memory. Where a batch
      does not fill its last micro-batch, some positions come twice.
    driver: How the micro-batches are run: `training.traced`,
      `training.dispatched`, or by default the faster one for backend and model.
      By default the devices of the mesh that holds the state share every
      micro-batch out, and add up gradients once a step where each of them
      holds all parameters.
    donate: Whether a step overwrites its state, which is then invalid; saves
      one copy of it.

  Returns:
    step(state, dataset) → (state, metrics).

  Raises:
    ValueError: For options out of range; from the first step for a loss, a
      dataset or an optimizer that does not fit.

  Example:
    >>> import adaopt
    >>> import jax
    >>> import jax.numpy as jnp
    >>> loss_fn = lambda params, batch: jnp.mean((params - batch) ** 2)
    >>> optimizer = adaopt.adadagrad(
    ...   0.5, adaopt.norm_test(eta=0.5), init_batch_size=4, max_batch_size=64)
    >>> step = adaopt.train_step(loss_fn, optimizer, micro_batch_size=8)
    >>> state = adaopt.init_train_state(jnp.array(0.0), optimizer)
    >>> dataset = jax.random.normal(jax.random.key(0), [256]) + 1.0
    >>> for _ in range(4):
    ...   state, metrics = step(state, dataset)
    ...   print(metrics.batch_size, metrics.examples)
    4 4
    4 8
    4 12
    4 16
  """
  checks.check_flag(donate=donate)
  recipe = recipes.recipe_of(
    loss_fn,
    optimizer,
    micro_batch_size=micro_batch_size,
    group_size=group_size,
    has_aux=has_aux,
    draw=draw,
  )
  return drivers.driven(driver, parts_of(recipe, donate))


def parts_of(recipe: recipes.Recipe, donate: bool) -> drivers.Parts:
  """The parts of a step that computes what a recipe says."""
  plans = {}

  def plan(state, dataset):
    structure = jax.tree.structure((state, dataset))
    if structure not in plans:
      train_state.check_state(state)
      checks.check_arrays(dataset=dataset)
      plans[structure] = measuring.make_plan(recipe, state, dataset)
    return plans[structure]

  def update(state, dataset, moments, along):
    return _update(recipe, plan(state, dataset), state, dataset, moments, along)

  return drivers.Parts(
    plan, update, donate, lambda change: parts_of(change(recipe), donate)
  )


def _value_fn(recipe, plan, state, dataset):
  """Parameters → the loss of the batch of a step, which has a gradient."""
  loss = recipes.loss_of(recipe, state)

  def measured(params):
    if isinstance(dataset, stream.Block):
      raise ValueError(
        'the optimizer evaluates the loss of a batch again, as a line search '
        'or SAM does, and a feed gives a batch once; train it on arrays.'
      )

    def one(index):
      samples = plan.micro_batch(index, state, dataset)
      return estimators.measure_mean(loss, params, *samples)

    number = plan.num_micro_batches(state)
    found = merging.fold(number, one, merging.merge)
    samples, _ = plan.micro_batch(0, state, dataset)
    gradient = estimators.gradient(loss, params, samples, found)
    return merging.weighed(found.value, found), gradient

  @jax.custom_vjp
  def value_fn(params):
    return measured(params)[0]

  def forward(params):
    value, gradient = measured(params)
    return value, optax.tree.cast_like(gradient, params)

  def backward(gradient, cotangent):
    return (arithmetic.scale(cotangent, gradient),)

  value_fn.defvjp(forward, backward)
  return value_fn


def _completed(measured):
  """The statistics, missing numbers in the place of what was not measured."""
  weighted = measured.weight is not None
  like = reading.shapes_of(measured.mean, weighted=weighted)
  names = (*(kind.statistic for kind in spreads.SPREADS), 'weight_covariance')
  return measured._replace(
    **{
      name: measuring.or_missing(getattr(measured, name), getattr(like, name))
      for name in names
    }
  )


def _update(recipe, plan, state, dataset, moments, along):
  """The state after an update by what was measured, and the metrics."""
  measured = merging.finish(moments, along)
  params = train_state.fast(state.params)
  samples, _ = plan.micro_batch(0, state, dataset)
  loss = recipes.loss_of(recipe, state)
  gradient = estimators.gradient(loss, params, samples, moments)
  gradient = optax.tree.cast_like(gradient, params)
  measured = measured._replace(mean=gradient)
  statistics = trained.statistics_of(plan.moved, _completed(measured))
  value = merging.weighed(moments.value, moments)
  squared_norm = arithmetic.squared_norm(gradient)
  finite = jnp.isfinite(value) & jnp.isfinite(squared_norm)

  def moved_of(model_state):
    first = jax.tree.map(lambda x: x[0], samples)
    loss = recipes.loss_of(recipe, state._replace(model_state=model_state))
    return loss(params, first)[1].moved

  def apply(params, opt_state, model_state):
    updates, opt_state = updating.update(
      recipe.optimizer,
      gradient,
      statistics,
      params,
      opt_state,
      value,
      moments.aux,
      _value_fn(recipe, plan, state, dataset),
    )
    return (
      optax.apply_updates(params, updates),
      opt_state,
      model_states.merged(model_state, moments, moved_of),
    )

  moved = jax.lax.cond(
    finite,
    apply,
    lambda *kept: kept,
    state.params,
    state.opt_state,
    state.model_state,
  )
  params, opt_state, model_state = moved
  state = state._replace(
    params=params,
    opt_state=opt_state,
    step=state.step + 1,
    examples=(state.examples + moments.examples) & arithmetic.LARGEST,
    last_batch_size=moments.examples,
    weight=counting.added(state.weight, merging.weight(moments)),
    model_state=model_state,
  )
  missing = jnp.full_like(value, arithmetic.missing())
  metrics = Metrics(
    step=state.step,
    examples=state.examples,
    batch_size=moments.examples,
    next_batch_size=plan.num_examples(state),
    loss=value,
    aux=moments.aux,
    squared_norm=arithmetic.squared_norm(statistics.mean),
    variance=trained.total_variance(plan.moved, measured),
    variance_along_mean=arithmetic.returnable(statistics.variance_along_mean),
    required=fields.find(opt_state, 'required', missing),
    finite=finite,
  )
  return state, metrics
