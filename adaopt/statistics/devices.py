"""Statistics over the devices of an axis of `jax.shard_map` or `jax.pmap`.

Either every device measures its own examples, and the moments merge exactly; or
the gradient of a device is taken as one sample, which asks no more of a model
than its gradient.
"""

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from adaopt._common import arithmetic, base
from adaopt.statistics import device_checks, merging, spreads


class Among(NamedTuple):
  """How to put together what the devices of an axis measure."""

  count: int  # of the devices
  index: jax.typing.ArrayLike  # of this one
  merge: Callable[[merging.Moments], merging.Moments]
  sum: Callable[[Any], Any]
  mean: Callable[[Any], Any]


def _same(tree):
  return tree


ALONE = Among(1, 0, _same, _same, _same)


def among(axis_name: Hashable | None) -> Among:
  """Puts together over the devices of an axis; of none, `ALONE`."""
  if axis_name is None:
    return ALONE
  device_checks.check_axis(axis_name)
  return Among(
    jax.lax.axis_size(axis_name),
    jax.lax.axis_index(axis_name),
    lambda moments: merge_over(axis_name, moments),
    lambda tree: jax.lax.psum(tree, axis_name),
    lambda tree: jax.lax.pmean(tree, axis_name),
  )


def merge_over(
  axis_name: Hashable, moments: merging.Moments
) -> merging.Moments:
  r"""The moments of the samples of all devices of an axis.

  As `merging.merge` of D sets, by two sums over the devices: of W_d ḡ_d and
  W_d, then of the spreads about ḡ,

    ḡ = Σ_d W_d ḡ_d / Σ_d W_d,  M = Σ_d M_d + 2 Re C_d conj(δ_d) + Q_d |δ_d|²,

  with δ_d = ḡ_d − ḡ.

  Args:
    axis_name: The axis or axes of `jax.shard_map`, `jax.vmap` or `jax.pmap`.
    moments: Of the samples of this device; there may be none.

  Returns:
    The moments, the same on all devices.
  """
  total = lambda tree: jax.lax.psum(tree, axis_name)
  examples = merging.number(moments)

  def known(tree):
    """The mean of a device; 0 of one without examples, which has none."""
    return jax.tree.map(
      lambda x: jnp.where(examples == 0, jnp.zeros_like(x), x), tree
    )

  moments = moments._replace(
    mean=known(moments.mean), opened=known(moments.opened)
  )

  def times(factor, tree):
    return jax.tree.map(lambda x: factor.astype(x.dtype) * x, tree)

  found = moments.value, moments.aux, moments.mean, moments.opened
  sums, moved, weights, all_examples = total(
    (
      times(merging.weight(moments), found),
      times(examples, moments.moved),
      merging.weight(moments),
      examples,
    )
  )
  value, aux, center, opened = jax.tree.map(
    lambda x: merging.divided(x, weights), sums
  )
  moved = jax.tree.map(lambda x: merging.divided(x, all_examples), moved)
  about = lambda kind: merging.clamped(
    total(merging.about_mean(center, moments, kind)), moments, kind
  )
  return merging.Moments(
    examples=total(moments.examples),
    samples=total(moments.samples),
    weight=total(moments.weight),
    squared_weight=total(moments.squared_weight),
    value=value,
    aux=aux,
    mean=center,
    **{kind.field: about(kind) for kind in spreads.SPREADS},
    weighted_spread=total(merging.weighted_about_mean(center, moments)),
    moved=moved,
    moved_spread=total(
      jax.tree.map(
        lambda m, x, new: m + examples.astype(m.dtype) * jnp.square(x - new),
        moments.moved_spread,
        moments.moved,
        moved,
      )
    ),
    opened=opened,
  )


def device_statistics(
  loss: jax.Array | base.WeightedLoss,
  gradient: optax.Updates,
  axis_name: Hashable,
  group_size: int,
) -> tuple[jax.Array, base.GradientStatistics]:
  r"""The loss and statistics from the gradients of D devices, of q examples.

    ḡ = (1/D) Σ_d g_d,  v = q / (D − 1) Σ_d ‖g_d − ḡ‖²,

  of every tensor, unbiased: the mean over devices that data parallelism makes
  anyway, and a sum of one number a tensor. It takes any model that has a
  gradient, also one whose examples cannot be mapped over. Of a `WeightedLoss`
  it is the ratio over all devices.

  Args:
    loss: The mean loss over this device's examples, [], or a `WeightedLoss`.
    gradient: Of the loss, or of its total, like params. With check_vma=True the
      parameters must vary over the axis, as jax.lax.pcast(params, axis_name,
      to='varying') makes them: of others JAX adds up the gradients.
    axis_name: The axis or axes of `jax.shard_map`, `jax.vmap` or `jax.pmap`.
    group_size: q, the number of examples of a device.

  Returns:
    (loss, statistics) of D q examples, the same on all devices, with no
    variance but `variance`. It is NaN for D = 1. `accumulate` takes the
    statistics with the same group_size.

  Raises:
    ValueError: If group_size is out of range, or if the gradient is the same on
      all devices.

  Example:
    >>> import adaopt
    >>> import jax
    >>> import jax.numpy as jnp
    >>> def loss_fn(params, x):
    ...   return jnp.mean((params - x) ** 2) / 2
    >>> def on_a_device(x):
    ...   loss, gradient = jax.value_and_grad(loss_fn)(0.0, x)
    ...   return adaopt.device_statistics(loss, gradient, 'data', group_size=2)
    >>> x = jnp.array([[1.0, 3.0], [4.0, 6.0]])
    >>> loss, statistics = jax.vmap(on_a_device, axis_name='data')(x)
    >>> print(loss[0], statistics.mean[0], statistics.variance[0])
    7.75 -3.5 9.0

  References:
    Lau et al., `Adaptive batch size schedules for distributed training of
    language models with data and model parallelism
    <https://arxiv.org/abs/2412.21124>`_, 2024
  """
  device_checks.check_device(loss, gradient, axis_name, group_size)
  moments = merge_over(axis_name, _one_sample(loss, gradient, group_size))
  return _finished(moments, gradient)


def shard_statistics(
  loss: jax.Array,
  gradient: optax.Updates,
  axis_name: Hashable,
  group_size: int,
  *,
  dimensions: optax.Updates,
) -> tuple[jax.Array, base.GradientStatistics]:
  r"""Like `device_statistics`, where a device keeps a shard of the mean.

  For parameters that are sharded, and gathered for the loss. No device has all
  of ḡ, and

    v = q / (D − 1) (Σ_d ‖g_d‖² − D ‖ḡ‖²),

  clamped at 0, with ‖ḡ‖² = Σ_d ‖ḡ_d‖² of the shards. It rounds by about
  1e-7 · q D ‖ḡ‖².

  Args:
    loss: The mean loss over this device's examples, [].
    gradient: Of that loss by the gathered parameters, as in
      `device_statistics`.
    axis_name: As in `device_statistics`.
    group_size: q, the number of examples of a device.
    dimensions: Like params: the dimension along which a tensor is sharded, or
      None if every device holds all of it.

  Returns:
    (loss, statistics), as of `device_statistics`, with `mean` in shards as
    `jax.lax.psum_scatter` makes them.

  Raises:
    ValueError: As of `device_statistics`, and for a `WeightedLoss`.

  Example:
    >>> import adaopt
    >>> import jax
    >>> import jax.numpy as jnp
    >>> def on_a_device(gradient):
    ...   return adaopt.statistics.shard_statistics(
    ...     jnp.sum(gradient), gradient, 'data', group_size=2, dimensions=0)
    >>> gradients = jnp.array([[1.0, 4.0], [3.0, 4.0]])
    >>> _, statistics = jax.vmap(on_a_device, axis_name='data')(gradients)
    >>> print(statistics.mean, statistics.variance)
    [[2.]
     [4.]] [4. 4.]
  """
  if isinstance(loss, base.WeightedLoss):
    raise ValueError(
      'shard_statistics takes the mean loss of a device, got a WeightedLoss; '
      'use device_statistics, or divide the total by the weight of all devices '
      'over their number.'
    )
  device_checks.check_device(loss, gradient, axis_name, group_size)
  device_checks.check_dimensions(dimensions, gradient)
  moments = _one_sample(loss, gradient, group_size)
  devices = jax.lax.axis_size(axis_name)

  def mean(g, dimension):
    if dimension is None:
      return jax.lax.pmean(g, axis_name)
    return devices**-1 * jax.lax.psum_scatter(
      g, axis_name, scatter_dimension=dimension, tiled=True
    )

  def square(g, mean, dimension):
    """Adds up to Σ ‖g − ḡ‖² over the devices."""
    if dimension is None:
      return arithmetic.squared_norm(g - mean)
    return arithmetic.squared_norm(g) - devices * arithmetic.squared_norm(mean)

  means = jax.tree.map(mean, moments.mean, dimensions)
  squares = jax.tree.map(square, moments.mean, means, dimensions)
  spread = jax.tree.map(
    lambda m: group_size * jnp.maximum(m, 0), jax.lax.psum(squares, axis_name)
  )
  moments = moments._replace(
    examples=devices * moments.examples,
    samples=devices * moments.samples,
    value=jax.lax.pmean(moments.value, axis_name),
    mean=means,
    spread=spread,
  )
  return _finished(moments, gradient)


def _one_sample(loss, gradient, group_size):
  """The moments of a device's examples as one sample."""
  total, weight, squared_weight = loss, None, None
  if isinstance(loss, base.WeightedLoss):
    total = loss.total
    weight = jnp.asarray(loss.weight, arithmetic.common_dtype(float, total))
    squared_weight = jnp.square(weight) / group_size

  def wide(x):
    x = jnp.asarray(x, arithmetic.accumulator_dtype(x))
    return x if weight is None else merging.divided(x, weight)

  mean = jax.tree.map(wide, gradient)
  return merging.Moments(
    examples=jnp.asarray(group_size, jnp.int32),
    samples=jnp.asarray(1, jnp.int32),
    weight=weight,
    squared_weight=squared_weight,
    value=wide(jnp.asarray(total, arithmetic.common_dtype(float, total))),
    aux=(),
    mean=mean,
    spread=jax.tree.map(
      lambda g: jnp.zeros([], arithmetic.real_dtype(g)), mean
    ),
    coordinate_spread=None,
    weighted_spread=None if weight is None else merging.zeros_like(mean),
  )


def _finished(moments, gradient):
  statistics = merging.finish(moments)
  narrow = optax.tree.cast_like(statistics.mean, gradient)
  value = merging.weighed(moments.value, moments)
  return value, statistics._replace(mean=narrow)
