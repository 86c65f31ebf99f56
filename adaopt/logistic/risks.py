r"""Upper bounds on the log-loss L(θ) = (1/n) Σ w_i log(1 + e^{−m_i}).

Each holds in exact arithmetic on data that a hyperplane through 0 separates.
With p_i = σ(−m_i) and G = (1/n) Σ w_i p_i, every proof starts from

  ‖∇L‖ ≤ R G,  ⟨−∇L, θ*⟩ ≥ μ G  for the θ* of norm 1 and margin μ.

Args:
  n: Σ w_i, for integer w_i.
  radius: R = max ‖a_i‖.
  margin: μ, or a lower bound on it. `max_margin` returns all three.
  step_size: γ or η.
  num_steps: t, the updates made.

Returns:
  The bound. The arguments may be arrays; they are broadcast.

Raises:
  ValueError: If a number is not positive and finite.

Example:
  >>> from adaopt.logistic import risks
  >>> hard = dict(n=1000, radius=1.25**0.5, margin=0.5, step_size=100.0)
  >>> print(f'{risks.phase_transition(**hard):.0f}')
  11216
  >>> for num_steps in (10_000, 100_000, 1_000_000):
  ...   print(f'{risks.lr_gd(**hard, num_steps=num_steps):.3g}')
  inf
  1.15e-06
  1.04e-07
"""

import math

import jax
import jax.numpy as jnp

from adaopt._common import checks

Number = jax.typing.ArrayLike

_LOG4 = 2 * math.log(2)


def phase_transition(
  n: Number, radius: Number, margin: Number, step_size: Number
) -> jax.Array:
  r"""Iterations of LR+GD until its loss falls for good.

  (R² + 2 log(1/g) / γ) / (g μ²), g = min(1 / (2n), 1 / (4 e log 2 · γ R²)):
  about max(n, γ R²) (R² + log(·)/γ) / μ².

  By p m ≤ p log(1/p) and concavity, (1/n) Σ w_i p_i m_i ≤ G log(1/G). While
  G ≥ g, ‖θ‖² grows by at most 2γ G log(1/g) + γ² R² G a step and ⟨θ, θ*⟩ by at
  least γ μ G, so Σ G ≤ (R² + 2 log(1/g)/γ) / μ²: some G of that many steps is
  below g. There each p_i < 1/2, so that G ≤ L ≤ 2 log 2 · G, and γ R² L ≤
  1/(2e): the curvature along the step is at most e R² L, and L falls from then
  on.

  References:
    Wu et al., `Large Stepsize Gradient Descent for Logistic Loss
    <https://arxiv.org/abs/2402.15926>`_, 2024: the same orders by another proof
  """
  checks.check_all_positive(
    n=n, radius=radius, margin=margin, step_size=step_size
  )
  g = _threshold(n, radius, step_size)
  growth = jnp.square(radius) + 2 * jnp.log(1 / g) / step_size
  return growth / (g * jnp.square(margin))


def _threshold(n, radius, step_size):
  """G below which LR+GD is stable."""
  curvature = 2 * _LOG4 * math.e * step_size * jnp.square(radius)
  return jnp.minimum(1 / (2 * n), 1 / curvature)


def lr_gd(
  n: Number,
  radius: Number,
  margin: Number,
  step_size: Number,
  num_steps: Number,
) -> jax.Array:
  r"""Of the last iterate of LR+GD: about 4 / (γ μ² t), ∞ before it is stable.

  1 / (1/(2 log 2 · g) + 3/4 · γ μ² (t − τ) / (2 log 2)²), τ and g of
  `phase_transition`. From τ on a step lowers L by at least 3/4 · γ ‖∇L‖², and
  ‖∇L‖ ≥ μ G ≥ μ L / (2 log 2). With γ in proportion to T, as large as τ ≤ T/2
  allows, it is O(1/T²).

  References:
    Wu et al., `Large Stepsize Gradient Descent for Logistic Loss
    <https://arxiv.org/abs/2402.15926>`_, 2024: the same orders by another proof
  """
  checks.check_all_positive(num_steps=num_steps)
  unstable = phase_transition(n, radius, margin, step_size)
  first = 1 / (_LOG4 * _threshold(n, radius, step_size))
  rate = 0.75 * step_size * jnp.square(margin / _LOG4)
  after = num_steps - unstable
  return jnp.where(
    after < 0, jnp.inf, 1 / (first + rate * jnp.maximum(after, 0))
  )


def mean_lr_gd(
  n: Number,
  radius: Number,
  margin: Number,
  step_size: Number,
  num_steps: Number,
) -> jax.Array:
  r"""Of the mean of L over the iterates 0, …, t − 1 of LR+GD, for any t.

  log(1 + 1/s) + (log s + γR²/2)² / (2 γ μ² t), s = max(γ μ² t, 1); it does not
  depend on n. With u = (log s + γR²/2) θ*/μ, convexity towards the first part
  of u and ⟨−∇L, θ*⟩ ≥ μ G for the second give ‖θ_t − u‖² ≤ ‖u‖² + 2γ Σ (log(1 +
  1/s) − L).

  References:
    Wu et al., `Large Stepsize Gradient Descent for Logistic Loss
    <https://arxiv.org/abs/2402.15926>`_, 2024: the same orders, with other
    constants
  """
  checks.check_all_positive(
    n=n,
    radius=radius,
    margin=margin,
    step_size=step_size,
    num_steps=num_steps,
  )
  progress = step_size * jnp.square(margin) * num_steps
  s = jnp.maximum(progress, 1)
  reach = jnp.log(s) + step_size * jnp.square(radius) / 2
  return jnp.log1p(1 / s) + jnp.square(reach) / (2 * progress)


def averaged_exponential_gd(
  n: Number,
  radius: Number,
  margin: Number,
  step_size: Number,
  num_steps: Number,
) -> jax.Array:
  r"""Of `averaged(normalized_exponential_gd(η))`, as small as η is large.

  exp(−(η/2) (1 + 1/t) (μ² (t + 1) − R²)): below 1 beyond R²/μ² steps, for any
  n. The convex φ = log((1/n) Σ w_i e^{−m_i}) has gradients of norm at most R,
  ⟨−∇φ, θ*⟩ ≥ μ, and φ(u) ≤ −μ ‖u‖ along θ*. Descent from θ_1 towards the u of
  norm η μ (t + 1) bounds the mean of φ over θ_1, …, θ_t, and L ≤ e^φ.

  References:
    Zhang et al., `Minimax Optimal Convergence of Gradient Descent in Logistic
    Regression via Large and Adaptive Stepsizes
    <https://arxiv.org/abs/2504.04105>`_, 2025
  """
  checks.check_all_positive(
    n=n,
    radius=radius,
    margin=margin,
    step_size=step_size,
    num_steps=num_steps,
  )
  gained = jnp.square(margin) * (num_steps + 1) - jnp.square(radius)
  return jnp.exp(-step_size / 2 * (1 + 1 / num_steps) * gained)


__all__ = [
  'averaged_exponential_gd',
  'lr_gd',
  'mean_lr_gd',
  'phase_transition',
]


def __dir__() -> list[str]:
  return __all__
