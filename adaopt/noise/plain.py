"""Gradient statistics from plain gradients: micro-batches, devices and steps.

The gradients of examples are not needed to tell noise from signal: those of
micro-batches vary by 1 / q of what those of examples do.
"""

from collections.abc import Hashable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from adaopt._common import arithmetic, base, checks
from adaopt.statistics import devices

_AXIS = '_adaopt_micro_batches'


def between_micro_batches(
  gradients: optax.Updates, *, micro_batch_size: int
) -> base.GradientStatistics:
  r"""Statistics from the gradients of J micro-batches of q examples.

    ḡ = (1/J) Σ_j g_j,  v = q / (J − 1) Σ_j ‖g_j − ḡ‖²,

  of every tensor, unbiased.

  Args:
    gradients: The mean gradient g_j of every micro-batch, stacked: like params,
      [J, ...].
    micro_batch_size: q.

  Returns:
    Statistics of J q examples, with no variance but `variance`. It is NaN for
    J = 1.

  Raises:
    ValueError: If micro_batch_size is out of range, or the gradients are not of
      the same number of micro-batches.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> gradients = jnp.array([[1.0, 4.0], [3.0, 4.0]])
    >>> statistics = adaopt.noise.between_micro_batches(
    ...   gradients, micro_batch_size=16)
    >>> print(statistics.batch_size, statistics.mean, statistics.variance)
    32 [2. 4.] 32.0
  """
  checks.check_integer(1, micro_batch_size=micro_batch_size)
  checks.num_examples(gradients, 'gradients')

  def one(gradient):
    return between_devices(
      gradient, axis_name=_AXIS, micro_batch_size=micro_batch_size
    )

  return jax.vmap(one, axis_name=_AXIS, out_axes=None)(gradients)


def between_devices(
  gradient: optax.Updates,
  *,
  axis_name: Hashable,
  micro_batch_size: int,
) -> base.GradientStatistics:
  r"""Statistics from the gradients of P devices, of q examples each.

    ḡ = (1/P) Σ_p g_p,  v = q / (P − 1) Σ_p ‖g_p − ḡ‖²,

  of every tensor, unbiased: the mean over devices that data parallelism makes
  anyway, and a sum of one number a tensor.

  Args:
    gradient: The mean gradient of this device's examples, like params.
    axis_name: The axis or axes of `jax.shard_map`, `jax.vmap` or `jax.pmap`.
    micro_batch_size: q, the number of examples of a device.

  Returns:
    Statistics of P q examples, the same on all devices, with no variance but
    `variance`. It is NaN for P = 1.

  Raises:
    ValueError: If micro_batch_size is out of range.

  Example:
    >>> import adaopt
    >>> import jax
    >>> import jax.numpy as jnp
    >>> def statistics_of(gradient):
    ...   return adaopt.noise.between_devices(
    ...     gradient, axis_name='devices', micro_batch_size=16)
    >>> gradients = jnp.array([[1.0, 4.0], [3.0, 4.0]])
    >>> statistics = jax.vmap(statistics_of, axis_name='devices')(gradients)
    >>> print(statistics.mean[0], statistics.variance)
    [2. 4.] [32. 32.]
  """
  checks.check_integer(1, micro_batch_size=micro_batch_size)
  unknown = jnp.zeros([])
  _, statistics = devices.device_statistics(
    unknown, gradient, axis_name, micro_batch_size
  )
  return statistics


def from_two_sizes(
  gradient: optax.Updates,
  squared_norms: optax.Updates,
  *,
  batch_size: jax.typing.ArrayLike,
  micro_batch_size: jax.typing.ArrayLike,
) -> base.GradientStatistics:
  r"""Statistics from squared norms of gradients at two batch sizes q < b.

    v = (‖g_q‖² − ‖ḡ‖²) / (1/q − 1/b),

  of every tensor, unbiased, as E ‖g_q‖² = ‖∇F‖² + v / q and E ‖ḡ‖² = ‖∇F‖² +
  v / b. With the mean of ‖g_q‖² over all micro-batches of the batch it is
  `between_micro_batches` for a loop that keeps only sums; with that of one of
  them it may be below 0, and only averages over steps mean something.

  Args:
    gradient: ḡ, the mean gradient of b examples, like params.
    squared_norms: ‖g_q‖² of every tensor, a tree like params of [].
    batch_size: b.
    micro_batch_size: q.

  Returns:
    Statistics of b examples, with no variance but `variance`.

  Raises:
    ValueError: If a size is out of range, or q is not below b.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> statistics = adaopt.noise.from_two_sizes(
    ...   jnp.array([2.0, 4.0]), jnp.array(21.0),  # (17 + 25) / 2
    ...   batch_size=32, micro_batch_size=16)
    >>> print(statistics.variance)
    32.0

  References:
    McCandlish et al., `An Empirical Model of Large-Batch Training
    <https://arxiv.org/abs/1812.06162>`_, 2018, appendix A.1
  """
  sizes = dict(batch_size=batch_size, micro_batch_size=micro_batch_size)
  checks.check_integer(1, **sizes)
  if checks.is_concrete(*sizes.values()) and micro_batch_size >= batch_size:
    raise ValueError(
      f'micro_batch_size={micro_batch_size} is not below '
      f'batch_size={batch_size}; noise shows in how they differ.'
    )
  checks.check_arrays(gradient=gradient, squared_norms=squared_norms)
  scalars = jax.tree.map(lambda g: 0.0, gradient)
  checks.check_like(scalars, squared_norms=squared_norms)
  b, q = (jnp.asarray(s, jnp.result_type(float)) for s in sizes.values())
  examples = q / (1 - q / b)

  def variance(norm, g):
    excess = norm - arithmetic.squared_norm(g)
    return examples.astype(excess.dtype) * excess

  return base.GradientStatistics(
    batch_size=jnp.asarray(batch_size, jnp.int32),
    mean=gradient,
    variance=jax.tree.map(variance, squared_norms, gradient),
  )


class BetweenStepsState(NamedTuple):
  """State of `between_steps`."""

  is_waiting: jax.Array  # [] bool, whether a gradient waits for the next one
  gradient: optax.Updates  # like params, the one that waits
  instrument_state: optax.OptState


def between_steps(
  instrument: optax.GradientTransformation, *, batch_size: int
) -> optax.GradientTransformationExtraArgs:
  r"""An instrument for a loop with one plain gradient a step, of b examples.

  Two successive gradients are two micro-batches, and every other step the
  instrument is passed the statistics of 2b examples,

    ḡ = (g_t + g_{t−1}) / 2,  v = (b / 2) ‖g_t − g_{t−1}‖²,

  so that ‖ḡ‖² − v / 2b = ⟨g_t, g_{t−1}⟩. Each gradient is in one pair, which
  leaves pairs independent and the standard errors of `noise_scale` right.

  The parameters move between the two, along the noise of the first, too. With
  SGD of rate α, on the Hessian H and for the covariance Σ of examples, v is
  too large by α tr(H Σ) and the signal too small by α tr(H Σ) / b +
  α ⟨∇F, H ∇F⟩, to first order in α. The noise scale is overstated: measured
  here, 1.4 to 1.9 times with Adam at its usual rate. Take `noise_scale` with
  exact statistics, or micro-batches, where it is to be right.

  Args:
    instrument: Such as `noise_scale`.
    batch_size: b, of every step.

  Returns:
    A transform that leaves updates alone and needs no `statistics=`. It goes
    first in a chain, before what changes the gradients, and keeps one of them.
    `noise_report` reads its state.

  Raises:
    ValueError: If instrument is no transform, or batch_size is out of range.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> import optax
    >>> optimizer = optax.chain(
    ...   adaopt.noise.between_steps(
    ...     adaopt.noise_scale(half_life=1000), batch_size=16),
    ...   optax.adam(1e-3))
    >>> params = jnp.zeros(2)
    >>> state = optimizer.init(params)
    >>> for gradient in ([1.0, 4.0], [3.0, 4.0]):
    ...   updates, state = optimizer.update(jnp.array(gradient), state, params)
    >>> total = adaopt.noise_report(state, params).total
    >>> print(total.noise, total.signal)  # 16 · 2² / 2, and 3 + 16
    32.0 19.0

  References:
    Qiao et al., `Pollux: Co-adaptive Cluster Scheduling for Goodput-Optimized
    Deep Learning <https://arxiv.org/abs/2008.12260>`_, 2021 (AdaptDL)
  """
  checks.check_optimizer(instrument, 'instrument')
  checks.check_integer(1, batch_size=batch_size)
  instrument = optax.with_extra_args_support(instrument)

  def init_fn(params):
    return BetweenStepsState(
      is_waiting=jnp.bool_(False),
      gradient=optax.tree.zeros_like(params),
      instrument_state=instrument.init(params),
    )

  def measure(before, gradient, state, params):
    wide = lambda g: g.astype(arithmetic.accumulator_dtype(g))
    half = jax.tree.map(lambda g, h: (wide(g) - wide(h)) / 2, gradient, before)
    statistics = base.GradientStatistics(
      batch_size=jnp.asarray(2 * batch_size, jnp.int32),
      mean=jax.tree.map(lambda h, d: wide(h) + d, before, half),
      variance=jax.tree.map(
        lambda d: 2 * batch_size * arithmetic.squared_norm(d), half
      ),
    )
    return instrument.update(gradient, state, params, statistics=statistics)[1]

  def update_fn(updates, state, params=None, **extra_args):
    del extra_args
    instrument_state = jax.lax.cond(
      state.is_waiting,
      measure,
      lambda before, gradient, state, params: state,
      *(state.gradient, updates, state.instrument_state, params),
    )
    return updates, BetweenStepsState(
      is_waiting=~state.is_waiting,
      gradient=optax.tree.cast_like(updates, state.gradient),
      instrument_state=instrument_state,
    )

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)
