"""Moving averages of a gradient's noise and signal, apart from each other.

The ratio of two noisy numbers is taken last. Averages that start at zero and
share a decay are short by the same factor, 1 − decay^t, which cancels in it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from adaopt._common import arithmetic, base, checks
from adaopt.criteria import evidence


class NoiseAndSignal(NamedTuple):
  """What a test compares, measured in a step or averaged over steps."""

  noise: jax.Array  # [] float32, per example
  signal: jax.Array  # [] float32, of the gradient without its noise
  floor: jax.Array  # [] float32, what the signal is clamped at from below


def zeros() -> NoiseAndSignal:
  """The averages before the first step."""
  return NoiseAndSignal(*(jnp.zeros([], jnp.float32) for _ in range(3)))


def move(
  averages: NoiseAndSignal,
  measured: NoiseAndSignal,
  decay: jax.typing.ArrayLike,
) -> NoiseAndSignal:
  """decay · average + (1 − decay) · measured, for each part."""
  return jax.tree.map(
    lambda average, x: (decay * average + (1 - decay) * x).astype(
      average.dtype
    ),
    averages,
    measured,
  )


def clamped_signal(averages: NoiseAndSignal) -> jax.Array:
  """The signal, at least as large as its floor. []."""
  return jnp.maximum(averages.signal, averages.floor)


def debiased(
  statistics: base.GradientStatistics, *, floor: jax.typing.ArrayLike, test: str
) -> NoiseAndSignal:
  """v and ‖ḡ‖² − v / b ≈ ‖∇F‖², which is clamped at floor · ‖ḡ‖².

  Args:
    statistics: The statistics, with `variance`.
    floor: The smallest ratio of signal to ‖ḡ‖², in (0, 1].
    test: The name of who asks, for the message.

  Returns:
    What was measured, in which E signal = ‖∇F‖², as E ‖ḡ‖² = ‖∇F‖² + v / b.

  Raises:
    ValueError: If there is no variance, or floor is out of range.
  """
  check_floor(floor)
  v = evidence.total_variance(statistics, test)
  m = arithmetic.squared_norm(statistics.mean)
  noise = arithmetic.divide(v, statistics.batch_size)
  return NoiseAndSignal(v, m - noise, floor * m)


def kept(
  averages: NoiseAndSignal,
  statistics: base.GradientStatistics,
  *,
  decay: jax.typing.ArrayLike,
  floor: jax.typing.ArrayLike,
  test: str,
) -> NoiseAndSignal:
  """The averages of what `debiased` measures, after one step more.

  They stay as they are where the statistics hold no variance, neither of all
  coordinates nor of each, and where they would not be finite.
  """
  if statistics.variance is None and statistics.coordinate_variance is None:
    return averages
  measured = debiased(statistics, floor=floor, test=test)
  moved = move(averages, measured, decay)
  known = ~arithmetic.is_missing(measured.noise) & arithmetic.all_finite(moved)
  return optax.tree.where(known, moved, averages)


def ratio_of_averages(
  measure: Callable[..., NoiseAndSignal], decay: jax.typing.ArrayLike
) -> base.StatefulCriterion:
  """A criterion from measurements: average(noise) / average(signal).

  Args:
    measure: (statistics, **extra_args) → what a step shows.
    decay: In [0, 1); 0 forgets every step but the last.

  Returns:
    A criterion whose state is `NoiseAndSignal`.

  Raises:
    ValueError: If measure is not a function or decay is out of range; from
      update for what measure must not return.
  """
  checks.check_callable('of the statistics', measure=measure)
  checks.check_decays(decay=decay)

  def init(params: Any):
    del params
    return zeros()

  def update(statistics, state, **extra_args):
    measured = measure(statistics, **extra_args)
    if not isinstance(measured, NoiseAndSignal):
      raise ValueError(
        'measure must return criteria.NoiseAndSignal(noise, signal, floor), '
        f'got {measured!r}.'
      )
    state = move(state, measured, decay)
    return evidence.ratio(state.noise, clamped_signal(state)), state

  return base.StatefulCriterion(init, update)


def check_floor(floor: jax.typing.ArrayLike) -> None:
  """Raises ValueError unless the floor is in (0, 1]."""
  checks.check_positive(floor=floor)
  if checks.is_concrete(floor) and not floor <= 1:
    raise ValueError(f'floor must be at most 1, got {floor}.')
