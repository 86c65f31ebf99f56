"""The power scheduler: a learning rate of the batch size and the data seen."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from adaopt._common import arithmetic, checks, counts, passing


class ScaleByPowerScheduleState(NamedTuple):
  """State of `scale_by_power_schedule`."""

  examples: jax.Array  # [] int32, before the update to come, modulo 2³¹
  turns: jax.Array  # [] int32, how often they went round 2³¹


def scale_by_power_schedule(
  *,
  max_learning_rate: jax.typing.ArrayLike,
  tokens_per_example: jax.typing.ArrayLike,
  amplitude: jax.typing.ArrayLike = 4.6,
  exponent: jax.typing.ArrayLike = 0.51,
) -> optax.GradientTransformationExtraArgs:
  r"""Scales updates by a power of the tokens seen, times the batch size.

  With b the examples of a batch and n the tokens before it, the rate is

    η = min(η_max, b a n^(−p)),

  which knows neither the budget nor the batch size beforehand, and follows one
  that adapts. A warm-up and a decay at the end are schedules of optax, as
  factors in `scale_by_example_schedule`.

  The paper's a = 4.6 and p = 0.51 (its b = −0.51) are for language models with
  the maximal update parametrisation, b in sequences and n in tokens; its η_max
  is 0.02.

  Args:
    max_learning_rate: η_max.
    tokens_per_example: The length of a sequence; 1 where examples are what n
      counts, and a and p are fitted to them.
    amplitude: a.
    exponent: p.

  Returns:
    A transform whose update requires `statistics=`, for its `batch_size`.

  Raises:
    ValueError: If a number is not positive; from update without statistics.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> transform = adaopt.transforms.scale_by_power_schedule(
    ...   max_learning_rate=0.02, tokens_per_example=4096)
    >>> updates = jnp.ones(1)
    >>> statistics = adaopt.GradientStatistics(jnp.array(128), mean=updates)
    >>> state = transform.init(updates)
    >>> state = state._replace(examples=jnp.array(250_000))
    >>> scaled, state = transform.update(
    ...   updates, state, statistics=statistics)
    >>> print(scaled)  # 128 · 4.6 · (1.024e9)^−0.51
    [0.0149...]

  References:
    Shen et al., `Power Scheduler: A Batch Size and Token Number Agnostic
    Learning Rate Scheduler <https://arxiv.org/abs/2408.13359>`_, 2024
  """
  checks.check_positive(
    max_learning_rate=max_learning_rate,
    tokens_per_example=tokens_per_example,
    amplitude=amplitude,
    exponent=exponent,
  )

  def init_fn(params):
    del params
    return ScaleByPowerScheduleState(*counts.nothing())

  def update_fn(updates, state, params=None, **extra_args):
    del params
    b = passing.batch_size_in(extra_args, 'scale_by_power_schedule')
    n = counts.in_float(*state) * jnp.asarray(tokens_per_example, jnp.float32)
    power = jnp.where(n > 0, n, 1) ** -jnp.asarray(exponent, jnp.float32)
    rate = jnp.asarray(b, jnp.float32) * amplitude * power
    rate = jnp.minimum(rate, max_learning_rate)
    rate = jnp.where(n > 0, rate, max_learning_rate)
    count = counts.added(state.examples, state.turns, b)
    scaled = arithmetic.scale(rate, updates)
    return scaled, ScaleByPowerScheduleState(*count)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)
