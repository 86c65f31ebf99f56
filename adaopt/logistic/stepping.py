r"""Step sizes that grow while the log-loss falls at every step.

With R = 1, G = (1/n) Σ w_i p_i ≤ L and g = ‖∇L‖ ≤ G: along a step of length γg
no p_i grows by more than e^{γg}, and the second derivative of the log-loss is
below p, so that the loss after it is at most

  L − γ g² + G (e^{γg} − 1 − γg) ≤ L − γ g²/2  if γ G ≤ 3/4,

as h(x) = (e^x − 1 − x)/x² grows with x, γg ≤ γG and 3/4 · h(3/4) < 1/2. Such a
step is stable. After stable steps of
sum Γ, convexity gives L ≤ L(u) + ‖u‖² / (2Γ) for every u; at the u of direction
of the largest margin μ and of length log(κΓ)/μ, κ = μ², it says

  L ≤ (1 + log²(κΓ)/2) / (κΓ)  if κΓ ≥ 1.

A step of 3/4 over this bound, or over log 2, is therefore stable as well, and
needs no look at the loss.
"""

import jax
import jax.numpy as jnp
import optax

from adaopt._common import checks


def _log_sum(margin, radius, count):
  """A lower bound on log(κΓ), w; 0 for the first 1/κ steps."""
  kappa = jnp.square(margin / radius)
  time = jnp.maximum(0.9 * (kappa * count - 1), 0)
  # The root of w³/3 + 2w = time.
  root = 8.0**0.5
  return root * jnp.sinh(jnp.arcsinh(3 * time / (2 * root)) / 3)


def increasing_steps(
  margin: jax.typing.ArrayLike, radius: jax.typing.ArrayLike
) -> optax.Schedule:
  r"""Step sizes for `lr_gd` under which the log-loss never rises.

  With κ = μ²/R² and w_t the root of w³/3 + 2w = 0.9 max(κt − 1, 0),

    γ_t = max(1, 0.9 e^{w_t} / (2 + w_t²)) / R².

  γ_t is 1/R² for some multiple of 1/κ steps and grows as e^{(2.7κt)^{1/3}} in
  the end, up to powers of κt. The loss of θ_t is at most (1 + w²/2) e^{−w}, w =
  w_{t−1}. Below log(2) / n, after O(log³ n / κ) steps, every m_i > 0.

  Proof: w' = 0.9κ / (2 + w²) in t, so 0.9 e^w / (2 + w²) is the derivative of
  F = e^w / κ, and it increases. The sum Γ of the steps before t is thus at
  least F at t − 1 (with R = 1), and F at t is at most e^{0.45} times that, as κ
  ≤ 1. Hence γ_t ≤ 0.9 e^{0.45} κΓ / (2 + log²(κΓ)), where 0.9 e^{0.45} < 3/2: a
  stable step, by the bounds of this module. So is 1, as 3/4 > log 2.

  Args:
    margin: μ > 0 or a lower bound on it, as of `max_margin`.
    radius: R ≥ μ, or an upper bound on it.

  Returns:
    The schedule, count → γ_t.

  Raises:
    ValueError: If a number is not positive and finite, or μ > R.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt import logistic
    >>> schedule = logistic.increasing_steps(margin=0.5, radius=1.0)
    >>> for t in (0, 10, 100, 1000, 10_000):
    ...   print(f'{schedule(t):.4g}')
    1
    1
    2.115
    61.07
    3.669e+05

  References:
    Kale et al., `Exponential Convergence of (Stochastic) Gradient Descent for
    Separable Logistic Regression <https://arxiv.org/abs/2602.18946>`_, 2026
    (the idea of stable growing steps; schedule and proof are this module's own)
  """
  checks.check_positive(margin=margin, radius=radius)
  if checks.is_concrete(margin, radius) and margin > radius:
    raise ValueError(
      f'margin={margin} exceeds radius={radius}, which no data allow; pass '
      'both as max_margin returns them.'
    )

  def schedule(count):
    # No longer than is finite in float32; shorter steps are stable as well.
    w = jnp.minimum(_log_sum(margin, radius, count), 80)
    grown = 0.9 * jnp.exp(w) / (2 + jnp.square(w))
    return jnp.maximum(1, grown) / jnp.square(radius)

  return schedule
