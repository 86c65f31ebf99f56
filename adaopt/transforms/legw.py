"""LEGW: a warm-up that lasts longer the larger the batch is."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from adaopt._common import arithmetic, checks, counts, passing


class ScaleByLegwState(NamedTuple):
  """State of `scale_by_legw`."""

  examples: jax.Array  # [] int32, before the update to come, modulo 2³¹
  turns: jax.Array  # [] int32, how often they went round 2³¹


def scale_by_legw(
  *,
  base_batch_size: jax.typing.ArrayLike,
  warmup_examples: jax.typing.ArrayLike,
) -> optax.GradientTransformationExtraArgs:
  r"""Scales updates by the root of the batch size, with a linear warm-up.

  With k = b / b_0 and n the examples before the update, the factor is

    √k · min(1, n / (k n_0)):

  a batch k times as large takes a rate √k times as large and a warm-up of k
  times as many examples, as many updates. With a size that adapts k is that of
  each batch: within the warm-up the factor is n / (√k n_0), less for a larger
  batch. At n = 0 it is 0, as of optax's schedules with a warm-up.

  Args:
    base_batch_size: b_0 > 0, at which the learning rate is right.
    warmup_examples: n_0 > 0, the warm-up at b_0, such as epochs times the
      examples of one.

  Returns:
    A transform whose update requires `statistics=`, for its `batch_size`.

  Raises:
    ValueError: If a number is not positive; from update without statistics.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> transform = adaopt.transforms.scale_by_legw(
    ...   base_batch_size=8, warmup_examples=16)
    >>> updates = jnp.ones(1)
    >>> statistics = adaopt.GradientStatistics(jnp.array(32), mean=updates)
    >>> state = transform.init(updates)
    >>> for _ in range(4):
    ...   scaled, state = transform.update(
    ...     updates, state, statistics=statistics)
    ...   print(scaled)
    [0.]
    [1.]
    [2.]
    [2.]

  References:
    You et al., `Large-Batch Training for LSTM and Beyond
    <https://arxiv.org/abs/1901.08256>`_, 2019
  """
  checks.check_positive(
    base_batch_size=base_batch_size, warmup_examples=warmup_examples
  )

  def init_fn(params):
    del params
    return ScaleByLegwState(*counts.nothing())

  def update_fn(updates, state, params=None, **extra_args):
    del params
    b = passing.batch_size_in(extra_args, 'scale_by_legw')
    count = counts.added(state.examples, state.turns, b)
    b = jnp.asarray(b, jnp.float32)
    k = jnp.maximum(b, 1) / jnp.asarray(base_batch_size, jnp.float32)
    warmup = k * jnp.asarray(warmup_examples, jnp.float32)
    warmed = counts.in_float(*state) / warmup
    factor = jnp.sqrt(k) * jnp.minimum(1, warmed)
    return arithmetic.scale(factor, updates), ScaleByLegwState(*count)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)
