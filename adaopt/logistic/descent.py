r"""Gradient descent with large, normalised and adaptive steps.

A_i = y_i a_i, w_i is how often example i counts, n = Σ w_i, m_i = ⟨A_i, θ⟩,
p_i = σ(−m_i) and θ_0 = 0.
"""

import jax
import jax.numpy as jnp
import optax

from adaopt._common import checks
from adaopt.logistic import losses, methods
from adaopt.logistic import problem as problems


def _least(x):
  """min x_i of x ≥ 0, by comparing bits, which have the same order.

  On CPUs an integer minimum, free of NaN checks, is several times as fast.
  """
  bits = jax.lax.bitcast_convert_type(x, f'int{8 * x.dtype.itemsize}')
  return jax.lax.bitcast_convert_type(jnp.min(bits), x.dtype)


def _residual_shares(state, problem):
  """w_i p_i / Σ w_j p_j, accurate at any margin."""
  m = jnp.where(problem.weights > 0, state.margins, jnp.inf)
  # e^s p_i; the largest is at least 1/2.
  s = _least(jnp.maximum(m, 0))
  pulls = problem.weights / (jnp.exp(-s) + jnp.exp(m - s))
  return pulls / jnp.sum(pulls)


def _check_loss(loss: losses.Loss) -> None:
  """Raises ValueError unless it is a loss, and no function that makes one."""
  if not isinstance(loss, losses.Loss):
    name = getattr(loss, '__name__', type(loss).__name__)
    raise ValueError(
      'loss must be a Loss, such as losses.logistic() or losses.tsallis(2.0), '
      f'got {name}.'
    )
  checks.check_callable('of the margins', **{'loss.value': loss.value})
  checks.check_callable('of the margins', **{'loss.residual': loss.residual})


def gd(loss: losses.Loss, step_size: optax.ScalarOrSchedule) -> methods.Method:
  r"""Gradient descent on (1/n) Σ w_i ℓ(m_i): θ ← θ + (γ/n) Σ w_i r(m_i) A_i.

  Args:
    loss: ℓ and its residual r = −ℓ', one of `losses`.
    step_size: γ > 0, or a schedule over the iterations.

  Returns:
    The method.

  Raises:
    ValueError: If it is not a loss, or γ is not positive and finite.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt import logistic
    >>> features = jnp.array([[0.5, -1.0], [-0.5, -1.0]])
    >>> labels, weights = jnp.array([1, -1]), jnp.array([1.0, 999.0])
    >>> for loss in (logistic.losses.logistic(), logistic.losses.tsallis(2.0)):
    ...   found = logistic.solve(
    ...     logistic.gd(loss, 100.0), features, labels,
    ...     weights=weights, max_steps=1000)
    ...   print(found.iterations)
    308
    303

  References:
    Bao et al., `Any-stepsize Gradient Descent for Separable Data under
    Fenchel–Young Losses <https://arxiv.org/abs/2502.04889>`_, 2025
  """
  _check_loss(loss)
  methods.check_step_size(step_size)
  return methods.ascent(
    lambda state, problem: (
      problems.mean_weights(problem) * loss.residual(state.margins)
    ),
    step_size,
  )


def lr_gd(step_size: optax.ScalarOrSchedule) -> methods.Method:
  r"""LR+GD: gradient descent on the log-loss, θ ← θ + (γ/n) Σ w_i p_i A_i.

  Args:
    step_size: γ > 0, or a schedule over the iterations.

  Returns:
    The method.

  Raises:
    ValueError: If γ is not positive and finite.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt import logistic
    >>> features = jnp.array([[0.5, -1.0], [-0.5, -1.0]])
    >>> labels, weights = jnp.array([1, -1]), jnp.array([1.0, 999.0])
    >>> found = logistic.sweep(
    ...   logistic.lr_gd, jnp.array([10.0, 100.0, 1e4]),
    ...   features, labels, weights=weights, max_steps=1000)
    >>> print(found.iterations)
    [729 308 301]

  References:
    Tyurin, `From Logistic Regression to the Perceptron Algorithm
    <https://arxiv.org/abs/2412.08424>`_, 2025
  """
  return gd(losses.logistic(), step_size)


def normalized_lr_gd(step_size: optax.ScalarOrSchedule) -> methods.Method:
  r"""Normalized LR+GD: θ ← θ + γ Σ w_i p_i A_i / Σ w_i p_i.

  The weights are computed from e^s p_i, s = max(min m_i, 0), to avoid
  underflow.

  Args:
    step_size: γ > 0, or a schedule over the iterations.

  Returns:
    The method.

  Raises:
    ValueError: If γ is not positive and finite.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt import logistic
    >>> features = jnp.array([[0.5, -1.0], [-0.5, -1.0]])
    >>> labels, weights = jnp.array([1, -1]), jnp.array([1.0, 999.0])
    >>> found = logistic.sweep(
    ...   logistic.normalized_lr_gd, jnp.array([1.0, 100.0]),
    ...   features, labels, weights=weights, max_steps=1000)
    >>> print(found.iterations)
    [16  2]

  References:
    Tyurin, `From Logistic Regression to the Perceptron Algorithm
    <https://arxiv.org/abs/2412.08424>`_, 2025
  """
  methods.check_step_size(step_size)
  return methods.ascent(_residual_shares, step_size)


def normalized_exponential_gd(
  step_size: optax.ScalarOrSchedule,
) -> methods.Method:
  r"""Normalised GD on the exponential loss: θ ← θ + η Σ softmin(m)_i A_i.

  softmin(m)_i ∝ w_i e^{−m_i}. For R ≤ 1 and η ≤ 1 its margin is at least
  μ − (log n + 1) / (μ η t). With `averaged`, it is adaptive-step GD on the
  exponential loss.

  Args:
    step_size: η > 0, or a schedule over the iterations; it is not divided by
      any norm of the data.

  Returns:
    The method.

  Raises:
    ValueError: If η is not positive and finite.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt import logistic
    >>> features = jnp.array([[0.5, -1.0], [-0.5, -1.0]])
    >>> labels, weights = jnp.array([1, -1]), jnp.array([1.0, 999.0])
    >>> found = logistic.sweep(
    ...   logistic.normalized_exponential_gd, jnp.array([0.1, 1.0, 100.0]),
    ...   features, labels, weights=weights, max_steps=1000)
    >>> print(found.iterations)
    [139  14   2]

  References:
    Ji and Telgarsky, `Characterizing the implicit bias via a primal-dual
    analysis <https://arxiv.org/abs/1906.04540>`_, 2021
  """
  methods.check_step_size(step_size)
  return methods.ascent(
    lambda state, problem: problems.softmin(problem, state.margins), step_size
  )


def adaptive_gd(step_size: optax.ScalarOrSchedule) -> methods.Method:
  r"""Adaptive-step GD on the log-loss L: θ ← θ − η ∇L / (1 − e^{−L}).

  This is gradient descent on log(e^L − 1), which is −m for the margin m at
  which a single example has loss L. Once L is small, a step is about η / L
  times the gradient. The theory covers the mean of the iterates,
  `averaged(adaptive_gd(η))`.

  Args:
    step_size: η > 0, or a schedule over the iterations.

  Returns:
    The method.

  Raises:
    ValueError: If η is not positive and finite.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt import logistic
    >>> features = jnp.array([[0.5, -1.0], [-0.5, -1.0]])
    >>> labels, weights = jnp.array([1, -1]), jnp.array([1.0, 999.0])
    >>> found = logistic.sweep(
    ...   logistic.adaptive_gd, jnp.array([1.0, 100.0]),
    ...   features, labels, weights=weights, max_steps=1000)
    >>> print(found.iterations)
    [25 25]

  References:
    Zhang et al., `Minimax Optimal Convergence of Gradient Descent in Logistic
    Regression via Large and Adaptive Stepsizes
    <https://arxiv.org/abs/2504.04105>`_, 2025
  """
  methods.check_step_size(step_size)

  def coefficients(state, problem):
    weights = problems.mean_weights(problem)
    loss = jnp.sum(weights * jax.nn.softplus(-state.margins))
    residual = jnp.sum(weights * jax.nn.sigmoid(-state.margins))
    share = -jnp.expm1(-loss)
    # Both tend to 0 at the same rate: the ratio is 1 where they underflow.
    ratio = jnp.where(share == 0, 1, residual / jnp.where(share == 0, 1, share))
    return ratio * _residual_shares(state, problem)

  return methods.ascent(coefficients, step_size)
