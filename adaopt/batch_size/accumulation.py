"""The accumulating form: batches that a loop feeds a micro-batch at a time."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from adaopt._common import arithmetic, checks, fields, matrices, passing
from adaopt.batch_size import micro_batches
from adaopt.statistics import merging, reading, spreads


class AccumulateState(NamedTuple):
  """State of `accumulate`."""

  accumulated: jax.Array  # [] int32, examples in the batch under way
  samples: jax.Array  # [] int32, in the batch under way
  value: jax.Array  # [] float32 or wider, the mean loss; NaN: not known
  mean: optax.Updates  # like params, float32 or wider
  spread: jax.Array | None  # [T], of every tensor, if it is read
  coordinate_spread: optax.Updates | None  # like params, if it is read
  updated: jax.Array  # [] bool, whether the last call updated
  inner_state: optax.OptState
  weight: jax.Array | None = None  # [] float32 or wider, of weighted losses
  squared_weight: jax.Array | None = None  # [] likewise, if a spread is held
  weighted_spread: optax.Updates | None = None  # like params, likewise
  matrix_spread: jax.Array | None = None  # [Σ m²], of matrices, if it is read


def has_updated(state: optax.OptState) -> jax.Array:
  """Whether the last call of `accumulate` completed a batch and updated.

  For what moves with the parameters, such as an average of them or a counter
  of updates. A batch that was left out, since its loss or gradient was not
  finite, did not update.

  Args:
    state: Of `accumulate`, or of an optimizer that holds it.

  Returns:
    [] bool.

  Raises:
    ValueError: If there is not exactly one `accumulate` in it.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> import optax
    >>> optimizer = adaopt.accumulate(
    ...   optax.chain(adaopt.schedule_batch_size(4), optax.sgd(0.1)),
    ...   group_size=2)
    >>> gradient = jnp.ones(2)
    >>> state = optimizer.init(gradient)
    >>> for _ in range(4):
    ...   updates, state = optimizer.update(gradient, state)
    ...   print(adaopt.has_updated(state), updates)
    False [0. 0.]
    True [-0.1 -0.1]
    False [0. 0.]
    True [-0.1 -0.1]
  """
  found = fields.states_of(state, AccumulateState)
  if len(found) != 1:
    raise ValueError(
      f'has_updated needs the state of one accumulate, got {len(found)}; for '
      'optax.MultiSteps ask its own has_updated.'
    )
  return jnp.asarray(found[0].updated)


def accumulate(
  optimizer: optax.GradientTransformation,
  *,
  group_size: int = 1,
  weighted: bool = False,
) -> optax.GradientTransformationExtraArgs:
  r"""Updates by an optimizer once a batch, of the size that it holds.

  Like `optax.MultiSteps`, it takes one micro-batch's mean gradient an update
  and gives zeros until the batch is complete. Micro-batches of b examples in J
  samples, with mean ḡ and variance V, merge into statistics of the batch:

    n = Σ b,  ḡ_n = Σ b ḡ / n,
    V_n,k = (Σ (J − 1) V_k + Σ b |ḡ_k − ḡ_n,k|²) / (Σ J − 1).

  These are exact, and so is every test made of n, ḡ and V. With a
  `WeightedLoss` the statistics carry weights W, and ḡ_n = Σ W ḡ / Σ W, exactly
  too, with V_n likewise of all samples about ḡ_n. v∥ takes a second
  pass over the examples: the inner-product and orthogonality tests raise a
  ValueError.

  A batch is complete when it has as many examples as the batch size, and two
  samples where its noise is read. Sizes are exact where micro-batches divide
  them, as with multiple_of= their size; else the last micro-batch runs over,
  and a size below one micro-batch means one. A batch whose mean gradient, or
  mean loss if `value=` is passed, is not finite gives zeros and leaves the
  optimizer and the batch size as they are.

  Args:
    optimizer: An optimizer that holds a batch size, such as `adaptive`,
      `adadagrad`, or a chain with `adapt_batch_size` or `schedule_batch_size`.
      What transforms the gradient, such as clipping, belongs in it.
    group_size: The number of examples in a sample, as given to
      `value_and_statistics`; for plain gradients that of a micro-batch.
    weighted: Whether the losses are weighted, such as a mean over tokens. The
      state then holds weights, and one more tree like params where its noise
      is read. A plain gradient passes its weight by
      statistics=GradientStatistics(batch_size, gradient, weight=W).

  Returns:
    A transform, best under `jit`. Its update requires `statistics=` of the
    micro-batch, or none for a plain gradient of group_size > 1 examples.
    `has_updated(state)` tells whether the last call completed a batch. The
    optimizer gets the extra arguments of the last micro-batch, with
    `statistics=` and `opt_state=` of the batch and its mean `value=` (passed
    with all of its micro-batches or with none).

  Raises:
    ValueError: For a group_size out of range; from init if the optimizer does
      not hold one batch size; from update for statistics that do not merge, or
      lack what a test reads.

  Example:
    >>> import adaopt
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import optax
    >>> def loss_fn(params, batch):
    ...   return jnp.mean((params - batch) ** 2)
    >>> optimizer = adaopt.accumulate(
    ...   optax.chain(
    ...     adaopt.adapt_batch_size(
    ...       adaopt.norm_test(eta=0.5), init_batch_size=2, max_batch_size=8),
    ...     optax.sgd(0.25)))
    >>> estimate = adaopt.value_and_statistics(loss_fn)
    >>> @jax.jit
    ... def step(params, state, batch):
    ...   _, statistics = estimate(params, batch)
    ...   updates, state = optimizer.update(
    ...     statistics.mean, state, params, statistics=statistics)
    ...   return optax.apply_updates(params, updates), state
    >>> params, state = jnp.array(0.0), optimizer.init(jnp.array(0.0))
    >>> for batch in jnp.array([[1.0, 5.0], [3.5, 2.5], [4.0, 2.0]]):
    ...   params, state = step(params, state, batch)
    ...   print(params, adaopt.has_updated(state),
    ...         optax.tree.get(state, 'batch_size'))
    1.5 True 4
    1.5 False 4
    2.25 True 4
  """
  checks.check_optimizer(optimizer)
  checks.check_integer(1, group_size=group_size)
  checks.check_flag(weighted=weighted)
  optimizer = optax.with_extra_args_support(optimizer)

  def init_fn(params):
    inner_state = optimizer.init(params)
    fields.batch_size_of(inner_state)
    reads = _reads_at_init(optimizer, params, inner_state, weighted)
    zeros = _zeros(params, reads, weighted)
    return _state(zeros, jnp.zeros([], bool), inner_state)

  def is_complete(merged, inner_state):
    enough = merged.examples >= fields.batch_size_of(inner_state)
    if all(getattr(merged, kind.field) is None for kind in spreads.SPREADS):
      return enough
    due = fields.is_test_due(inner_state)
    return enough & ((merged.samples > 1) | ~jnp.asarray(due is None or due))

  def is_finite(gradient, value):
    finite = jnp.isfinite(arithmetic.squared_norm(gradient))
    return finite if value is None else finite & jnp.isfinite(value)

  def update_fn(updates, state, params=None, *, value=None, **extra_args):
    statistics = micro_batches.statistics_in(extra_args, updates, group_size)
    extra_args = passing.without_statistics(extra_args)
    held = _held(state)
    new = micro_batches.moments_of(
      updates, statistics, value, group_size, like=held
    )
    merged = merging.merge(held, new)
    finished = merging.finish(merged)
    gradient = optax.tree.cast_like(finished.mean, updates)
    if value is not None:
      value = merging.weighed(merged.value, merged)
      extra_args['value'] = value

    def emit(params, inner_state):
      statistics = finished._replace(mean=gradient)
      extra = extra_args | dict(statistics=statistics, opt_state=inner_state)
      return optimizer.update(gradient, inner_state, params, **extra)

    emitted, _ = jax.eval_shape(emit, params, state.inner_state)

    def wait(params, inner_state):
      del params
      zero = lambda u, e: jnp.zeros_like(u, dtype=e.dtype)
      return jax.tree.map(zero, updates, emitted), inner_state

    complete = is_complete(merged, state.inner_state)
    updated = complete & is_finite(gradient, value)
    updates_of_batch, inner_state = jax.lax.cond(
      updated, emit, wait, params, state.inner_state
    )
    restarted = jax.tree.map(
      lambda x: jnp.where(complete, jnp.zeros_like(x), x), merged
    )
    return updates_of_batch, _state(restarted, updated, inner_state)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _reads_at_init(optimizer, params, inner_state, weighted):
  """What an update reads, as far as init can tell: which spreads to hold."""

  def update(statistics, params, state):
    return optimizer.update(
      statistics.mean,
      state,
      params,
      statistics=statistics,
      value=jnp.zeros([]),
      opt_state=state,
    )

  # An update may need arguments that init does not know, and optax calls init
  # with a placeholder for the parameters: then every spread is held. An update
  # that is wrong raises the same in the loop.
  if not jax.tree.leaves(params):
    return dict.fromkeys(spreads.SPREADS, True)
  try:
    every = reading.shapes_of(params, weighted=weighted)
    reads = reading.reads_of(update, every, params, inner_state)
  except Exception:  # pylint: disable=broad-except
    return dict.fromkeys(spreads.SPREADS, True)
  read = reads.tested
  return {
    kind: any(jax.tree.leaves(getattr(read, kind.statistic)))
    for kind in spreads.SPREADS
  }


def _zeros(
  params: optax.Params, holds: dict[spreads.Spread, bool], weighted: bool
) -> merging.Moments:
  """The moments of no example, with the spreads that are held."""
  like = lambda dtype_of, shape_of: jax.tree.map(
    lambda p: jnp.zeros_like(shape_of(p), dtype=dtype_of(p)), params
  )
  both = weighted and any(holds.values())
  return merging.Moments(
    examples=jnp.zeros([], jnp.int32),
    samples=jnp.zeros([], jnp.int32),
    weight=jnp.zeros([], float) if weighted else None,
    squared_weight=jnp.zeros([], float) if both else None,
    value=jnp.zeros([], float),
    aux=(),
    mean=like(arithmetic.accumulator_dtype, lambda p: p),
    spread=like(arithmetic.real_dtype, lambda p: jnp.zeros([]))
    if holds[spreads.TOTAL]
    else None,
    coordinate_spread=like(arithmetic.real_dtype, lambda p: p)
    if holds[spreads.BY_COORDINATE]
    else None,
    matrix_spread=optax.tree.zeros_like(
      jax.tree.map(matrices.shape_of_square, params)
    )
    if holds[spreads.OF_MATRICES]
    else None,
    weighted_spread=like(arithmetic.accumulator_dtype, lambda p: p)
    if both
    else None,
  )


def _state(
  moments: merging.Moments, updated: jax.Array, inner_state: optax.OptState
) -> AccumulateState:
  """The state that holds these moments.

  Spreads of tensors are in one array, [T], and so are those of matrices: a tree
  in the structure of the parameters would pass for parameters, whose sharding
  `optax.tree.map_params` then gave them.
  """
  spread = moments.spread
  return AccumulateState(
    accumulated=moments.examples,
    samples=moments.samples,
    value=moments.value,
    mean=moments.mean,
    spread=None if spread is None else jnp.array(jax.tree.leaves(spread)),
    coordinate_spread=moments.coordinate_spread,
    updated=updated,
    inner_state=inner_state,
    weight=moments.weight,
    squared_weight=moments.squared_weight,
    weighted_spread=moments.weighted_spread,
    matrix_spread=matrices.raveled(moments.matrix_spread),
  )


def _held(state: AccumulateState) -> merging.Moments:
  """The moments in a state."""
  spread = state.spread
  if spread is not None:
    spread = jax.tree.unflatten(
      jax.tree.structure(state.mean), jnp.unstack(spread)
    )
  return merging.Moments(
    examples=state.accumulated,
    samples=state.samples,
    weight=state.weight,
    squared_weight=state.squared_weight,
    value=state.value,
    aux=(),
    mean=state.mean,
    spread=spread,
    coordinate_spread=state.coordinate_spread,
    matrix_spread=matrices.unraveled(state.matrix_spread, state.mean),
    weighted_spread=state.weighted_spread,
  )
