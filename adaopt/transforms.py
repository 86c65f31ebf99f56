"""Gradient transforms: AdaGrad's scalings, and learning rates by examples."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from adaopt import checks, evidence, statistics


class ScaleByAdagradState(NamedTuple):
  """State of `scale_by_adagrad`."""

  sum_of_squares: optax.Updates  # like params, real, float32 or wider


class ScaleByAdagradNormState(NamedTuple):
  """State of `scale_by_adagrad_norm`."""

  sum_of_squares: jax.Array  # [] float32, or float64 where it is enabled


class ScaleByExampleScheduleState(NamedTuple):
  """State of `scale_by_example_schedule`."""

  examples: jax.Array  # [] int32, seen before the update to come


def _divide(updates, denominator):
  """updates / denominator in the dtype of updates, 0 where both are 0."""
  safe = jnp.where(denominator == 0, 1, denominator)
  return (updates / safe).astype(updates.dtype)


def scale(factor: jax.Array, updates: optax.Updates) -> optax.Updates:
  """factor · updates in the dtypes of updates."""
  return jax.tree.map(lambda u: (factor * u).astype(u.dtype), updates)


def _real_dtype(x):
  return jnp.finfo(statistics.accumulator_dtype(x)).dtype


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
    >>> transform = adaopt.scale_by_adagrad()
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
          p, initial_accumulator_value, dtype=_real_dtype(p)
        ),
        params,
      )
    )

  def update_fn(updates, state, params=None):
    del params
    sums = jax.tree.map(
      lambda s, g: s + statistics.abs_sq(g).astype(s.dtype),
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
    >>> transform = adaopt.scale_by_adagrad_norm()
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
    total = state.sum_of_squares + statistics.squared_norm(updates)
    total = total.astype(state.sum_of_squares.dtype)
    denominator = jnp.sqrt(total) + eps
    updates = jax.tree.map(lambda g: _divide(g, denominator), updates)
    return updates, ScaleByAdagradNormState(total)

  return optax.GradientTransformation(init_fn, update_fn)


def scale_by_example_schedule(
  schedule: optax.Schedule,
) -> optax.GradientTransformationExtraArgs:
  """Scales updates by a schedule over the examples seen, not the steps.

  Args:
    schedule: From the number of examples before this update, [] int32, to the
      factor.

  Returns:
    A transform whose update takes `statistics=` for its `batch_size`.

  Raises:
    ValueError: If schedule is no function; from update without statistics.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> import optax
    >>> transform = adaopt.scale_by_example_schedule(
    ...   optax.linear_schedule(1.0, 0.0, transition_steps=100))
    >>> updates = jnp.ones(1)
    >>> statistics = adaopt.GradientStatistics(jnp.array(25), mean=updates)
    >>> state = transform.init(updates)
    >>> for _ in range(3):
    ...   scaled, state = transform.update(
    ...     updates, state, statistics=statistics)
    ...   print(scaled)
    [1.]
    [0.75]
    [0.5]
  """
  checks.check_callable('of the number of examples', schedule=schedule)

  def after(examples, b):
    count = statistics.saturating_add(examples, b)
    return ScaleByExampleScheduleState(count)

  def init_fn(params):
    del params
    return ScaleByExampleScheduleState(jnp.zeros([], jnp.int32))

  def update_fn(updates, state, params=None, *, statistics=None, **extra_args):
    del params, extra_args
    b = evidence.needed_batch_size(statistics, 'scale_by_example_schedule')
    factor = schedule(state.examples)
    return scale(factor, updates), after(state.examples, b)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def scale_by_batch_size(
  init_value: jax.typing.ArrayLike, exponent: jax.typing.ArrayLike = 0.5
) -> optax.GradientTransformationExtraArgs:
  """Scales the learning rate with the batch size: (b / b_0)^exponent.

  Args:
    init_value: b_0, the batch size at which the learning rate is right.
    exponent: 0 for no change, 1/2 for the square-root rule of Adam-like
      methods, 1 for the linear rule of SGD.

  Returns:
    A stateless transform whose update takes `statistics=` for its
    `batch_size`.

  Raises:
    ValueError: If b_0 is not positive or the exponent is negative; from update
      without statistics.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> transform = adaopt.scale_by_batch_size(8, exponent=0.5)
    >>> updates = jnp.ones(1)
    >>> statistics = adaopt.GradientStatistics(jnp.array(32), mean=updates)
    >>> scaled, _ = transform.update(
    ...   updates, transform.init(updates), statistics=statistics)
    >>> print(scaled)
    [2.]
  """
  checks.check_positive(init_value=init_value)
  checks.check_not_negative(exponent=exponent)

  def update_fn(updates, state, params=None, *, statistics=None, **extra_args):
    del params, extra_args
    b = evidence.needed_batch_size(statistics, 'scale_by_batch_size')
    factor = (b / init_value) ** exponent
    return scale(factor, updates), state

  return optax.GradientTransformationExtraArgs(
    lambda params: optax.EmptyState(), update_fn
  )
