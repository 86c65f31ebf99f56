"""Estimators: a loss function becomes its value and gradient statistics.

The variances are exact for every differentiable loss; `per_example` contracts
them from the factors of the gradients.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from adaopt import base, checks, per_example, statistics

Sums = Callable[[optax.Params, base.Batch, jax.Array], statistics.GradientSums]

# How the per-sample gradients of a tensor are reduced to sums of squares: to
# norms [J], which are summed, or to squares like the tensor.
SQUARES = {
  'total': (lambda rule: rule.norms, jnp.sum),
  'coordinate': (lambda rule: rule.squares, lambda squares: squares),
}


def check_options(*, group_size: int, variance: str | None) -> None:
  """Raises ValueError for options that no estimator knows."""
  checks.check_integer(1, group_size=group_size)
  if variance not in (None, *SQUARES):
    names = ', '.join(map(repr, SQUARES))
    raise ValueError(f'variance must be {names} or None, got {variance!r}.')


def _checked(loss_fn: base.LossFn, has_aux: bool) -> base.LossFn:
  """The loss function with an aux, its value checked to be a real scalar."""

  def loss(params, batch):
    output = loss_fn(params, batch)
    pair = isinstance(output, tuple)
    if pair != has_aux or (pair and len(output) != 2):
      raise ValueError(
        'loss_fn must return (loss, aux) with has_aux=True and the loss alone '
        f'without; with has_aux={has_aux} it returned {type(output).__name__}.'
      )
    value, aux = output if has_aux else (output, ())
    if jnp.shape(value) or not jnp.issubdtype(
      jnp.result_type(value), jnp.floating
    ):
      raise ValueError(
        'loss_fn must return a real scalar, the mean loss over the batch; got '
        f'{jnp.result_type(value)}{list(jnp.shape(value))}.'
      )
    return value, aux

  return loss


def _group(batch: base.Batch, size: int) -> base.Batch:
  """Arrays [b, ...] as [b / size, size, ...]."""
  length = checks.num_examples(batch)
  if length % size:
    raise ValueError(
      f'a batch of {length} examples is no multiple of group_size={size}.'
    )
  return jax.tree.map(
    lambda x: jnp.reshape(x, (length // size, size, *jnp.shape(x)[1:])), batch
  )


def _keep(samples: jax.Array, mask: jax.Array, instead: Any = 0) -> jax.Array:
  """Samples [J, ...] where mask [J] says so, and `instead` elsewhere."""
  mask = jnp.expand_dims(mask, range(1, samples.ndim))
  return jnp.where(mask, samples, instead)


def _total(samples: jax.Array, mask: jax.Array) -> jax.Array:
  """Sums the samples [J, ...] that the mask [J] lets through."""
  dtype = statistics.accumulator_dtype(samples)
  return jnp.sum(_keep(samples, mask), 0, dtype=dtype)


def _samples(
  batch: base.Batch, mask: jax.Array | None, group_size: int
) -> tuple[base.Batch, jax.Array]:
  """The samples [J, q, ...] and which of them count, [J] bool.

  The first that counts stands in for those that do not: differentiation would
  make 0 · ∞ of one that is not finite.
  """
  samples = _group(batch, group_size)
  if mask is None:
    return samples, jnp.ones(checks.num_examples(samples), bool)
  mask = jnp.all(_group(mask, group_size), 1)
  first = jnp.argmax(mask)
  return jax.tree.map(lambda x: _keep(x, mask, x[first]), samples), mask


def _mean_only(loss, params, samples, mask):
  """Sums from the gradient of the mean loss, without squares."""
  count = jnp.sum(mask, dtype=jnp.int32)

  def mean_loss(params):
    values, aux = jax.vmap(loss, (None, 0))(params, samples)
    total = functools.partial(_total, mask=mask)
    return total(values) / count, (total(values), jax.tree.map(total, aux))

  # The mean's gradient stays within the range of half precision.
  gradient, (value, aux) = jax.grad(mean_loss, has_aux=True)(params)
  rescale = lambda x: count * x.astype(statistics.accumulator_dtype(x))
  return statistics.GradientSums(
    count, value, aux, jax.tree.map(rescale, gradient), None
  )


def _with_squares(loss, params, samples, mask, *, variance):
  """Sums from the factors of the per-sample gradients."""
  reduction, total_squares = SQUARES[variance]
  reduced = per_example.reduce_gradients(
    loss, params, samples, mask.astype(jnp.float32), reduction
  )
  total = functools.partial(_total, mask=mask)
  return statistics.GradientSums(
    jnp.sum(mask, dtype=jnp.int32),
    total(reduced.values),
    jax.tree.map(total, reduced.aux),
    reduced.gradient,
    jax.tree.map(total_squares, reduced.second),
  )


def gradient_sums(
  loss_fn: base.LossFn,
  *,
  group_size: int = 1,
  variance: str | None = 'total',
  has_aux: bool = False,
) -> Sums:
  """Returns a function from a micro-batch to its `GradientSums`.

  Args:
    loss_fn: (params, batch) → the mean loss over the batch, or (loss, aux).
    group_size: q, the number of consecutive examples averaged in a sample.
    variance: 'total', 'coordinate', or None for the mean gradient alone.
    has_aux: Whether loss_fn returns (loss, aux); aux is averaged likewise.

  Returns:
    sums(params, batch, mask), where mask [b] bool says which examples count,
    and None that all do; a sample counts if all its examples do.
  """
  checks.check_callable('(params, batch) -> loss', loss_fn=loss_fn)
  check_options(group_size=group_size, variance=variance)
  loss = _checked(loss_fn, has_aux)
  reduce_samples = (
    _mean_only
    if variance is None
    else functools.partial(_with_squares, variance=variance)
  )

  def sums(params, batch, mask):
    checks.check_params(params)
    return reduce_samples(loss, params, *_samples(batch, mask, group_size))

  return sums


def deviation_sums(
  loss_fn: base.LossFn, *, group_size: int = 1, has_aux: bool = False
) -> Callable[..., jax.Array]:
  """Returns a function from a micro-batch to Σ_j (⟨g_j, u⟩ − ‖ḡ‖)².

  ⟨g_j, u⟩, with u = ḡ / ‖ḡ‖ or 0 where ḡ is, is the derivative of sample j's
  loss in direction u: one forward-mode pass, without a gradient per sample.

  Args:
    loss_fn: As for `gradient_sums`.
    group_size: As for `gradient_sums`.
    has_aux: As for `gradient_sums`.

  Returns:
    sums(params, batch, mask, gradient) → [], with `gradient` the mean ḡ over
    all micro-batches, like params.
  """
  loss = _checked(loss_fn, has_aux)

  def sums(params, batch, mask, gradient):
    samples, mask = _samples(batch, mask, group_size)
    norm = jnp.sqrt(statistics.squared_norm(gradient))
    # Along ḡ over a power of two, which is as exact as ḡ in half precision and
    # never leaves its range.
    scale = jnp.ldexp(jnp.ones_like(norm), jnp.frexp(norm)[1])
    # JAX's gradient of a real loss is the conjugate of its ascent direction.
    direction = jax.tree.map(lambda g: jnp.conj(g) / scale, gradient)
    direction = optax.tree.cast_like(direction, params)
    values_of = lambda params: jax.vmap(loss, (None, 0))(params, samples)[0]
    _, along = jax.jvp(values_of, (params,), (direction,))
    projections = along * jnp.where(norm == 0, 0, scale / norm)
    return _total(jnp.square(projections - norm), mask)

  return sums


def value_and_statistics(
  loss_fn: base.LossFn,
  *,
  group_size: int = 1,
  variance: str | None = 'total',
  along_mean: bool = False,
  has_aux: bool = False,
) -> Callable[[optax.Params, base.Batch], Any]:
  """Like `jax.value_and_grad`, with the noise of the gradient beside it.

  Args:
    loss_fn: (params, batch) → the mean loss over the batch, or (loss, aux).
      It is called with batches of `group_size` examples.
    group_size: q, the number of consecutive examples averaged in a sample. 1
      is exact; layers that couple examples, such as BatchNorm in training
      mode, need more.
    variance: 'total' for one variance a tensor, 'coordinate' for one a
      coordinate, None for none.
    along_mean: Whether to estimate v∥ too, by a forward-mode pass.
    has_aux: Whether loss_fn returns (loss, aux). aux is averaged over the
      samples.

  Returns:
    estimate(params, batch) → (value, statistics), where value is the loss or
    (loss, aux) and statistics are `GradientStatistics`.

  Raises:
    ValueError: Here for unknown options; from `estimate` for integer
      parameters, a loss that is no scalar, a batch that is empty, ragged, no
      multiple of q, or of fewer than two samples.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> def loss_fn(params, batch):
    ...   return jnp.mean((batch['x'] @ params - batch['y']) ** 2)
    >>> batch = {'x': jnp.eye(4), 'y': jnp.arange(4.0)}
    >>> estimate = adaopt.value_and_statistics(loss_fn)
    >>> loss, statistics = estimate(jnp.zeros(4), batch)
    >>> print(loss, statistics.mean, statistics.variance)
    3.5 [ 0.  -0.5 -1.  -1.5] 14.0

  References:
    Byrd et al., `Sample size selection in optimization methods for machine
    learning <https://doi.org/10.1007/s10107-012-0572-5>`_, 2012
  """
  options = dict(group_size=group_size, has_aux=has_aux)
  gradient_sums_fn = gradient_sums(loss_fn, variance=variance, **options)
  deviation_sums_fn = deviation_sums(loss_fn, **options)

  def estimate(params, batch):
    length = checks.num_examples(batch)
    wants_noise = variance is not None or along_mean
    if wants_noise and length < 2 * group_size:
      raise ValueError(
        f'a variance needs two samples of {group_size} example(s), got a batch '
        f'of {length}; enlarge the batch or pass variance=None.'
      )
    sums = gradient_sums_fn(params, batch, None)
    gradient = statistics.mean(sums, sums.gradient)
    deviations = (
      deviation_sums_fn(params, batch, None, gradient) if along_mean else None
    )
    stats = statistics.finish(sums, deviations, group_size=group_size)
    stats = stats._replace(mean=optax.tree.cast_like(stats.mean, params))
    value, aux = statistics.mean(sums, (sums.value, sums.aux))
    return (value, aux) if has_aux else value, stats

  return estimate
