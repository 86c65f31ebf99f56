"""Estimators: a loss function becomes its value and gradient statistics.

The variances are exact for every differentiable loss; `per_example` contracts
them from the factors of the gradients.
"""

import functools
from collections.abc import Callable, Collection, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.extend import core

from adaopt._common import (
  arithmetic,
  auxiliary,
  base,
  calls,
  checks,
  explicit,
  losses,
  varying,
)
from adaopt.per_example import factorisation, forward, reductions
from adaopt.per_example.program import constraints, ir, pruning
from adaopt.per_example.rules import choice, common
from adaopt.statistics import (
  devices,
  merging,
  model_states,
  reading,
  spreads,
)
from adaopt.statistics import opening as opening_of

Loss = Callable[[optax.Params, losses.Sample], tuple[jax.Array, losses.Outcome]]
"""(params, sample) → (total, outcome), as `losses.checked` gives it."""


def _total(samples: jax.Array, mask: jax.Array) -> jax.Array:
  """The sum of the samples [J, ...] that count by the mask [J]."""
  dtype = arithmetic.accumulator_dtype(samples)
  return jnp.sum(losses.keep(samples, mask), 0, dtype=dtype)


def _sums_of(outcome: losses.Outcome, mask: jax.Array) -> dict[str, Any]:
  """Weighted sums of what samples tell beside their losses, for `from_sums`."""
  total = functools.partial(_total, mask=mask)
  auxiliary.check_averages(outcome.aux)
  aux = outcome.aux
  counted = total
  if outcome.weight is not None:
    aux = jax.tree.map(
      lambda x: common.scaled(outcome.weight, common.widen(x)), aux
    )
    # An average over no tokens is NaN, and 0 · NaN is, too.
    counted = functools.partial(_total, mask=mask & (outcome.weight != 0))
  return dict(
    aux=jax.tree.map(counted, aux),
    moved=jax.tree.map(total, outcome.moved),
    squared_moved=jax.tree.map(lambda x: total(jnp.square(x)), outcome.moved),
  )


def _weights(outcome, mask, products):
  """Σ w_j, Σ w_j² and Σ w_j a_j of weighted losses; None: of means."""
  if outcome.weight is None:
    return None
  weight = losses.keep(outcome.weight, mask)
  return jnp.sum(weight), jnp.sum(jnp.square(weight)), products


def _count(mask):
  return jnp.sum(mask, dtype=jnp.int32)


def _factorise(loss, params, samples, mask, count, preference):
  def weigh(outcome):
    """The weights of samples, 1 of a mean, and W."""
    if outcome.weight is None:
      ones = jnp.ones(len(mask))
      return ones, count.astype(ones.dtype)
    total = _total(outcome.weight, mask)
    return outcome.weight, jnp.where(total == 0, jnp.ones_like(total), total)

  return factorisation.factorise(
    loss, params, samples, mask, preference=preference, weigh=weigh
  )


def _moments(
  factored: factorisation.Factored,
  mask: jax.Array,
  count: jax.Array,
  group_size: int,
) -> merging.Moments:
  """Moments from the factors of the per-sample gradients."""
  sums = reductions.sums(factored)
  return merging.from_sums(
    count,
    group_size,
    value=_total(factored.values, mask),
    mean=sums.total,
    norms=jax.tree.map(jnp.sum, sums.norms),
    squares=sums.squares,
    matrix_squares=sums.matrix_squares,
    weights=_weights(factored.aux, mask, sums.weighted),
    **_sums_of(factored.aux, mask),
  )


def _without_spreads(moments: merging.Moments) -> merging.Moments:
  return moments._replace(
    weighted_spread=None, **{kind.field: None for kind in spreads.SPREADS}
  )


def measure_moments(
  loss: Loss,
  params: optax.Params,
  samples: losses.Sample,
  mask: jax.Array,
  preference: choice.Preference = choice.NORMS_FIRST,
) -> merging.Moments:
  """The moments of a micro-batch, with all spreads.

  For use within `pruning.pruned`, which removes what is not read.

  Args:
    loss: (params, sample) → (total, outcome), as `losses.checked` gives it.
    params: The parameters.
    samples: The samples, [J, q, ...].
    mask: Which samples count, [J] bool, at least one. The others get weight 0,
      so that their gradients must be finite, too: 0 · ∞ is NaN.
    preference: As in `factorisation.factorise`.

  Returns:
    The moments.
  """
  moments = _factored_moments(loss, params, samples, mask, preference)
  return moments._replace(opened=_opened_mean(loss, params, samples, mask))


def _factored_moments(
  loss, params, samples, mask, preference=choice.NORMS_FIRST
):
  count = _count(mask)
  factored = _factorise(loss, params, samples, mask, count, preference)
  return _moments(factored, mask, count, _group_size(samples))


def _opened_mean(loss, params, samples, mask):
  """The mean gradient by parts, () where no loss is to be opened."""
  opening = opening_of.opened(loss, params, samples)
  if opening is None or not opening.opens:
    return ()
  parts = opening_of.Parts(params, opening.prepare(params))
  return _differentiated_mean(opening.loss, parts, samples, mask).mean


def gradient(
  loss: Loss,
  params: optax.Params,
  samples: losses.Sample,
  moments: merging.Moments,
) -> optax.Updates:
  """ḡ of all samples, as `jax.grad` gives it for the batch.

  The mean of their own gradients, but where a backward pass of parameters is
  not linear, see `opening`.

  Args:
    loss: As for `measure_moments`.
    params: The parameters.
    samples: Some samples, [J, q, ...], of which only the shapes matter.
    moments: Of all samples.

  Returns:
    Like params, as wide as in the moments; NaN where the weights add up to 0.
  """
  found = moments.mean
  if moments.opened != ():
    opening = opening_of.opened(loss, params, samples)
    found = opening_of.closed(opening, params, moments.opened)
  return merging.weighed_mean(found, moments)


def contract_mean(
  loss: Loss, params: optax.Params, samples: losses.Sample, mask: jax.Array
) -> merging.Moments:
  """Like `measure_moments` without spreads, contracted from factors."""
  return _contracted(measure_moments, loss, params, samples, mask)


def _contracted(measure, loss, *args):
  run = lambda *args: _without_spreads(measure(loss, *args))
  return pruning.pruned(run)(*args)


def measure_mean(
  loss: Loss, params: optax.Params, samples: losses.Sample, mask: jax.Array
) -> merging.Moments:
  """Like `contract_mean`, by differentiating the sum of losses.

  In half precision that would round the sum of gradients at every example, so
  that there it is contracted from factors; so it is where a backward pass of
  parameters may not be linear.
  """
  if opening_of.opened(loss, params, samples) is None:
    return _differentiated_mean(loss, params, samples, mask)
  return contract_mean(loss, params, samples, mask)


def _differentiated_mean(loss, params, samples, mask):
  """The mean gradient of a loss whose backward pass of parameters is linear."""
  each = constraints.of_samples(loss, params, samples)

  def total_loss(params):
    totals, outcome = each(params, samples)
    return _total(totals, mask), outcome

  closed, shapes = jax.make_jaxpr(
    jax.value_and_grad(total_loss, has_aux=True), return_shape=True
  )(params)
  if _is_in_half_precision(closed):
    return _contracted(_factored_moments, loss, params, samples, mask)
  results = core.jaxpr_as_fun(closed)(*jax.tree.leaves(params))
  (value, outcome), gradient = jax.tree.structure(shapes).unflatten(results)
  weights = _weights(outcome, mask, gradient)
  count = _count(mask)
  moments = merging.from_sums(
    count,
    _group_size(samples),
    value=value,
    mean=jax.tree.map(
      lambda g: merging.divided(g, weights[0]) if weights else g / count,
      gradient,
    ),
    norms=None,
    squares=None,
    weights=weights,
    **_sums_of(outcome, mask),
  )
  return _without_spreads(moments)


def measure_along(
  loss: Loss,
  params: optax.Params,
  samples: losses.Sample,
  mask: jax.Array,
  gradient: optax.Updates,
) -> jax.Array:
  """Σ_j (⟨a_j, u⟩ − w_j ‖ḡ‖)² / q, u = ḡ / ‖ḡ‖, or 0 where ḡ is.

  ⟨a_j, u⟩ is the derivative of the loss of sample j in direction u: one
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
  _, outcome = constraints.of_samples(loss, params, samples)(params, samples)
  q = _group_size(samples)
  return _along_spread(along, gradient, mask, q, outcome.weight)


def _along_spread(along, gradient, mask, group_size, weight):
  """As `measure_along`, where along(d) is ⟨·, d⟩ of the samples' losses [J].

  The loss of a sample is its total, or without weights the mean over its q
  examples.
  """
  size = group_size if weight is None else 1 / group_size
  norm = jnp.sqrt(arithmetic.squared_norm(gradient))
  # Along ḡ over a power of two, which is as exact as ḡ in half precision and
  # never leaves its range.
  scale = jnp.ldexp(jnp.ones_like(norm), jnp.frexp(norm)[1])
  products = along(jax.tree.map(lambda g: g / scale, gradient))
  projections = products * jnp.where(norm == 0, 0, scale / norm)
  expected = norm if weight is None else weight * norm
  return size * _total(jnp.square(projections - expected), mask)


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
  axis_name: Hashable | None = None,
) -> Callable[..., Any]:
  """Like `jax.value_and_grad`, with the noise of the gradient beside it.

  Under `jit` it computes no statistic that the rest of the program does not
  read: pass all of them to an optimizer, and the step costs what its criterion
  needs. Only for a test by coordinate, or of matrices, of a network on
  sequences does only=('coordinate_variance',), or 'matrix_variance' beside it,
  save more, one product of matrices a layer.

  Args:
    loss_fn: (params, batch, *args) → the mean loss over the batch, or
      (loss, aux), see `LossFn`. It is called with batches of `group_size`
      examples. Losses that are a ratio return a `WeightedLoss`.
    only: Which of `variance`, `coordinate_variance`, `matrix_variance` and
      `variance_along_mean` to compute where there is no `jit` to tell; the
      others are None. () for only the mean.
    group_size: q, the number of consecutive examples averaged in a sample. 1
      is exact; layers that couple examples, such as BatchNorm in training
      mode, need more.
    has_aux: Whether loss_fn returns (loss, aux). What has the examples as its
      leading axis comes back for every example, [b, ...], in order; the rest is
      averaged over the samples, with the weights of a `WeightedLoss`.
    axis_name: The axis or axes of `jax.shard_map`, `jax.vmap` or `jax.pmap`
      over which the examples are split. All devices then get the statistics,
      the loss and the averages of all examples; without it, of their own.

  Returns:
    estimate(params, batch, *args, key=, model_state=, mask=) → (value,
    statistics), where value is what loss_fn returns, and statistics are
    `GradientStatistics`. Further arguments, such as a step, are the same for
    all examples. `key=` is for a loss_fn with that parameter: a key, folded
    with the index of each example, or keys [b], such as `example_keys` makes;
    a group gets that of its first. `model_state=` is for a loss_fn with that
    parameter, and returns merged over the samples. `mask=`, [b] bool, leaves
    out examples exactly, and a group unless all of it counts.

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
  checks.check_flag(has_aux=has_aux)
  only = _check_only(only)

  def measure(loss_fn, params, batch, args, key, model_state, mask):
    length = checks.num_examples(batch)
    among = devices.among(axis_name)
    total = among.count * length
    if only and total < 2 * group_size:
      raise ValueError(
        f'a variance needs two samples of {group_size} example(s), got a batch '
        f'of {total}; enlarge the batch or pass only=().'
      )
    call = calls.prepare(
      loss_fn,
      params,
      batch,
      *args,
      key=calls.keys_of(key, length, among.index * length),
      model_state=model_state,
      mask=mask,
      group_size=group_size,
      has_aux=has_aux,
    )
    measured = (
      _measured(call.loss, only, among)
      if only
      else _mean_measured(call.loss, among)
    )
    args = varying.alike(params, call.samples, call.mask)
    moments, each, statistics = measured(*args)
    mean = gradient(call.loss, params, call.samples, moments)
    narrow = optax.tree.cast_like(mean, params)
    value = merging.weighed(moments.value, moments)
    rest = []
    if has_aux:
      rest.append(auxiliary.joined(moments.aux, each))
    if model_state is not None:
      moved_of = lambda old: among.mean(call.moved_of(old))
      rest.append(model_states.merged(model_state, moments, moved_of))
    if rest:
      value = value, rest[0] if len(rest) == 1 else tuple(rest)
    return value, statistics._replace(mean=narrow)

  def estimate(params, batch, *args, key=None, model_state=None, mask=None):
    return explicit.on_auto_axes(
      *(measure, _placed, loss_fn),
      *(params, batch, args, key, model_state, mask),
    )

  return estimate


_LIKE_PARAMS = ('mean', 'coordinate_variance', 'weight_covariance')


def _placed(result, placing):
  """The value and the statistics, trees like the parameters as these."""
  value, statistics = result
  like_params = {
    name: None if tree is None else placing.like_params(tree)
    for name in _LIKE_PARAMS
    for tree in [getattr(statistics, name)]
  }
  numbers = statistics._replace(**dict.fromkeys(_LIKE_PARAMS))
  numbers = placing.whole(numbers)._replace(**like_params)
  return placing.by_rows(value), numbers


def _mean_measured(loss, among):
  def measured(params, samples, mask):
    found = among.merge(measure_mean(loss, params, samples, mask))
    _, outcome = constraints.of_samples(loss, params, samples)(params, samples)
    return found, outcome.each, merging.finish(found)

  return pruning.pruned(measured)


def _measured(loss, only, among):
  """(params, samples, mask) → moments, rows, the statistics in `only`."""
  preference = choice.preferred(
    norms='variance' in only,
    squares='coordinate_variance' in only,
    matrices='matrix_variance' in only,
  )

  def measured(params, samples, mask):
    q = _group_size(samples)
    count = _count(mask)
    factored = _factorise(loss, params, samples, mask, count, preference)
    found = _moments(factored, mask, count, q)
    opened = _opened_mean(loss, params, samples, mask)
    found = among.merge(found._replace(opened=opened))
    if factored.stacks:  # Their factors are gone.
      along = functools.partial(forward.along, loss, params, samples)
    else:
      along = functools.partial(reductions.products, factored)
    weight = factored.aux.weight
    spread = _along_spread(along, found.mean, mask, q, weight)
    statistics = merging.finish(found, among.sum(spread))
    left_out = {field: None for field in reading.NOISE if field not in only}
    statistics = statistics._replace(**left_out)
    return _without_spreads(found), factored.aux.each, statistics

  return pruning.pruned(measured)
