"""Schedules of learning rate and batch size over the examples seen."""

from collections.abc import Sequence

import jax
import optax

from adaopt import checks


def seesaw(
  learning_rate: jax.typing.ArrayLike,
  batch_size: int,
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
    batch_size: b_0.
    boundaries: The numbers of examples from which on each cut holds, rising.
    factor: a > 1, what the learning rate would be cut by at each.

  Returns:
    The learning rate, for `scale_by_example_schedule`, and the batch size, for
    `schedule_batch_size`, which rounds it: functions of the examples seen.

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
  checks.check_positive(learning_rate=learning_rate, factor=factor)
  checks.check_integer(1, batch_size=batch_size)
  if not factor > 1:
    raise ValueError(f'factor must be above 1, got {factor}.')
  boundaries = list(boundaries)
  for boundary in boundaries:
    checks.check_integer(1, boundary=boundary)
  if boundaries != sorted(set(boundaries)):
    raise ValueError(f'boundaries must rise, got {boundaries}.')
  return (
    optax.piecewise_constant_schedule(
      learning_rate, dict.fromkeys(boundaries, factor**-0.5)
    ),
    optax.piecewise_constant_schedule(
      batch_size, dict.fromkeys(boundaries, factor)
    ),
  )
