"""Standard errors and intervals of ratios of averages."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from adaopt._common import arithmetic
from adaopt.criteria import evidence
from adaopt.noise import estimating

NUM_ERRORS = 2.0
"""Half the width of an interval, in standard errors: about 95 %."""


class NoiseEstimates(NamedTuple):
  """What `noise_estimates` finds, for all tensors together and for every one.

  NaN, or −1 under jax_debug_nans or jax_debug_infs, is no evidence.
  """

  noise: jax.Array  # [1 + T], ⟨v⟩, per example
  signal: jax.Array  # [1 + T], ⟨‖∇F‖²⟩; below 0 by chance where there is none
  noise_scale: jax.Array  # [1 + T], B; ∞ where the signal is not above 0
  standard_error: jax.Array  # [1 + T], of B; ∞ where B is
  low: jax.Array  # [1 + T], the interval of B, of about 95 %
  high: jax.Array  # [1 + T], ∞ where no signal is among what may be
  effective_steps: jax.Array  # [], 1 / Σ w²


def noise_estimates(state: estimating.NoiseScaleState) -> NoiseEstimates:
  r"""Noise scales, their standard errors and intervals, from a state.

  With n = 1 / Σ w² effective steps, the covariance of (⟨v⟩, ⟨‖∇F‖²⟩) is
  spread / (1 − 1/n): steps are independent, and may differ in their batch size
  and so in how much they vary. What the parameters change counts as noise.

  The standard error of B is that of the delta method. The interval is that of
  Fieller for 1 / B, which has no pole: where it reaches down to 0, the signal
  may be 0 and the interval of B has no upper end.

  Args:
    state: Of `noise_scale`, or of an optimizer that holds one.

  Returns:
    The estimates, also under `jit`.

  Raises:
    ValueError: If there is not exactly one `noise_scale` in the state.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> instrument = adaopt.noise_scale(half_life=100)
    >>> state = instrument.init(jnp.zeros(2))
    >>> for v in (36.0, 44.0):
    ...   statistics = adaopt.GradientStatistics(
    ...     jnp.array(8), mean=jnp.array([3.0, 4.0]), variance=jnp.array(v))
    ...   _, state = instrument.update(
    ...     statistics.mean, state, statistics=statistics)
    >>> print(adaopt.noise.noise_estimates(state).effective_steps.round(2))
    2.0

  References:
    Fieller, `Some Problems in Interval Estimation
    <https://doi.org/10.1111/j.2517-6161.1954.tb00159.x>`_, 1954
  """
  state = estimating.state_in(state)
  v, signal = state.mean[:, 0], state.mean[:, 1]
  several = (state.concentration > 0) & (state.concentration < 1)
  degrees = jnp.where(several, 1 - state.concentration, 1)
  # Relative to v, so that no square leaves the range of float32.
  unit = jnp.where(v > 0, v, 1)
  relative = state.spread / unit[:, None, None] / unit[:, None, None] / degrees
  r = signal / unit
  vv, vs, ss = relative[:, 0, 0], relative[:, 0, 1], relative[:, 1, 1]
  variance = jnp.maximum(ss - 2 * r * vs + jnp.square(r) * vv, 0)
  scale = evidence.ratio(jnp.maximum(v, 0), jnp.maximum(signal, 0))
  squared = jnp.square(jnp.where(signal > 0, scale, 0))
  error = jnp.where(signal > 0, squared * jnp.sqrt(variance), scale)
  low, high = _interval(r, vv, vs, ss, variance)
  known = (v > 0) & ~arithmetic.is_missing(scale)
  missing = arithmetic.missing()
  of_steps = lambda x: arithmetic.returnable(
    jnp.where(several & known, x, missing)
  )
  c = state.concentration
  steps = jnp.where(c > 0, 1 / jnp.where(c > 0, c, 1), 0)
  return NoiseEstimates(
    noise=v,
    signal=signal,
    noise_scale=scale,
    standard_error=of_steps(error),
    low=of_steps(low),
    high=of_steps(high),
    effective_steps=steps,
  )


def _interval(r, vv, vs, ss, variance):
  """The interval of 1 / r; all of (0, ∞) where v may be 0."""
  z = NUM_ERRORS**2
  surplus = 1 - z * vv
  certain = surplus > 0
  determinant = vv * ss - jnp.square(vs)
  root = jnp.sqrt(z * jnp.maximum(variance - z * determinant, 0))
  center = r - z * vs
  divisor = jnp.where(certain, surplus, 1)

  def inverse(x):
    signal = jnp.where(certain, jnp.maximum(x, 0) / divisor, 0)
    return evidence.ratio(jnp.ones_like(signal), signal)

  low, high = inverse(center + root), inverse(center - root)
  return jnp.where(certain, low, 0), high
