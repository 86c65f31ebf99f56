"""The types that estimators, criteria and optimizers pass to each other."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import optax

Batch: TypeAlias = Any
"""A pytree of arrays with a common leading example axis."""

LossFn: TypeAlias = Callable[..., Any]
"""(params, batch) → the mean loss over the batch, or (loss, aux).

In place of the mean it may return a `WeightedLoss`. A parameter named `key` is
passed a random key, one named `model_state` what a model holds beside its
parameters; with it the loss function returns (loss, model_state), or
(loss, (aux, model_state)).
"""


class WeightedLoss(NamedTuple):
  r"""A loss that is a ratio of sums over examples, Σ a_i / Σ w_i.

  The loss of any batch is the ratio over all of its examples, micro-batches and
  devices, however they are split. An example of weight 0 has the total 0 and
  changes nothing.

  Attributes:
    total: Σ a_i over the batch that the loss function is given, such as the
      sum of the losses of its tokens, or of class weights times losses. []
      real.
    weight: Σ w_i over it, such as the number of tokens that are not padding, or
      the sum of the class weights. [] real, ≥ 0. It is data, and has no
      derivative.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> def loss_fn(params, batch):
    ...   errors = (batch['x'] - params) ** 2
    ...   return adaopt.WeightedLoss(
    ...     jnp.sum(batch['mask'] * errors), jnp.sum(batch['mask']))
    >>> batch = {
    ...   'x': jnp.array([[1.0, 2.0], [3.0, 0.0]]),
    ...   'mask': jnp.array([[1, 1], [1, 0]])}
    >>> loss, statistics = adaopt.value_and_statistics(loss_fn)(0.0, batch)
    >>> print(f'{loss:.3f} {statistics.mean:.0f} {statistics.weight:.0f}')
    4.667 -4 3
  """

  total: jax.Array
  weight: jax.typing.ArrayLike


class GradientStatistics(NamedTuple):
  """The mean gradient of a batch and its noise, per example.

  The variances are those of one example's gradient g_i, with the divisor
  b − 1, whether they were estimated from examples or from groups of examples.
  A variance that was not computed is None.

  With a `WeightedLoss` of totals a_i and weights w_i, W = Σ w_i, the mean is
  ḡ = Σ ∇a_i / W, and its noise is that of a ratio, linearised: g_i stands for
  ḡ + u_i, where u_i = (b / W) (∇a_i − w_i ḡ).

  Attributes:
    batch_size: b, the number of examples. [] int32.
    mean: ḡ = (1/b) Σ g_i, the gradient to apply. Like params.
    variance: v of every tensor, Σ_k V_k over its coordinates; together they
      add up to v = tr Cov(g_i). A tree like params of [], float32 or wider.
    coordinate_variance: V_k of every coordinate. Like params, real, float32 or
      wider.
    variance_along_mean: v∥ = Var_i(⟨g_i, ḡ⟩) / ‖ḡ‖². [] float32 or wider.
    weight: W of a `WeightedLoss`, and None for a mean. [] float32 or wider.
    weight_variance: Var_i(ω_i) of the relative weights ω_i = b w_i / W. []
      float32 or wider.
    weight_covariance: Cov_i(ω_i, u_i), which merging micro-batches takes. Like
      params.
    matrix_variance: C = (1/(b − 1)) Σ (G_i − Ḡ) (G_i − Ḡ)ᴴ of every tensor that
      is a matrix, of its transpose if it has more rows than columns: [m, m]
      with the smaller side m. A tree like params with None for other tensors,
      float32 or wider.
  """

  batch_size: jax.Array
  mean: optax.Updates
  variance: optax.Updates | None = None
  coordinate_variance: optax.Updates | None = None
  variance_along_mean: jax.Array | None = None
  weight: jax.Array | None = None
  weight_variance: jax.Array | None = None
  weight_covariance: optax.Updates | None = None
  matrix_variance: optax.Updates | None = None


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
