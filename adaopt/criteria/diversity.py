"""DiveBatch: batch sizes by the diversity of an epoch's gradients."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from adaopt._common import arithmetic, base, checks
from adaopt.criteria import evidence


class GradientDiversityState(NamedTuple):
  """State of `gradient_diversity`: sums since the epoch began."""

  examples: jax.Array  # [] int32
  squares: jax.Array  # [] float32, Σ ‖g_i‖²
  gradient: optax.Updates  # Σ g_i, like params, float32 or wider


def gradient_diversity(
  delta: jax.typing.ArrayLike, *, num_examples: int, num_epochs: int = 1
) -> base.StatefulCriterion:
  r"""Gradient diversity: how much the gradients of an epoch point apart.

  b ≥ δ n Δ,  Δ = Σ_i ‖g_i‖² / ‖Σ_i g_i‖²,

  once an epoch and over all its examples, each at the parameters of its step.
  A step's Σ ‖g_i‖² is (b − 1) v + b ‖ḡ‖². The batch that completes the epoch
  counts as a whole, and n is the number of examples in the sums. With k epochs
  the sums run over all k, which leaves n Δ, a mean over a mean, to scale.

  A step counts if its test is due, so that `test_interval` has to be 1.

  Args:
    delta: δ > 0.
    num_examples: The number of examples in an epoch.
    num_epochs: k, the number of epochs between two requirements. Until they
      are complete there is no evidence, NaN.

  Returns:
    A criterion that reads `variance`. Its state has a gradient like params.

  Raises:
    ValueError: If δ is not positive and finite or a number is not a positive
      integer; from update for a gradient unlike params.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> criterion = adaopt.criteria.gradient_diversity(0.5, num_examples=16)
    >>> statistics = adaopt.GradientStatistics(
    ...   batch_size=jnp.array(8), mean=jnp.array([3.0, 4.0]),
    ...   variance=jnp.array(100.0))
    >>> state = criterion.init(statistics.mean)
    >>> for _ in range(2):
    ...   required, state = criterion.update(statistics, state)
    ...   print(required)  # Δ = 2 (7 · 100 + 8 · 25) / (16² · 25)
    nan
    2.25

  References:
    Chen et al., `DiveBatch: Accelerating Model Training Through
    Gradient-Diversity Aware Batch Size Adaptation
    <https://arxiv.org/abs/2509.16173>`_, 2025
  """
  checks.check_positive(delta=delta)
  checks.check_integer(1, num_examples=num_examples, num_epochs=num_epochs)
  span = num_epochs * num_examples
  checks.check_integer(1, **{'num_epochs * num_examples': span})

  def init(params):
    return GradientDiversityState(
      examples=jnp.zeros([], jnp.int32),
      squares=jnp.zeros([], jnp.float32),
      gradient=jax.tree.map(
        lambda p: jnp.zeros_like(p, dtype=arithmetic.accumulator_dtype(p)),
        params,
      ),
    )

  def add(statistics, sums):
    v = evidence.total_variance(statistics, 'gradient_diversity')
    m = arithmetic.squared_norm(statistics.mean)
    b = jnp.asarray(statistics.batch_size, m.dtype)
    squares = sums.squares.astype(m.dtype) + (b - 1) * v + b * m
    if jax.tree.structure(statistics.mean) != jax.tree.structure(sums.gradient):
      raise ValueError(
        'gradient_diversity sums up gradients like the params it was '
        'initialised with, and statistics.mean is not like them; keep '
        'adapt_batch_size outside of optax.masked.'
      )
    return GradientDiversityState(
      examples=arithmetic.saturating_add(sums.examples, statistics.batch_size),
      squares=squares.astype(sums.squares.dtype),
      gradient=jax.tree.map(
        lambda total, g: total + b.astype(total.dtype) * g.astype(total.dtype),
        sums.gradient,
        statistics.mean,
      ),
    )

  def update(statistics, state, **extra_args):
    del extra_args
    sums = add(statistics, state)
    complete = sums.examples >= span
    n = sums.examples.astype(sums.squares.dtype)
    length = arithmetic.squared_norm(sums.gradient)
    required = evidence.ratio(
      (delta * n * sums.squares).astype(length.dtype), length
    )
    state = jax.tree.map(lambda x: jnp.where(complete, 0, x), sums)
    return jnp.where(complete, required, arithmetic.missing()), state

  return base.StatefulCriterion(init, update)
