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

  The variances are those of one example's gradient g_i, with the divisor
  b − 1, whether they were estimated from examples or from groups of examples.
  A variance that was not computed is None.

  Attributes:
    batch_size: b, the number of examples. [] int32.
    mean: ḡ = (1/b) Σ g_i, the gradient to apply. Like params.
    variance: v of every tensor, Σ_k V_k over its coordinates; together they
      add up to v = tr Cov(g_i). A tree like params of [], float32 or wider.
    coordinate_variance: V_k of every coordinate. Like params, real, float32 or
      wider.
    variance_along_mean: v∥ = Var_i(⟨g_i, ḡ⟩) / ‖ḡ‖². [] float32 or wider.
  """

  batch_size: jax.Array
  mean: optax.Updates
  variance: optax.Updates | None = None
  coordinate_variance: optax.Updates | None = None
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


class Policy(NamedTuple):
  """A rule for the next batch size that says when it has to be asked.

  A plain function (current, required) → next is a rule that only grows: what
  it returns is raised to the current size, and at the largest size no test is
  made. A rule that can shrink, or that measures without moving, is declared
  by this type: it is asked at the largest size too.

  Attributes:
    next_size: (current, required) batch size → the next one, before rounding.
    tests_at_max: Whether a test is made at the largest size.
  """

  next_size: Callable[[jax.Array, jax.Array], jax.Array]
  tests_at_max: bool = True
