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


def _factorise(loss, params, samples, mask):
  return per_example.factorise(loss, params, samples, mask.astype(jnp.float32))


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

  def sums(params, batch, mask):
    checks.check_params(params)
    samples, mask = _samples(batch, mask, group_size)
    if variance is None:
      return _mean_only(loss, params, samples, mask)
    factored = _factorise(loss, params, samples, mask)
    return _sums(factored, mask, variance)

  return sums


def deviation_sums(
  loss_fn: base.LossFn, *, group_size: int = 1, has_aux: bool = False
) -> Callable[..., jax.Array]:
  """Returns a function from a micro-batch to Σ_j (⟨g_j, u⟩ − ‖ḡ‖)².

  ⟨g_j, u⟩, with u = ḡ / ‖ḡ‖ or 0 where ḡ is, is the derivative of sample j's
  loss in direction u: one forward-mode pass, without a gradient per sample.
  Where a function has only a reverse rule, the factors are contracted with u.

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
    values_of = lambda params: jax.vmap(loss, (None, 0))(params, samples)[0]
    if 'custom_vjp_call' in program.names(jax.make_jaxpr(values_of)(params)):
      factored = _factorise(loss, params, samples, mask)
      along = functools.partial(per_example.products, factored)
    else:
      along = functools.partial(_derivatives, values_of, params)
    return _deviations(along, gradient, mask)

  return sums


def _derivatives(values_of, params, direction):
  """The derivatives of all losses in a direction, by forward mode. [J]."""
  # JAX's gradient of a real loss is the conjugate of its ascent direction.
  tangents = optax.tree.cast_like(jax.tree.map(jnp.conj, direction), params)
  return jax.jvp(values_of, (params,), (tangents,))[1]


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
  check_options(group_size=group_size, variance=variance)
  checks.check_callable('(params, batch) -> loss', loss_fn=loss_fn)
  checked = _checked(loss_fn, has_aux)
  wants_noise = variance is not None or along_mean

  def estimate(params, batch, *args):
    loss = lambda params, batch: checked(params, batch, *args)
    length = checks.num_examples(batch)
    if wants_noise and length < 2 * group_size:
      raise ValueError(
        f'a variance needs two samples of {group_size} example(s), got a batch '
        f'of {length}; enlarge the batch or pass variance=None.'
      )
    checks.check_params(params)
    samples, mask = _samples(batch, None, group_size)
    if not wants_noise:
      sums, deviations = _mean_only(loss, params, samples, mask), None
    else:
      factored = _factorise(loss, params, samples, mask)
      sums = _sums(factored, mask, variance)
    deviations = None
    if along_mean:
      gradient = statistics.mean(sums, sums.gradient)
      along = functools.partial(per_example.products, factored)
      deviations = _deviations(along, gradient, mask)
    stats = statistics.finish(sums, deviations, group_size=group_size)
    stats = stats._replace(mean=optax.tree.cast_like(stats.mean, params))
    value, aux = statistics.mean(sums, (sums.value, sums.aux))
    return (value, aux) if has_aux else value, stats

  return estimate
