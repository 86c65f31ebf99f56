r"""Upper bounds on the iterations until every margin is positive.

Each bound is named after its method and holds in exact arithmetic. Rounded up,
it bounds the count that `solve` returns.

Args:
  n: Σ w_i, for integer w_i. Every bound takes it; some do not depend on it.
  radius: R = max ‖a_i‖.
  margin: μ = max_{‖θ‖=1} min_i ⟨A_i, θ⟩. `max_margin` returns n, R and a
    lower bound on μ.
  step_size: γ or η, if the method has one.

Returns:
  The bound. The arguments may be arrays; they are broadcast.

Raises:
  ValueError: If a number is not positive and finite.

Example:
  >>> from adaopt.logistic import bounds
  >>> hard = dict(n=1000, radius=1.25**0.5, margin=0.5)
  >>> print(bounds.perceptron(**hard), bounds.batch_perceptron(**hard))
  5.0 5000.0
  >>> for step_size in (1.0, 100.0):
  ...   print(f'{bounds.normalized_lr_gd(**hard, step_size=step_size):.1f}')
  65.8
  5.6
"""

import jax
import jax.numpy as jnp

from adaopt._common import checks

Number = jax.typing.ArrayLike


def perceptron(n: Number, radius: Number, margin: Number) -> jax.Array:
  r"""R²/μ², for any n.

  References:
    Novikoff, On convergence proofs on perceptrons, Symposium on the
    Mathematical Theory of Automata, 1962
  """
  checks.check_all_positive(n=n, radius=radius, margin=margin)
  return jnp.square(radius / margin)


def normalized_batch_perceptron(
  n: Number, radius: Number, margin: Number
) -> jax.Array:
  r"""R²/μ², as for the perceptron.

  References:
    Tyurin, `From Logistic Regression to the Perceptron Algorithm
    <https://arxiv.org/abs/2412.08424>`_, 2025
  """
  return perceptron(n, radius, margin)


def batch_perceptron(n: Number, radius: Number, margin: Number) -> jax.Array:
  r"""n R²/μ²; on some data the count grows in proportion to n.

  References:
    Tyurin, `From Logistic Regression to the Perceptron Algorithm
    <https://arxiv.org/abs/2412.08424>`_, 2025
  """
  return n * perceptron(n, radius, margin)


def _log_term(k, margin, step_size):
  """2 log k / (γ μ²)."""
  checks.check_all_positive(step_size=step_size)
  return 2 * jnp.log(k) / (step_size * jnp.square(margin))


def normalized_lr_gd(
  n: Number, radius: Number, margin: Number, step_size: Number
) -> jax.Array:
  r"""R²/μ² + 2 log(2n − 1) / (γ μ²).

  References:
    Tyurin, `From Logistic Regression to the Perceptron Algorithm
    <https://arxiv.org/abs/2412.08424>`_, 2025
  """
  limit = perceptron(n, radius, margin)
  return limit + _log_term(2 * n - 1, margin, step_size)


def lr_gd(
  n: Number, radius: Number, margin: Number, step_size: Number
) -> jax.Array:
  r"""2n (R²/μ² + 2 log(2n − 1) / (γ μ²)).

  Until every margin is positive, some m_i ≤ 0 and so Σ p_i ≥ 1/2: a step of
  LR+GD is one of Normalized LR+GD times a factor between 1/(2n) and 1.
  """
  return normalized_lr_gd(n, radius, margin, step_size) * 2 * n


def normalized_exponential_gd(
  n: Number, radius: Number, margin: Number, step_size: Number
) -> jax.Array:
  r"""R²/μ² + 2 log n / (η μ²), for the last and for the averaged iterate.

  With q = softmin(m), Σ q_i m_i ≤ min m_i + log n ≤ log n until min m_i > 0, so
  ‖θ_t‖² ≤ t (2 η log n + η² R²), while ‖θ_t‖ ≥ t η μ. At the mean of θ_0, …,
  θ_{t−1}, the convex function log((1/n) Σ e^{−m_i}), whose gradients have norm
  at most R, is at most (R² η − μ² η t) / 2. Below −log n, every m_i > 0.
  """
  limit = perceptron(n, radius, margin)
  return limit + _log_term(n, margin, step_size)


def gd(
  n: Number,
  radius: Number,
  margin: Number,
  step_size: Number,
  separation: Number,
) -> jax.Array:
  r"""2n (R² + 2κ/γ) / μ², for the loss of an entropy with κ = φ'(1).

  With G = (1/n) Σ w_i r_i, r_i m_i ≤ κ r_i gives ‖θ‖² ≤ Σ (2γκ G + γ² R² G²) ≤
  (2γκ + γ² R²) Σ G, while ‖θ‖ ≥ γ μ Σ G: so Σ G ≤ (R² + 2κ/γ)/μ². Until every
  margin is positive, some r_i ≥ 1/2 and so G ≥ 1/(2n).

  References:
    Bao et al., `Any-stepsize Gradient Descent for Separable Data under
    Fenchel–Young Losses <https://arxiv.org/abs/2502.04889>`_, 2025: the same
    argument, for the loss
  """
  checks.check_all_positive(step_size=step_size, separation=separation)
  limit = perceptron(n, radius, margin)
  return 2 * n * (limit + 2 * separation / (step_size * jnp.square(margin)))


def nesterov(n: Number, radius: Number, margin: Number) -> jax.Array:
  r"""The t at which t (t + 1) = (8 log n + 1/4) R²/μ².

  θ and p play max_θ min_p pᵀA w − ‖w‖²/2 with weights t: θ plays its best
  response, p exponential weights that predict the next w to equal the last.
  With A divided by R, their regrets sum to less than 4 log n + 1/8, so
  min m_i ≥ μ² t (t + 1) / 2 − (4 log n + 1/8).
  """
  product = perceptron(n, radius, margin) * (8 * jnp.log(n) + 0.25)
  return (jnp.sqrt(1 + 4 * product) - 1) / 2


def smooth_perceptron(n: Number, radius: Number, margin: Number) -> jax.Array:
  r"""The k ≥ 0 at which (k + 1)(k + 2) = 8 log n R²/μ²: about √(8 log n) R/μ.

  With A divided by R, the excessive gap ‖Aᵀq_k‖²/2 ≤ min_q (⟨q, A θ_k⟩ +
  μ_k KL(q ‖ w/n)) − ‖θ_k‖²/2 holds at every k. The left side is at least
  μ²/2 and KL at most log n, so every m_i > 0 once μ_k log n < μ²/2, with
  μ_k = 4 / ((k + 1)(k + 2)).
  """
  product = perceptron(n, radius, margin) * 8 * jnp.log(n)
  return jnp.maximum((jnp.sqrt(1 + 4 * product) - 3) / 2, 0)


__all__ = [
  'batch_perceptron',
  'gd',
  'lr_gd',
  'nesterov',
  'normalized_batch_perceptron',
  'normalized_exponential_gd',
  'normalized_lr_gd',
  'perceptron',
  'smooth_perceptron',
]


def __dir__() -> list[str]:
  return __all__
