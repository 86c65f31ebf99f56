"""AdaScale: a learning rate that gains from a batch what its noise allows."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from adaopt._common import arithmetic, checks, functions, passing
from adaopt.criteria import averaging


class ScaleByAdascaleState(NamedTuple):
  """State of `scale_by_adascale`."""

  averages: averaging.NoiseAndSignal  # of v and ‖∇F‖²
  gain: jax.Array  # [] float32, r of the last update
  progress: jax.Array  # [] float32, Σ r, before the update to come


def scale_by_adascale(
  *,
  base_batch_size: jax.typing.ArrayLike,
  schedule: optax.Schedule = optax.constant_schedule(1.0),
  decay: jax.typing.ArrayLike = 0.95,
  floor: jax.typing.ArrayLike = 0.01,
  exponent: jax.typing.ArrayLike = 1.0,
) -> optax.GradientTransformationExtraArgs:
  r"""Scales updates by AdaScale's gain, between 1 and b / b_0.

  With S = b / b_0, σ² = ⟨v⟩ / b_0 and μ² = max(⟨‖ḡ‖² − v / b⟩, floor ·
  ⟨‖ḡ‖²⟩), ⟨·⟩ moving averages,

    r = (σ² + μ²) / (σ² / S + μ²),  τ ← τ + r,

  and the factor is r^exponent · schedule(τ), with τ before the update: an
  update makes the progress of r updates with batches of b_0. Noise alone gives
  r = S, and signal alone r = 1; without either, so before the first variance,
  r = 1. With exponent ½ it is the rule of Adam-like methods: noise alone gives
  √S. AdaptDL takes the norms in Adam's metric there; here they are Euclidean.

  An update whose statistics hold no variance, or none that is finite, leaves
  the averages as they are and uses them. With this transform `train_step`
  measures the variance in every step, of at least two examples or groups:
  also between the tests of `adapt_batch_size`, at its largest size, and with
  `schedule_batch_size`. Such a step costs what one with a test costs.

  The paper's own decay depends on S; here it is a constant.

  Args:
    base_batch_size: b_0 > 0, the batch size at which the learning rate is
      right. It need not be the size at which a run starts.
    schedule: From the progress τ, [] float32, to a factor.
    decay: Of the averages, in [0, 1).
    floor: The smallest share of ‖ḡ‖² taken to be signal, in (0, 1].
    exponent: Of the gain in the factor, ≥ 0: 1 for SGD, ½ for Adam. The
      progress is the sum of r whatever it is.

  Returns:
    A transform whose update requires `statistics=`.

  Raises:
    ValueError: If a constant is out of range or schedule is not a function;
      from update without statistics.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> transform = adaopt.scale_by_adascale(base_batch_size=8)
    >>> gradient = jnp.array([3.0, 4.0])
    >>> statistics = adaopt.GradientStatistics(
    ...   jnp.array(32), mean=gradient, variance=jnp.array(160.0))
    >>> state = transform.init(gradient)
    >>> scaled, state = transform.update(
    ...   gradient, state, statistics=statistics)
    >>> print(scaled, state.gain)  # σ² = 20, μ² = 25 − 5: 40 / (5 + 20)
    [4.8 6.4] 1.6

  References:
    Johnson et al., `AdaScale SGD: A User-Friendly Algorithm for Distributed
    Training <https://arxiv.org/abs/2007.05105>`_, 2020

    Qiao et al., `Pollux: Co-adaptive Cluster Scheduling for Goodput-Optimized
    Deep Learning <https://arxiv.org/abs/2008.12260>`_, 2021, and its code,
    AdaptDL (the square root of the gain for Adam)
  """
  checks.check_positive(base_batch_size=base_batch_size)
  checks.check_callable('of the progress', schedule=schedule)
  functions.check_schedule(jnp.float32, schedule=schedule)
  checks.check_decays(decay=decay)
  averaging.check_floor(floor)
  checks.check_not_negative(exponent=exponent)

  def init_fn(params):
    del params
    return ScaleByAdascaleState(
      averaging.zeros(),
      gain=jnp.ones([], jnp.float32),
      progress=jnp.zeros([], jnp.float32),
    )

  def gain(kept, batch_size):
    noise = kept.noise / base_batch_size
    signal = averaging.clamped_signal(kept)
    remaining = noise * (base_batch_size / batch_size) + signal
    r = (noise + signal) / jnp.where(remaining > 0, remaining, 1)
    return jnp.where(remaining > 0, r, 1).astype(jnp.float32)

  def update_fn(updates, state, params=None, **extra_args):
    del params
    batch_size = passing.batch_size_in(extra_args, 'scale_by_adascale')
    kept = averaging.kept(
      state.averages,
      extra_args['statistics'],
      decay=decay,
      floor=floor,
      test='scale_by_adascale',
    )
    r = gain(kept, batch_size)
    factor = r**exponent * schedule(state.progress)
    progress = state.progress + r
    return arithmetic.scale(factor, updates), ScaleByAdascaleState(
      kept, r, progress
    )

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)
