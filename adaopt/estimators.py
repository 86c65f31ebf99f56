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
from jax.extend import core

from adaopt import base, checks, losses, per_example, statistics
from adaopt.per_example import program

Sums = Callable[[optax.Params, base.Batch, jax.Array], statistics.GradientSums]

# The reduction of per-sample gradients that holds their squares, and what makes
# sums of it: of norms [J], which are added up, or of squares like the tensor.
SQUARES = {
  'total': (per_example.norms, jnp.sum),
  'coordinate': (per_example.squares, lambda squares: squares),
}


def check_options(*, group_size: int, variance: str | None) -> None:
  """Raises ValueError for options that no estimator knows."""
  checks.check_integer(1, group_size=group_size)
  if variance not in (None, *SQUARES):
    names = ', '.join(map(repr, SQUARES))
    raise ValueError(f'variance must be {names} or None, got {variance!r}.')


def _total(samples: jax.Array, mask: jax.Array) -> jax.Array:
  """Sums the samples [J, ...] that the mask [J] lets through."""
  dtype = statistics.accumulator_dtype(samples)
  return jnp.sum(losses.keep(samples, mask), 0, dtype=dtype)


def _in_half_precision(closed):
  """Whether a jaxpr computes anything in less than float32."""
  return any(
    jnp.issubdtype(dtype, jnp.inexact) and jnp.finfo(dtype).bits < 32
    for dtype in program.dtypes(closed)
  )


def _mean_sums(loss, params, samples, mask):
  """Sums without squares, by differentiating the sum of losses.

  In half precision that would add up the gradients in half precision, so that
  there they are contracted from factors.
  """
  total = functools.partial(_total, mask=mask)

  def total_loss(params):
    values, aux = jax.vmap(loss, (None, 0))(params, samples)
    return total(values), jax.tree.map(total, aux)

  closed, shapes = jax.make_jaxpr(
    jax.value_and_grad(total_loss, has_aux=True), return_shape=True
  )(params)
  if _in_half_precision(closed):
    factored = per_example.factorise(loss, params, samples, mask)
    return _sums(factored, mask, None)
  results = core.jaxpr_as_fun(closed)(*jax.tree.leaves(params))
  (value, aux), gradient = jax.tree.structure(shapes).unflatten(results)
  count = jnp.sum(mask, dtype=jnp.int32)
  return statistics.GradientSums(count, value, aux, gradient, None)


def _sums(factored, mask, variance):
  """Sums from the factors of the per-sample gradients."""
  if variance is None:
    gradient, _ = per_example.norms(factored)
    squares = None
  else:
    reduce, total_squares = SQUARES[variance]
    gradient, squares = reduce(factored)
    squares = jax.tree.map(total_squares, squares)
  total = functools.partial(_total, mask=mask)
  return statistics.GradientSums(
    jnp.sum(mask, dtype=jnp.int32),
    total(factored.values),
    jax.tree.map(total, factored.aux),
    gradient,
    squares,
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
    and None that all do; a sample counts if all its examples do. The others
    get weight 0, so that their gradients must be finite, too: 0 · ∞ is NaN.
  """
  checks.check_callable('(params, batch) -> loss', loss_fn=loss_fn)
  check_options(group_size=group_size, variance=variance)
  loss = losses.checked(loss_fn, has_aux)

  def sums(params, batch, mask):
    checks.check_params(params)
    samples, mask = losses.samples(batch, mask, group_size)
    factored = per_example.factorise(loss, params, samples, mask)
    return _sums(factored, mask, variance)

  return sums


def mean_sums(
  loss_fn: base.LossFn, *, group_size: int = 1, has_aux: bool = False
) -> Sums:
  """Like `gradient_sums` with variance=None, without factors on the way.

  It differentiates the sum of losses, which is faster than contracting factors
  but for convolutions in a loop on a CPU. What holds half precision is
  contracted all the same: a gradient of the sum would be rounded to it at every
  example.

  Args:
    loss_fn: As for `gradient_sums`.
    group_size: As for `gradient_sums`.
    has_aux: As for `gradient_sums`.

  Returns:
    sums(params, batch, mask).
  """
  loss = losses.checked(loss_fn, has_aux)

  def sums(params, batch, mask):
    checks.check_params(params)
    return _mean_sums(loss, params, *losses.samples(batch, mask, group_size))

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
  loss = losses.checked(loss_fn, has_aux)

  def sums(params, batch, mask, gradient):
    samples, mask = losses.samples(batch, mask, group_size)
    along = functools.partial(per_example.along, loss, params, samples)
    return _deviations(along, gradient, mask)

  return sums


def _deviations(along, gradient, mask):
  """Σ_j (⟨g_j, u⟩ − ‖ḡ‖)², where along(d) is ⟨g_j, d⟩ [J]."""
  norm = jnp.sqrt(statistics.squared_norm(gradient))
  # Along ḡ over a power of two, which is as exact as ḡ in half precision and
  # never leaves its range.
  scale = jnp.ldexp(jnp.ones_like(norm), jnp.frexp(norm)[1])
  products = along(jax.tree.map(lambda g: g / scale, gradient))
  projections = products * jnp.where(norm == 0, 0, scale / norm)
  return _total(jnp.square(projections - norm), mask)


def value_and_statistics(
  loss_fn: base.LossFn,
  *,
  group_size: int = 1,
  variance: str | None = 'total',
  along_mean: bool = False,
  has_aux: bool = False,
) -> Callable[..., Any]:
  """Like `jax.value_and_grad`, with the noise of the gradient beside it.

  Args:
    loss_fn: (params, batch, *args) → the mean loss over the batch, or
      (loss, aux). It is called with batches of `group_size` examples.
    group_size: q, the number of consecutive examples averaged in a sample. 1
      is exact; layers that couple examples, such as BatchNorm in training
      mode, need more.
    variance: 'total' for one variance a tensor, 'coordinate' for one a
      coordinate, None for none.
    along_mean: Whether to estimate v∥ too.
    has_aux: Whether loss_fn returns (loss, aux). aux is averaged over the
      samples.

  Returns:
    estimate(params, batch, *args) → (value, statistics), where value is the
    loss or (loss, aux) and statistics are `GradientStatistics`. Further
    arguments, such as a step or a random key, are the same for all examples.

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
  check_options(group_size=group_size, variance=variance)
  checks.check_callable('(params, batch) -> loss', loss_fn=loss_fn)
  wants_noise = variance is not None or along_mean

  def estimate(params, batch, *args):
    loss = losses.checked(loss_fn, has_aux, *args)
    length = checks.num_examples(batch)
    if wants_noise and length < 2 * group_size:
      raise ValueError(
        f'a variance needs two samples of {group_size} example(s), got a batch '
        f'of {length}; enlarge the batch or pass variance=None.'
      )
    checks.check_params(params)
    samples, mask = losses.samples(batch, None, group_size)
    deviation = None
    if wants_noise:
      factored = per_example.factorise(loss, params, samples, mask)
      sums = _sums(factored, mask, variance)
    else:
      sums = _mean_sums(loss, params, samples, mask)
    means = statistics.means(sums)
    if along_mean:
      along = functools.partial(per_example.products, factored)
      deviation = _deviations(along, means.gradient, mask) / means.count
    stats = statistics.finish(means, deviation, group_size=group_size)
    stats = stats._replace(mean=optax.tree.cast_like(stats.mean, params))
    value = (means.value, means.aux) if has_aux else means.value
    return value, stats

  return estimate
