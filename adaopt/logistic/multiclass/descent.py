r"""Gradient descent with large and normalised steps, and the perceptrons.

Δ_ic = (e_{y_i} − e_c) h_iᵀ, w_i is how often example i counts, n = Σ w_i,
p_ic = softmax(W h_i)_c and W_0 = 0. The mean cross-entropy has the gradient
−(1/n) Σ_{i, c ≠ y_i} w_i p_ic Δ_ic.

For two classes, W = (θ, −θ)/2 at every step, and θ moves as by the method of
the same name in `logistic` with twice the step size: by W two rows move. After
the first step `batch_perceptron` is an exception at ties.
"""

import jax
import jax.numpy as jnp
import optax

from adaopt.logistic import methods as of_two_classes
from adaopt.logistic import problem as two_classes
from adaopt.logistic.multiclass import methods
from adaopt.logistic.multiclass import problem as problems


def lr_gd(step_size: optax.ScalarOrSchedule) -> methods.Method:
  r"""LR+GD: W ← W + (γ/n) Σ_{c ≠ y_i} w_i p_ic Δ_ic.

  Args:
    step_size: γ > 0, or a schedule over the iterations.

  Returns:
    The method.

  Raises:
    ValueError: If γ is not positive and finite.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt.logistic import multiclass
    >>> features, labels = jnp.eye(3) + 0.8, jnp.arange(3)
    >>> for step_size in (1.0, 10.0, 100.0):
    ...   print(multiclass.solve(
    ...     multiclass.lr_gd(step_size), features, labels,
    ...     weights=jnp.array([1.0, 1.0, 998.0]), max_steps=5000).iterations)
    1742
    289
    281
  """
  of_two_classes.check_step_size(step_size)

  def coefficients(state, problem):
    weights = two_classes.mean_weights(problem)[:, None]
    return weights * jax.nn.softmax(state.logits, 1)

  return methods.ascent(coefficients, step_size)


def normalized_lr_gd(step_size: optax.ScalarOrSchedule) -> methods.Method:
  r"""Normalized LR+GD: W ← W + γ Σ w_i p_ic Δ_ic / Σ w_i p_ic, over c ≠ y_i.

  The gradient is divided by the mean probability of a wrong class. The weights
  are made of logarithms, to avoid underflow.

  Args:
    step_size: γ > 0, or a schedule over the iterations.

  Returns:
    The method.

  Raises:
    ValueError: If γ is not positive and finite.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt.logistic import multiclass
    >>> features, labels = jnp.eye(3) + 0.8, jnp.arange(3)
    >>> for step_size in (1.0, 10.0, 100.0):
    ...   print(multiclass.solve(
    ...     multiclass.normalized_lr_gd(step_size), features, labels,
    ...     weights=jnp.array([1.0, 1.0, 998.0]), max_steps=5000).iterations)
    5
    2
    2

  References:
    Tyurin, `From Logistic Regression to the Perceptron Algorithm
    <https://arxiv.org/abs/2412.08424>`_, 2025: for two classes.
  """
  of_two_classes.check_step_size(step_size)

  def coefficients(state, problem):
    pulls = problems.log_pulls(problem, state.logits)
    return jax.nn.softmax(pulls, (0, 1))

  return methods.ascent(coefficients, step_size)


def perceptron() -> methods.Method:
  r"""The perceptron: W ← W + Δ_ic, the first i with m_i ≤ 0, c its best rival.

  Once every m_i > 0, steps are 0. This is the perceptron of two classes on the
  Δ_ic, ‖Δ_ic‖² = 2 ‖h_i‖²: it takes at most 2 R²/μ² steps, μ of `max_margin`.

  Returns:
    The method.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt.logistic import multiclass
    >>> found = multiclass.solve(
    ...   multiclass.perceptron(), jnp.eye(3) + 0.75, jnp.arange(3),
    ...   max_steps=1000)
    >>> print(found.iterations)
    4

  References:
    Crammer and Singer, `Ultraconservative Online Algorithms for Multiclass
    Problems <https://www.jmlr.org/papers/v3/crammer03a.html>`_, 2003
  """

  def coefficients(state, problem):
    wrong = (state.margins <= 0) & (problem.weights > 0)
    first = wrong & (jnp.cumsum(wrong) == 1)
    rivals = jnp.where(problem.targets, -jnp.inf, state.logits)
    rival = jax.nn.one_hot(jnp.argmax(rivals, 1), rivals.shape[1])
    return first[:, None] * rival

  return methods.ascent(coefficients)


def batch_perceptron() -> methods.Method:
  r"""The batch perceptron: W ← W + (1/n) Σ w_i Δ_ic over the best c ≠ y_i.

  Where several classes are best, y_i perhaps among them, each c has an equal
  share: this is LR+GD with p_ic = 1 / (number of the largest z_ic), the limit
  of softmax. So W_t / γ of `lr_gd(γ)` tends to its W_t as γ → ∞, if after the
  first step no two of the largest logits are equal on the way. Once every
  m_i > 0, steps are 0.

  Returns:
    The method.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt.logistic import multiclass
    >>> found = multiclass.solve(
    ...   multiclass.batch_perceptron(), jnp.eye(3) + 0.8, jnp.arange(3),
    ...   weights=jnp.array([1.0, 1.0, 998.0]), max_steps=5000)
    >>> print(found.iterations)
    281
  """

  def coefficients(state, problem):
    best = state.logits == jnp.max(state.logits, 1, keepdims=True)
    shares = best / jnp.sum(best, 1, keepdims=True)
    return two_classes.mean_weights(problem)[:, None] * shares

  return methods.ascent(coefficients)
