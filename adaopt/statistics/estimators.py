"""Estimators: a loss function becomes its value and gradient statistics.

The variances are exact for every differentiable loss; `per_example` contracts
them from the factors of the gradients.
"""

import functools
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.extend import core

from adaopt._common import arithmetic, base, checks, losses
from adaopt.per_example import factorisation, forward, reductions
from adaopt.per_example.program import ir, pruning
from adaopt.per_example.rules import choice
from adaopt.statistics import merging, reading


def _total(samples: jax.Array, mask: jax.Array) -> jax.Array:
  """The sum of the samples [J, ...] that count by the mask [J]."""
  dtype = arithmetic.accumulator_dtype(samples)
  return jnp.sum(losses.keep(samples, mask), 0, dtype=dtype)


def _moments(
  factored: factorisation.Factored,
  mask: jax.Array,
  group_size: int,
  preference: choice.Preference,
) -> merging.Moments:
  """Moments from the factors of the per-sample gradients."""
  total = functools.partial(_total, mask=mask)
  sums = reductions.sums(factored, preference)
  return merging.from_sums(
    jnp.sum(mask, dtype=jnp.int32),
    group_size,
    value=total(factored.values),
    aux=jax.tree.map(total, factored.aux),
    gradient=sums.total,
    norms=jax.tree.map(jnp.sum, sums.norms),
    squares=sums.squares,
  )


def _without_spreads(moments: merging.Moments) -> merging.Moments:
  return moments._replace(spread=None, coordinate_spread=None)


def measure_moments(
  loss: base.LossFn,
  params: optax.Params,
  samples: base.Batch,
  mask: jax.Array,
  preference: choice.Preference = choice.NORMS_FIRST,
) -> merging.Moments:
  """The moments of a micro-batch, with both spreads.

  For use within `pruning.pruned`, which removes what is not read.

  Args:
    loss: (params, sample) → (loss, aux), as `losses.checked` gives it.
    params: The parameters.
    samples: The samples, [J, q, ...].
    mask: Which samples count, [J] bool, at least one. The others get weight 0,
      so that their gradients must be finite, too: 0 · ∞ is NaN.
    preference: As in `reductions.sums`.

  Returns:
    The moments.
  """
  factored = factorisation.factorise(loss, params, samples, mask)
  return _moments(factored, mask, _group_size(samples), preference)


def contract_mean(
  loss: base.LossFn, params: optax.Params, samples: base.Batch, mask: jax.Array
) -> merging.Moments:
  """Like `measure_moments` without spreads, contracted from factors."""
  run = lambda *args: _without_spreads(measure_moments(loss, *args))
  return pruning.pruned(run)(params, samples, mask)


def measure_mean(
  loss: base.LossFn, params: optax.Params, samples: base.Batch, mask: jax.Array
) -> merging.Moments:
  """Like `contract_mean`, by differentiating the sum of losses.

  In half precision that would round the sum of gradients at every example, so
  that there it is contracted from factors.
  """
  total = functools.partial(_total, mask=mask)

  def total_loss(params):
    values, aux = jax.vmap(loss, (None, 0))(params, samples)
    return total(values), jax.tree.map(total, aux)

  closed, shapes = jax.make_jaxpr(
    jax.value_and_grad(total_loss, has_aux=True), return_shape=True
  )(params)
  if _is_in_half_precision(closed):
    return contract_mean(loss, params, samples, mask)
  results = core.jaxpr_as_fun(closed)(*jax.tree.leaves(params))
  (value, aux), gradient = jax.tree.structure(shapes).unflatten(results)
  count = jnp.sum(mask, dtype=jnp.int32)
  divided = jax.tree.map(lambda x: x / count, (value, aux, gradient))
  examples = _group_size(samples) * count
  return merging.Moments(examples, count, *divided, None, None)


def measure_along(
  loss: base.LossFn,
  params: optax.Params,
  samples: base.Batch,
  mask: jax.Array,
  gradient: optax.Updates,
) -> jax.Array:
  """q Σ_j (⟨g_j, u⟩ − ‖ḡ‖)², u = ḡ / ‖ḡ‖, or 0 where ḡ is.

  ⟨g_j, u⟩ is the derivative of the loss of sample j in direction u: one
  forward-mode pass, without a gradient per sample.

  Args:
    loss: As for `measure_moments`.
    params: The parameters.
    samples: The samples of a micro-batch, [J, q, ...].
    mask: Which samples count, [J] bool.
    gradient: ḡ over all micro-batches, like params.

  Returns:
    The sum over the samples that count. [].
  """
  along = functools.partial(forward.along, loss, params, samples)
  return _group_size(samples) * _deviations(along, gradient, mask)


def _deviations(along, gradient, mask):
  """Σ_j (⟨g_j, u⟩ − ‖ḡ‖)², where along(d) is ⟨g_j, d⟩ [J]."""
  norm = jnp.sqrt(arithmetic.squared_norm(gradient))
  # Along ḡ over a power of two, which is as exact as ḡ in half precision and
  # never leaves its range.
  scale = jnp.ldexp(jnp.ones_like(norm), jnp.frexp(norm)[1])
  products = along(jax.tree.map(lambda g: g / scale, gradient))
  projections = products * jnp.where(norm == 0, 0, scale / norm)
  return _total(jnp.square(projections - norm), mask)


def _group_size(samples: base.Batch) -> int:
  return jax.tree.leaves(samples)[0].shape[1]


def _is_in_half_precision(closed: core.ClosedJaxpr) -> bool:
  """Whether a jaxpr computes anything in less than float32."""
  return any(
    jnp.issubdtype(dtype, jnp.inexact) and jnp.finfo(dtype).bits < 32
    for dtype in ir.dtypes(closed)
  )


def _check_only(only: Any) -> tuple[str, ...]:
  if isinstance(only, str) or not isinstance(only, Collection):
    raise ValueError(
      f'only must be a tuple of names, such as ("variance",), got {only!r}.'
    )
  unknown = [name for name in only if name not in reading.NOISE]
  if unknown:
    raise ValueError(
      f'only must name some of {", ".join(reading.NOISE)}; got {unknown[0]!r}.'
    )
  return tuple(only)


def value_and_statistics(
  loss_fn: base.LossFn,
  *,
  only: Collection[str] = reading.NOISE,
  group_size: int = 1,
  has_aux: bool = False,
) -> Callable[..., Any]:
  """Like `jax.value_and_grad`, with the noise of the gradient beside it.

  Under `jit` it computes no statistic that the rest of the program does not
  read: pass all of them to an optimizer, and the step costs what its criterion
  needs. Only for a test by coordinate of a network on sequences does
  only=('coordinate_variance',) save more, one product of matrices a layer.

  Args:
    loss_fn: (params, batch, *args) → the mean loss over the batch, or
      (loss, aux). It is called with batches of `group_size` examples.
    only: Which of `variance`, `coordinate_variance` and `variance_along_mean`
      to compute where there is no `jit` to tell; the others are None. () for
      only the mean.
    group_size: q, the number of consecutive examples averaged in a sample. 1
      is exact; layers that couple examples, such as BatchNorm in training
      mode, need more.
    has_aux: Whether loss_fn returns (loss, aux). aux is averaged over the
      samples.

  Returns:
    estimate(params, batch, *args) → (value, statistics), where value is the
    loss or (loss, aux) and statistics are `GradientStatistics`. Further
    arguments, such as a step or a random key, are the same for all examples.

  Raises:
    ValueError: Here for unknown options; from `estimate` for integer
      parameters, a loss that is not a real scalar, a batch that is empty,
      ragged, not a multiple of q, or of fewer than two samples.

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
  checks.check_integer(1, group_size=group_size)
  checks.check_callable('(params, batch) -> loss', loss_fn=loss_fn)
  only = _check_only(only)

  def estimate(params, batch, *args):
    loss = losses.checked(loss_fn, has_aux, *args)
    length = checks.num_examples(batch)
    if only and length < 2 * group_size:
      raise ValueError(
        f'a variance needs two samples of {group_size} example(s), got a batch '
        f'of {length}; enlarge the batch or pass only=().'
      )
    checks.check_params(params)
    measured = _measured(loss, only) if only else _mean_measured(loss)
    value, aux, statistics = measured(
      params, *losses.samples(batch, None, group_size)
    )
    narrow = optax.tree.cast_like(statistics.mean, params)
    return (value, aux) if has_aux else value, statistics._replace(mean=narrow)

  return estimate


def _mean_measured(loss):
  def measured(params, samples, mask):
    found = measure_mean(loss, params, samples, mask)
    return found.value, found.aux, merging.finish(found)

  return measured


def _measured(loss, only):
  """(params, samples, mask) → loss, aux and the statistics named in `only`."""
  by_coordinate = 'coordinate_variance' in only and 'variance' not in only
  preference = choice.SQUARES_FIRST if by_coordinate else choice.NORMS_FIRST

  def measured(params, samples, mask):
    q = _group_size(samples)
    factored = factorisation.factorise(loss, params, samples, mask)
    found = _moments(factored, mask, q, preference)
    along = functools.partial(reductions.products, factored)
    spread = q * _deviations(along, found.mean, mask)
    statistics = merging.finish(found, spread)
    left_out = {field: None for field in reading.NOISE if field not in only}
    return found.value, found.aux, statistics._replace(**left_out)

  return pruning.pruned(measured)
