"""Seesaw: learning rates and batch sizes that move together."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from adaopt._common import arithmetic, checks, counts, functions
from adaopt.batch_size import adapting, staging

POINTS = 2049
"""At which a schedule is evaluated at once."""

TOLERANCE = 1e-6
"""By which float32 may round a schedule."""

MOST_CUTS = 256


def seesaw(
  learning_rate: jax.typing.ArrayLike,
  init_batch_size: int,
  boundaries: Sequence[int],
  factor: float = 2.0,
) -> tuple[optax.Schedule, optax.Schedule]:
  r"""Seesaw: half of every cut of the learning rate becomes a larger batch.

  Where a schedule would cut the learning rate by a, cut it by √a and multiply
  the batch size by a: with k boundaries passed,

    α = α_0 a^(−k/2),  b = b_0 a^k,

  so that α / √b falls as it would have, in fewer steps.

  Args:
    learning_rate: α_0.
    init_batch_size: b_0.
    boundaries: The numbers of examples from which on each cut holds, rising.
    factor: a > 1, what the learning rate would be cut by at each.

  Returns:
    The learning rate, for `scale_by_example_schedule`, and the batch size, for
    `schedule_batch_size`, which rounds it: functions of the examples seen. A
    function around one takes `turns` beside them, as `stage_schedule` does, and
    passes it on, or no boundary beyond 2³¹ is reached.

  Raises:
    ValueError: If a constant is out of range, or the boundaries do not rise.

  Example:
    >>> import adaopt
    >>> import optax
    >>> learning_rate, batch_size = adaopt.seesaw(
    ...   0.1, 64, boundaries=[1000, 2000], factor=4.0)
    >>> optimizer = optax.chain(
    ...   adaopt.schedule_batch_size(batch_size),
    ...   adaopt.scale_by_example_schedule(learning_rate),
    ...   optax.sgd(1.0))
    >>> for examples in (0, 1000, 2000):
    ...   print(f'{learning_rate(examples):.3f} {batch_size(examples):.0f}')
    0.100 64
    0.050 256
    0.025 1024

  References:
    Meterez et al., `Seesaw: Accelerating Training by Balancing Learning Rate
    and Batch Size Scheduling <https://arxiv.org/abs/2510.14717>`_, 2025
  """
  checks.check_positive(learning_rate=learning_rate)
  checks.check_integer(1, init_batch_size=init_batch_size)
  _check_factor(factor)
  if not np.ndim(boundaries):
    raise ValueError(
      'boundaries must be a sequence of numbers of examples, got '
      f'{boundaries!r}.'
    )
  boundaries = list(boundaries)
  for boundary in boundaries:
    checks.check_integer(1, bits=counts.BITS, boundary=boundary)
  if boundaries != sorted(set(boundaries)):
    raise ValueError(f'boundaries must rise, got {boundaries}.')
  powers = range(len(boundaries) + 1)
  factor = _exact(factor)
  rates = [learning_rate * factor ** (-k / 2) for k in powers]
  sizes = [_size(init_batch_size * factor**k) for k in powers]
  return (
    staging.stages(rates, boundaries),
    staging.stages(sizes, boundaries),
  )


def _check_factor(factor):
  checks.check_positive(factor=factor)
  if not factor > 1:
    raise ValueError(f'factor must be above 1, got {factor}.')


def _exact(factor):
  """A whole factor as an integer, so that sizes beyond float32 are exact."""
  whole = isinstance(factor, float) and factor.is_integer()
  return int(factor) if whole else factor


def _size(value):
  return min(value, arithmetic.LARGEST) if isinstance(value, int) else value


def seesaw_from_schedule(
  schedule: optax.Schedule,
  init_batch_size: int,
  max_batch_size: int,
  *,
  num_examples: int,
  factor: float = 2.0,
) -> tuple[optax.Schedule, optax.Schedule]:
  r"""Seesaw in place of a schedule: a cut wherever it has fallen by a factor.

  The rate follows the schedule s up to its maximum, so that a warm-up is kept.
  From there on k cuts by a have been made where s has come to s_max a^(−k), at
  the same number of examples:

    b = min(b_0 a^k, b_max),  α = s_max a^(−k) √(b / b_0).

  So a cut is that of `seesaw` while the size can grow, one of the whole a when
  it cannot, and α / √b stays within a factor a of s / √b_0. Where s is 0, so
  is α.

  Args:
    schedule: s, a learning rate over the examples seen that is right for b_0,
      such as `optax.warmup_cosine_decay_schedule` whose steps are examples. It
      is evaluated here at 2049 points from first to last of the budget, as
      many from its maximum on, and more around what is sought.
    init_batch_size: b_0.
    max_batch_size: b_max ≥ b_0.
    num_examples: The budget, below 2³¹.
    factor: a > 1.

  Returns:
    The learning rate, for `scale_by_example_schedule`, and the batch size, for
    `schedule_batch_size`, which rounds it: functions of the examples seen.

  Raises:
    ValueError: If a number is out of range, the schedule is not a function,
      not above 0 anywhere, not finite or rises after its maximum, or a factor
      so close to 1 that it makes hundreds of cuts. A rise, or a value that is
      not finite, between two of those points is not seen.

  Example:
    >>> import adaopt
    >>> import optax
    >>> cosine = optax.warmup_cosine_decay_schedule(0.0, 0.1, 100, 1000)
    >>> learning_rate, batch_size = adaopt.batch_size.seesaw_from_schedule(
    ...   cosine, 64, 256, num_examples=1000)
    >>> for n in (50, 100, 550, 700, 805):
    ...   print(f'{cosine(n):.3f} {learning_rate(n):.3f} {batch_size(n)}')
    0.050 0.050 64
    0.100 0.100 64
    0.050 0.071 128
    0.025 0.050 256
    0.011 0.025 256

  References:
    Meterez et al., `Seesaw: Accelerating Training by Balancing Learning Rate
    and Batch Size Scheduling <https://arxiv.org/abs/2510.14717>`_, 2025
  """
  checks.check_callable('of the number of examples', schedule=schedule)
  functions.check_schedule(schedule=schedule)
  adapting.check_bounds(init_batch_size, max_batch_size, 1)
  checks.check_integer(1, num_examples=num_examples)
  _check_factor(factor)
  with jax.transfer_guard('allow'):
    top, boundaries, highest = _cuts(schedule, num_examples, factor)
  factor = _exact(factor)
  sizes = [
    min(init_batch_size * factor**k, max_batch_size)
    for k in range(len(boundaries) + 1)
  ]
  rates = [
    highest * factor**-k * (size / init_batch_size) ** 0.5
    for k, size in enumerate(sizes)
  ]
  falling = staging.stages(rates, boundaries)

  def learning_rate(examples):
    value = schedule(examples)
    falls = counts.reaches(examples, 0, top) & (jnp.asarray(value) > 0)
    return jnp.where(falls, falling(examples), value)

  return learning_rate, staging.stages(sizes, boundaries)


def _cuts(schedule, num_examples, factor):
  """Where the maximum is, where the cuts are, and the maximum."""
  evaluate = jax.jit(jax.vmap(lambda n: jnp.asarray(schedule(n), jnp.float32)))

  def over(low, high):
    points = np.linspace(low, high, POINTS).round().astype(np.int64)
    return points, np.asarray(evaluate(points.astype(np.int32)), np.float64)

  last = num_examples - 1
  top, highest = _maximum(over, last)
  points, values = over(top, last)
  if not highest > 0 or not np.all(np.isfinite(values)):
    raise ValueError(
      'schedule must be finite, and above 0 within num_examples='
      f'{num_examples}, got {highest} at its maximum.'
    )
  rises = np.diff(values) > TOLERANCE * highest
  if np.any(rises):
    raise ValueError(
      'schedule must not rise after its maximum, where the size would have to '
      f'shrink; got {schedule!r}, which rises near n={points[1:][rises][0]}.'
    )
  end = _first_below(over, top, last, 0.0)
  lowest = over(end - 1, end - 1)[1][0]
  ratio = highest / lowest * (1 + TOLERANCE)
  cuts = int(np.log(ratio) / np.log(factor))
  if cuts > MOST_CUTS:
    raise ValueError(
      f'factor={factor} makes {cuts} cuts of the schedule; take a larger one.'
    )
  levels = highest * (1 + TOLERANCE) * float(factor) ** -np.arange(1, cuts + 1)
  return top, [_first_below(over, top, last, x) for x in levels], highest


def _maximum(over, last):
  """Where the first maximum of a schedule with one is, and the maximum."""
  low, high = 0, last
  while True:
    points, values = over(low, high)
    best = int(np.argmax(values))
    if high - low < POINTS:
      return int(points[best]), float(values[best])
    low = int(points[max(best - 1, 0)])
    high = int(points[min(best + 1, POINTS - 1)])


def _first_below(over, low, high, level):
  """The first of low, …, high at which what falls is ≤ level; else high + 1."""
  while True:
    points, values = over(low, high)
    below = np.flatnonzero(values <= level)
    if not below.size:
      return int(high) + 1
    first = below[0]
    if high - low < POINTS:
      return int(points[first])
    low, high = int(points[max(first - 1, 0)]), int(points[first])
