"""The types that estimators, criteria and optimizers pass to each other."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import optax

Batch: TypeAlias = Any
"""A pytree of arrays with a common leading example axis."""

LossFn: TypeAlias = Callable[[optax.Params, Batch], Any]
"""(params, batch) → the mean loss over the batch, or (loss, aux)."""


class GradientStatistics(NamedTuple):
  """The mean gradient of a batch and its noise, per example.

  Whatever grain the statistics were estimated from, examples or groups of
  them, the variances are those of a single example's gradient g_i, with the
  divisor b − 1.

  Attributes:
    batch_size: b, the number of examples. [] int32.
    mean: ḡ = (1/b) Σ g_i, the gradient to apply. Like params.
    variance: The variances whose sum is v = tr Cov(g_i): one for every
      coordinate (like params) or one for every tensor ([] each), at least
      float32; None where they were not asked for.
    variance_along_mean: v∥ = Var_i(⟨g_i, ḡ⟩) / ‖ḡ‖². [] float32 or wider; None
      where it was not asked for.
  """

  batch_size: jax.Array
  mean: optax.Updates
  variance: optax.Updates | None = None
  variance_along_mean: jax.Array | None = None


Criterion: TypeAlias = Callable[[GradientStatistics], jax.Array]
"""Statistics → the batch size at which a test passes; NaN: no evidence."""


class StatefulCriterion(NamedTuple):
  """A criterion that remembers, or that reads more than the statistics.

  A pair of pure functions in the manner of optax's transforms.

  Attributes:
    init: params → state, a pytree of arrays.
    update: (statistics, state, **extra_args) → (required, state), where
      extra_args are those of the optimizer's update, such as `value=` and
      `opt_state=`. It ignores those that it does not know.
  """

  init: Callable[[optax.Params], Any]
  update: Callable[..., tuple[jax.Array, Any]]


Policy: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]
"""(current, required) batch size → the next one, before rounding."""
