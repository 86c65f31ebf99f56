"""The accumulating form: batches that a loop feeds a micro-batch at a time."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from adaopt import (
  base,
  batch_size,
  checks,
  estimators,
  moments,
  statistics,
  train_state,
)


class AccumulateState(NamedTuple):
  """State of `accumulate`."""

  moments: moments.Moments  # of the batch under way
  inner_state: optax.OptState  # of adapt_batch_size and of inner


def _checked(
  stats: base.GradientStatistics | None, gradient: optax.Updates, group_size
) -> base.GradientStatistics:
  """Statistics that merge: those given, or those of one sample."""
  if stats is None:
    if checks.is_concrete(group_size) and group_size == 1:
      raise ValueError(
        'accumulate needs the statistics of the micro-batch: pass statistics= '
        'to update, or for plain gradients group_size=, the number of examples '
        'behind each.'
      )
    return base.GradientStatistics(group_size, gradient)
  checks.check_integer(1, **{'statistics.batch_size': stats.batch_size})
  if stats.variance_along_mean is not None:
    raise ValueError(
      'accumulate cannot merge statistics.variance_along_mean, which refers to '
      'the mean of the whole batch; build the estimator without along_mean, '
      'and use train_step for the tests that need it.'
    )
  return stats


def _with_note(
  transform: optax.GradientTransformationExtraArgs, note: str
) -> optax.GradientTransformationExtraArgs:
  """The transform, with a note after its sentences."""

  def update_fn(*args, **kwargs):
    try:
      return transform.update(*args, **kwargs)
    except ValueError as error:
      error.add_note(note)
      raise

  return optax.GradientTransformationExtraArgs(transform.init, update_fn)


def accumulate(
  inner: optax.GradientTransformation,
  criterion: base.Criterion,
  *,
  init_value: int,
  max_value: int,
  group_size: int = 1,
  variance: str | None = 'total',
  multiple_of: int = 1,
  test_interval: int = 1,
  policy: base.Policy = jnp.maximum,
) -> optax.GradientTransformationExtraArgs:
  r"""Updates by `inner` once a batch, of a size that a criterion moves.

  Like `optax.MultiSteps`, it takes one micro-batch's mean gradient an update
  and gives zeros until the batch is complete. Micro-batches of b examples in J
  samples, with mean ḡ and variance V, merge into statistics of the batch:

    n = Σ b,  ḡ_n = Σ b ḡ / n,
    V_n,k = (Σ (J − 1) V_k + Σ b |ḡ_k − ḡ_n,k|²) / (Σ J − 1).

  These are exact, and so are the norm test, the coordinate-wise one, and what
  else is made of n, ḡ and V. v∥ takes a second pass over the examples: the
  inner-product and orthogonality tests are refused.

  A batch is complete when it has as many examples as the batch size, and two
  samples where a test is due. Sizes are exact where micro-batches divide them,
  as with multiple_of= their size; else the last one runs over, and a size
  below one micro-batch means one. A batch whose mean gradient, or mean loss if
  `value=` is passed, is not finite gives zeros and leaves `inner` and the batch
  size as they are.

  Args:
    inner: The optimizer. What transforms the gradient, such as clipping,
      belongs in it.
    criterion: As in `adapt_batch_size`.
    init_value: As in `adapt_batch_size`.
    max_value: As in `adapt_batch_size`.
    group_size: The number of examples in a sample, as given to
      `value_and_statistics`; for plain gradients that of a micro-batch.
    variance: 'total' for one variance a tensor; 'coordinate' for one a
      coordinate, which the micro-batches must have too; None for none.
    multiple_of: As in `adapt_batch_size`.
    test_interval: As in `adapt_batch_size`.
    policy: As in `adapt_batch_size`.

  Returns:
    A transform, best under `jit`. Its update takes `statistics=`, or none for
    a plain gradient of group_size > 1 examples. `statistics.variance` is
    needed where `optax.tree.get(state, 'test_due')`: a test without it has no
    evidence; and always if `inner` has `scale_by_adascale`. `accumulated` is
    the number of examples in the batch under way, 0 when one has been
    completed. `inner` gets the extra arguments of the last micro-batch, with
    `statistics=`, the mean `value=` of the batch (passed with all of its
    micro-batches or with none) and `opt_state=`. With
    `optax.inject_hyperparams`, pass static_args=('criterion', 'policy').

  Raises:
    ValueError: For options as `adapt_batch_size` and `value_and_statistics`;
      from init if `inner` holds a batch size; from update for statistics that
      do not merge, or without what the criterion needs.

  Example:
    >>> import adaopt
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import optax
    >>> def loss_fn(params, batch):
    ...   return jnp.mean((params - batch) ** 2)
    >>> optimizer = adaopt.accumulate(
    ...   optax.sgd(0.25), adaopt.norm_test(eta=0.5), init_value=2, max_value=8)
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
    ...   print(params, optax.tree.get(state, 'accumulated'),
    ...         optax.tree.get(state, 'batch_size'))
    1.5 0 4
    1.5 2 4
    2.25 0 4
  """
  checks.check_callable(
    'of params', **{'inner.init': getattr(inner, 'init', inner)}
  )
  estimators.check_options(group_size=group_size, variance=variance)
  adapt = batch_size.adapt_batch_size(
    criterion,
    init_value=init_value,
    max_value=max_value,
    multiple_of=multiple_of,
    test_interval=test_interval,
    policy=policy,
  )
  note = (
    f'accumulate merges statistics with variance={variance!r}, an option of '
    'its own, and without variance_along_mean, which takes a second pass over '
    'the examples: train_step makes one.'
  )
  optimizer = optax.chain(_with_note(adapt, note), inner)

  def init_fn(params):
    inner_state = optimizer.init(params)
    if train_state.find_all(inner_state[1:], 'batch_size'):
      raise ValueError(
        'inner holds a batch size, and so does accumulate; pass an optimizer '
        'without one, such as adagrad for adadagrad.'
      )
    zeros = moments.zeros(params, variance)
    return AccumulateState(moments.pack(zeros, variance), inner_state)

  def is_complete(merged, inner_state):
    enough = merged.accumulated >= inner_state[0].batch_size
    if variance is None:
      return enough
    return enough & (
      (merged.samples > 1) | ~train_state.is_test_due(inner_state)
    )

  def is_finite(gradient, value):
    finite = jnp.isfinite(statistics.squared_norm(gradient))
    return finite if value is None else finite & jnp.isfinite(value)

  def update_fn(
    updates, state, params=None, *, statistics=None, value=None, **extra_args
  ):
    held = moments.unpack(state.moments, variance)
    new = moments.micro_batch(
      updates,
      _checked(statistics, updates, group_size),
      value,
      group_size=group_size,
      like=held,
    )
    merged = moments.merge(held, new)
    complete = is_complete(merged, state.inner_state)
    gradient = optax.tree.cast_like(merged.mean, updates)
    if value is not None:
      value = extra_args['value'] = merged.value

    def emit(params, inner_state):
      stats = moments.finish(merged)._replace(mean=gradient)
      extra = extra_args | dict(statistics=stats, opt_state=inner_state)
      return optimizer.update(gradient, inner_state, params, **extra)

    emitted, _ = jax.eval_shape(emit, params, state.inner_state)

    def wait(params, inner_state):
      del params
      zero = lambda u, e: jnp.zeros_like(u, dtype=e.dtype)
      return jax.tree.map(zero, updates, emitted), inner_state

    updates_of_batch, inner_state = jax.lax.cond(
      complete & is_finite(gradient, value),
      emit,
      wait,
      params,
      state.inner_state,
    )
    restarted = jax.tree.map(
      lambda x: jnp.where(complete, jnp.zeros_like(x), x),
      moments.pack(merged, variance),
    )
    return updates_of_batch, AccumulateState(restarted, inner_state)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)
