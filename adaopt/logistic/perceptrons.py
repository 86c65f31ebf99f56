r"""The perceptron and its batch forms, the large-step limits of descent.

A_i = y_i a_i, w_i is how often example i counts, n = Σ w_i, m_i = ⟨A_i, θ⟩ and
θ_0 = 0. Once every m_i > 0, steps are 0.
"""

import jax.numpy as jnp

from adaopt.logistic import methods
from adaopt.logistic import problem as problems


def _wrong(state, problem):
  """Which examples of positive weight have m_i ≤ 0."""
  return (state.margins <= 0) & (problem.weights > 0)


def perceptron() -> methods.Method:
  r"""The perceptron: θ ← θ + A_i for the first i with m_i ≤ 0.

  The theory allows any such i.

  Returns:
    The method.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt import logistic
    >>> features = jnp.array([[0.5, -1.0], [-0.5, -1.0]])
    >>> labels, weights = jnp.array([1, -1]), jnp.array([1.0, 999.0])
    >>> found = logistic.solve(
    ...   logistic.perceptron(), features, labels,
    ...   weights=weights, max_steps=1000)
    >>> print(found.iterations)
    2

  References:
    Novikoff, On convergence proofs on perceptrons, Symposium on the
    Mathematical Theory of Automata, 1962
  """

  def coefficients(state, problem):
    wrong = _wrong(state, problem)
    first = wrong & (jnp.cumsum(wrong) == 1)
    return first.astype(problem.features.dtype)

  return methods.ascent(coefficients)


def batch_perceptron() -> methods.Method:
  r"""The batch perceptron: θ ← θ + (1/n) Σ_{m_i ≤ 0} w_i A_i.

  At θ_0, examples with m_i = 0 pull by half, which makes this the limit of
  LR+GD: θ_t / γ of `lr_gd(γ)` tends to its θ_t as γ → ∞ if no margin is 0 on
  the way.

  Returns:
    The method.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt import logistic
    >>> features = jnp.array([[0.5, -1.0], [-0.5, -1.0]])
    >>> labels, weights = jnp.array([1, -1]), jnp.array([1.0, 999.0])
    >>> found = logistic.solve(
    ...   logistic.batch_perceptron(), features, labels,
    ...   weights=weights, max_steps=1000)
    >>> print(found.iterations)
    301

  References:
    Tyurin, `From Logistic Regression to the Perceptron Algorithm
    <https://arxiv.org/abs/2412.08424>`_, 2025
  """
  return methods.ascent(
    lambda state, problem: (
      jnp.where((state.count == 0) & (state.margins == 0), 0.5, 1.0)
      * _wrong(state, problem)
      * problems.mean_weights(problem)
    )
  )


def normalized_batch_perceptron() -> methods.Method:
  r"""θ ← θ + the mean of A_i over {i: m_i ≤ 0}, weighted by w_i.

  The limit of Normalized LR+GD: θ_t / γ of `normalized_lr_gd(γ)` tends to its
  θ_t as γ → ∞ if no margin is 0 on the way.

  Returns:
    The method.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt import logistic
    >>> features = jnp.array([[0.5, -1.0], [-0.5, -1.0]])
    >>> labels, weights = jnp.array([1, -1]), jnp.array([1.0, 999.0])
    >>> found = logistic.solve(
    ...   logistic.normalized_batch_perceptron(), features, labels,
    ...   weights=weights, max_steps=1000)
    >>> print(found.iterations)
    2

  References:
    Tyurin, `From Logistic Regression to the Perceptron Algorithm
    <https://arxiv.org/abs/2412.08424>`_, 2025
  """

  def coefficients(state, problem):
    wrong = _wrong(state, problem) * problem.weights
    total = jnp.sum(wrong)
    return wrong / jnp.where(total == 0, 1, total)

  return methods.ascent(coefficients)
