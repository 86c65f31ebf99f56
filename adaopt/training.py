"""The training step: the batch size is data, so no change of it recompiles.

A step sums over micro-batches of one static shape, as many as the batch size
asks for, the last one masked, so that any size is exact. What a step is made
of is here; how its micro-batches are run is the driver's.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from adaopt import (
  base,
  checks,
  drivers,
  estimators,
  examples,
  statistics,
  train_state,
)

Draw = Callable[[base.Batch, jax.Array, jax.Array], base.Batch]

_TAKEN = frozenset(
  ['opt_state', 'params', 'state', 'statistics', 'updates', 'value']
)


class Metrics(NamedTuple):
  """What one step saw, as scalars on the device."""

  step: jax.Array  # [] int32, steps done, this one included
  examples: jax.Array  # [] int32, examples consumed, this step's included
  batch_size: jax.Array  # [] int32, of this step
  next_batch_size: jax.Array  # [] int32
  loss: jax.Array  # [], mean over the batch, before the update
  aux: Any  # mean over the batch, () without has_aux
  squared_norm: jax.Array  # [], ‖ḡ‖²
  variance: jax.Array  # [], v per example; NaN where no test was due
  variance_along_mean: jax.Array  # [], v∥; NaN where not measured
  required: jax.Array  # [], by the last test; NaN: no evidence or no test
  finite: jax.Array  # [] bool; False: the update was left out


def _with_extra_args(
  optimizer: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
  """Like optax's, but what takes any keyword, such as MultiSteps, gets them."""
  parameters = inspect.signature(optimizer.update).parameters.values()
  if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
    return optax.GradientTransformationExtraArgs(
      optimizer.init, optimizer.update
    )
  return optax.with_extra_args_support(optimizer)


def _by_name(aux: Any) -> dict[str, Any]:
  """What an update gets of aux: the entries of a dict."""
  if not isinstance(aux, dict):
    return {}
  taken = _TAKEN.intersection(aux)
  if taken:
    raise ValueError(
      'the entries of a dict aux are given to the optimizer by their names, '
      f'and its update has a {min(taken)} of its own; rename that entry.'
    )
  return {name: x for name, x in aux.items() if isinstance(name, str)}


def train_step(
  loss_fn: base.LossFn,
  optimizer: optax.GradientTransformation,
  *,
  micro_batch_size: int,
  group_size: int = 1,
  variance: str | None = 'total',
  along_mean: bool = False,
  has_aux: bool = False,
  draw: Draw = examples.draw,
  driver: Callable[[drivers.Parts], drivers.Step] = drivers.automatic,
) -> drivers.Step:
  """A training step that takes any batch size without recompiling.

  The batch is the range of the example stream that follows the examples
  consumed so far. The statistics are computed in the steps in which a test is
  due, by the `test_due` of any state of the optimizer. Where the loss or the
  mean gradient is not finite the update is left out: parameters and optimizer,
  counts included, keep their values, and the metrics say so.

  Positions are int32, and so the stream ends before 2³¹ examples: there the
  count of examples stays where it is, and every step reads the same ones. `fit`
  refuses to go beyond 2³⁰; a loop of your own must see to it.

  Args:
    loss_fn: (params, batch) → the mean loss over the batch, or (loss, aux).
    optimizer: A transform that holds a batch size, such as `adadagrad` or a
      chain with `adapt_batch_size` or `schedule_batch_size`. Its update is
      given `statistics=`, `value=`, the loss, and `opt_state=`, the whole
      state before the update; where the aux is a dict, also its entries by
      their names, such as `mean_residual=`.
    micro_batch_size: The number of examples processed at once, rounded up to
      whole groups. It bounds the memory and leaves the results as they are.
    group_size: As in `value_and_statistics`. A batch is made of whole groups,
      at least two where a test is due.
    variance: As in `value_and_statistics`; None for the mean alone.
    along_mean: As in `value_and_statistics`.
    has_aux: As in `value_and_statistics`.
    draw: (dataset, seed, positions [n]) → a batch of n examples. The default
      takes them from the shuffled epochs of a dataset in memory. Where a batch
      does not fill its last micro-batch, some positions come twice.
    driver: How the micro-batches are run: `drivers.traced`,
      `drivers.dispatched`, or by default the faster one for backend and model.

  Returns:
    step(state, dataset) → (state, metrics). It donates the state.

  Raises:
    ValueError: For options out of range; from the first step for a loss, a
      dataset or statistics that do not fit.

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
  checks.check_integer(1, micro_batch_size=micro_batch_size)
  checks.check_callable('(dataset, seed, positions) -> batch', draw=draw)
  checks.check_callable('of the parts of a step', driver=driver)
  estimators.check_options(group_size=group_size, variance=variance)
  micro_batch_size = -(-micro_batch_size // group_size) * group_size
  options = dict(group_size=group_size, has_aux=has_aux)
  noise_of = estimators.gradient_sums(loss_fn, variance=variance, **options)
  mean_of = estimators.mean_sums(loss_fn, **options)
  contracted_mean_of = estimators.gradient_sums(
    loss_fn, variance=None, **options
  )
  deviations_of = estimators.deviation_sums(loss_fn, **options)
  optimizer = _with_extra_args(optimizer)

  def test_due(state):
    if variance is None and not along_mean:
      return None
    return train_state.is_test_due(state.opt_state)

  def num_examples(state):
    groups = -(-train_state.batch_size_of(state.opt_state) // group_size)
    due = test_due(state)
    at_least = 1 if due is None else jnp.where(due, 2, 1)
    return jnp.maximum(groups, at_least) * group_size

  def num_micro_batches(state):
    return -(-num_examples(state) // micro_batch_size)

  def micro_batch(index, state, dataset):
    offsets = index * micro_batch_size + jnp.arange(micro_batch_size)
    mask = offsets < num_examples(state)
    # The first group, which always counts, stands in for those that do not:
    # of an example that is not finite a gradient would be 0 · ∞. It does so by
    # its positions, for between devices the examples would have to be moved.
    first = jnp.tile(offsets[:group_size], micro_batch_size // group_size)
    positions = state.examples + jnp.where(mask, offsets, first)
    return draw(dataset, state.seed, positions), mask

  def gradient_sums(index, state, dataset):
    return noise_of(state.params, *micro_batch(index, state, dataset))

  def untested(sums_of):
    """The sums of a mean alone, in the structure of those with squares."""

    def sums(index, state, dataset):
      sums = sums_of(state.params, *micro_batch(index, state, dataset))
      if test_due(state) is None:
        return sums
      squares = jax.eval_shape(gradient_sums, index, state, dataset).squares
      return sums._replace(squares=optax.tree.full_like(squares, jnp.nan))

    return sums

  def deviation_sums(index, state, dataset, gradient):
    batch, mask = micro_batch(index, state, dataset)
    return deviations_of(state.params, batch, mask, gradient)

  def update(state, sums, deviations):
    means = statistics.means(sums)
    deviation = None if deviations is None else deviations / sums.count
    stats = statistics.finish(means, deviation, group_size=group_size)
    stats = stats._replace(mean=optax.tree.cast_like(stats.mean, state.params))
    squared_norm = statistics.squared_norm(stats.mean)
    finite = jnp.isfinite(means.value) & jnp.isfinite(squared_norm)

    def apply(params, opt_state):
      updates, opt_state = optimizer.update(
        stats.mean,
        opt_state,
        params,
        statistics=stats,
        value=means.value,
        opt_state=opt_state,
        **_by_name(means.aux),
      )
      return optax.apply_updates(params, updates), opt_state

    params, opt_state = jax.lax.cond(
      finite, apply, lambda *kept: kept, state.params, state.opt_state
    )
    state = state._replace(
      params=params,
      opt_state=opt_state,
      step=state.step + 1,
      examples=statistics.saturating_add(state.examples, stats.batch_size),
      last_batch_size=stats.batch_size,
    )
    nan = jnp.full_like(means.value, jnp.nan)
    metrics = Metrics(
      step=state.step,
      examples=state.examples,
      batch_size=stats.batch_size,
      next_batch_size=num_examples(state),
      loss=means.value,
      aux=means.aux,
      squared_norm=squared_norm,
      variance=nan
      if sums.squares is None
      else statistics.total(stats.variance),
      variance_along_mean=nan
      if deviations is None
      else stats.variance_along_mean,
      required=train_state.find(opt_state, 'required', nan),
      finite=finite,
    )
    return state, metrics

  return driver(
    drivers.Parts(
      num_micro_batches=num_micro_batches,
      test_due=test_due,
      mean_sums=untested(mean_of),
      contracted_mean_sums=untested(contracted_mean_of),
      gradient_sums=gradient_sums,
      deviation_sums=deviation_sums if along_mean else None,
      update=update,
    )
  )
