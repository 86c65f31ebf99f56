"""AdaGrad's scalings of the gradient."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from adaopt._common import arithmetic, checks


class ScaleByAdagradState(NamedTuple):
  """State of `scale_by_adagrad`."""

  sum_of_squares: optax.Updates  # like params, real, float32 or wider


class ScaleByAdagradNormState(NamedTuple):
  """State of `scale_by_adagrad_norm`."""

  sum_of_squares: jax.Array  # [] float32, or float64 where it is enabled


def _divide(updates, denominator):
  """updates / denominator in the dtype of updates, 0 where both are 0."""
  safe = jnp.where(denominator == 0, 1, denominator)
  dtype = arithmetic.common_dtype(updates, safe)
  return (updates.astype(dtype) / safe.astype(dtype)).astype(updates.dtype)


def scale_by_adagrad(
  initial_accumulator_value: jax.typing.ArrayLike = 0.0,
  eps: jax.typing.ArrayLike = 1e-10,
  eps_root: jax.typing.ArrayLike = 0.0,
) -> optax.GradientTransformation:
  r"""Divides each coordinate by the root of its sum of squared gradients.

  s_k ← s_k + |g_k|²,  u_k = g_k / (√(s_k + ε_root) + ε), and 0 where that is
  0 / 0. The sums are real and at least float32, also for half-precision
  gradients, whose squares would soon stop adding up.

  Args:
    initial_accumulator_value: s_0 ≥ 0.
    eps: ε ≥ 0, outside the root.
    eps_root: ε_root ≥ 0, inside the root.

  Returns:
    The transform.

  Raises:
    ValueError: If a value is negative or not finite.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> transform = adaopt.transforms.scale_by_adagrad()
    >>> gradient = jnp.array([3.0, -4.0])
    >>> state = transform.init(gradient)
    >>> scaled, state = transform.update(gradient, state)
    >>> print(scaled, state.sum_of_squares)
    [ 1. -1.] [ 9. 16.]

  References:
    Duchi et al., `Adaptive Subgradient Methods for Online Learning and
    Stochastic Optimization <https://jmlr.org/papers/v12/duchi11a.html>`_, 2011
  """
  checks.check_not_negative(
    initial_accumulator_value=initial_accumulator_value,
    eps=eps,
    eps_root=eps_root,
  )

  def init_fn(params):
    return ScaleByAdagradState(
      jax.tree.map(
        lambda p: jnp.full_like(
          p, initial_accumulator_value, dtype=arithmetic.real_dtype(p)
        ),
        params,
      )
    )

  def update_fn(updates, state, params=None):
    del params
    sums = jax.tree.map(
      lambda s, g: s + arithmetic.abs_sq(g).astype(s.dtype),
      state.sum_of_squares,
      updates,
    )
    updates = jax.tree.map(
      lambda g, s: _divide(g, jnp.sqrt(s + eps_root) + eps), updates, sums
    )
    return updates, ScaleByAdagradState(sums)

  return optax.GradientTransformation(init_fn, update_fn)


def scale_by_adagrad_norm(
  initial_accumulator_value: jax.typing.ArrayLike = 0.0,
  eps: jax.typing.ArrayLike = 1e-10,
) -> optax.GradientTransformation:
  r"""Divides by the root of the sum of squared gradient norms.

  b² ← b² + ‖g‖²,  u = g / (b + ε), with one scalar b for all parameters.

  Args:
    initial_accumulator_value: b_0² ≥ 0. The theory has b_0 > 0; with 0 the
      first update is the gradient over its norm.
    eps: ε ≥ 0.

  Returns:
    The transform.

  Raises:
    ValueError: If a value is negative or not finite.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> transform = adaopt.transforms.scale_by_adagrad_norm()
    >>> gradient = jnp.array([3.0, -4.0])
    >>> state = transform.init(gradient)
    >>> scaled, state = transform.update(gradient, state)
    >>> print(scaled, state.sum_of_squares)
    [ 0.6 -0.8] 25.0

  References:
    Ward et al., `AdaGrad stepsizes: Sharp convergence over nonconvex
    landscapes <https://arxiv.org/abs/1806.01811>`_, 2019
  """
  checks.check_not_negative(
    initial_accumulator_value=initial_accumulator_value, eps=eps
  )

  def init_fn(params):
    del params
    return ScaleByAdagradNormState(
      jnp.asarray(initial_accumulator_value, float)
    )

  def update_fn(updates, state, params=None):
    del params
    total = state.sum_of_squares + arithmetic.squared_norm(updates)
    total = total.astype(state.sum_of_squares.dtype)
    denominator = jnp.sqrt(total) + eps
    updates = jax.tree.map(lambda g: _divide(g, denominator), updates)
    return updates, ScaleByAdagradNormState(total)

  return optax.GradientTransformation(init_fn, update_fn)
