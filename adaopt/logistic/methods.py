r"""The methods: pure functions from state to state, one product each way.

With A_i = y_i a_i, w_i how often example i counts, n = Σ w_i, m_i = ⟨A_i, θ⟩,
p_i = σ(−m_i) and θ_0 = 0. Where a step divides 0 by 0, since no example is
misclassified any more, it is 0.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from adaopt import checks
from adaopt.logistic import problem as problems


class State(NamedTuple):
  """Where a method is."""

  count: jax.Array  # steps done, [] int32
  params: jax.Array  # θ, [d]
  margins: jax.Array  # m_i of θ, [n]
  memory: Any  # what else the method remembers, () for most


class Method(NamedTuple):
  """A method, as the pair of its functions."""

  init: Callable[[problems.Problem], State]
  step: Callable[[State, problems.Problem], State]


Move = Callable[[State, problems.Problem], tuple[jax.Array, Any]]
"""(state, problem) → the next (params, memory)."""


def _zeros(problem):
  return jnp.zeros(problem.features.shape[1], problem.features.dtype)


def _method(
  move: Move,
  memory: Callable[[problems.Problem], Any] = lambda problem: (),
  start: Callable[[problems.Problem], jax.Array] = _zeros,
) -> Method:
  """A method from its move, the first memory and θ_0."""

  def init(problem):
    params = start(problem)
    return State(
      count=jnp.zeros([], jnp.int32),
      params=params,
      margins=problems.margins(problem, params),
      memory=memory(problem),
    )

  def step(state, problem):
    params, memory = move(state, problem)
    return State(
      count=state.count + 1,
      params=params,
      margins=problems.margins(problem, params),
      memory=memory,
    )

  return Method(init, step)


def _ascent(coefficients) -> Method:
  """θ ← θ + Σ c_i A_i, with c [n] a function of state and problem."""

  def move(state, problem):
    change = problems.combination(problem, coefficients(state, problem))
    return state.params + change, state.memory

  return _method(move)


def _mean_weights(problem):
  """w_i / n."""
  return problem.weights / problems.total_weight(problem)


def _wrong(state, problem):
  """Which examples that count have m_i ≤ 0."""
  return (state.margins <= 0) & (problem.weights > 0)


def _residual_shares(state, problem):
  """w_i p_i / Σ w_j p_j, by logarithms: right at any margin."""
  return jax.nn.softmax(
    jnp.log(problem.weights) - jax.nn.softplus(state.margins)
  )


def lr_gd(step_size: jax.typing.ArrayLike) -> Method:
  r"""LR+GD: gradient descent on the log-loss, θ ← θ + (γ/n) Σ w_i p_i A_i.

  Args:
    step_size: γ > 0.

  Returns:
    The method.

  Raises:
    ValueError: If γ is not positive and finite.

  References:
    Tyurin, `From Logistic Regression to the Perceptron Algorithm
    <https://arxiv.org/abs/2412.08424>`_, 2025
  """
  checks.check_positive(step_size=step_size)
  return _ascent(
    lambda state, problem: (
      step_size * _mean_weights(problem) * jax.nn.sigmoid(-state.margins)
    )
  )


def normalized_lr_gd(step_size: jax.typing.ArrayLike) -> Method:
  r"""Normalized LR+GD: θ ← θ + γ Σ w_i p_i A_i / Σ w_i p_i.

  Its weights are softmax(log w_i − softplus(m_i)), which underflow nowhere.

  Args:
    step_size: γ > 0.

  Returns:
    The method.

  Raises:
    ValueError: If γ is not positive and finite.

  References:
    Tyurin, `From Logistic Regression to the Perceptron Algorithm
    <https://arxiv.org/abs/2412.08424>`_, 2025
  """
  checks.check_positive(step_size=step_size)
  return _ascent(
    lambda state, problem: step_size * _residual_shares(state, problem)
  )


def perceptron() -> Method:
  r"""The perceptron: θ ← θ + A_i for the first i with m_i ≤ 0.

  The theory takes any such i.

  Returns:
    The method.

  References:
    Novikoff, On convergence proofs on perceptrons, Symposium on the
    Mathematical Theory of Automata, 1962
  """

  def coefficients(state, problem):
    wrong = _wrong(state, problem)
    first = wrong & (jnp.cumsum(wrong) == 1)
    return first.astype(problem.features.dtype)

  return _ascent(coefficients)


def batch_perceptron() -> Method:
  r"""The batch perceptron: θ ← θ + (1/n) Σ_{m_i ≤ 0} w_i A_i.

  The first step is half as long. That makes it the limit of LR+GD: θ_t / γ of
  `lr_gd(γ)` tends to it as γ → ∞ where no margin on the way is 0.

  Returns:
    The method.

  References:
    Tyurin, `From Logistic Regression to the Perceptron Algorithm
    <https://arxiv.org/abs/2412.08424>`_, 2025
  """
  return _ascent(
    lambda state, problem: (
      jnp.where(state.count == 0, 0.5, 1.0)
      * _wrong(state, problem)
      * _mean_weights(problem)
    )
  )


def normalized_batch_perceptron() -> Method:
  r"""θ ← θ + the mean of A_i over {i: m_i ≤ 0}, weighted by w_i.

  The limit of Normalized LR+GD: θ_t / γ of `normalized_lr_gd(γ)` tends to it
  as γ → ∞ where no margin on the way is 0.

  Returns:
    The method.

  References:
    Tyurin, `From Logistic Regression to the Perceptron Algorithm
    <https://arxiv.org/abs/2412.08424>`_, 2025
  """

  def coefficients(state, problem):
    wrong = _wrong(state, problem) * problem.weights
    total = jnp.sum(wrong)
    return wrong / jnp.where(total == 0, 1, total)

  return _ascent(coefficients)


def normalized_exponential_gd(step_size: jax.typing.ArrayLike) -> Method:
  r"""Normalised GD on the exponential loss: θ ← θ + η Σ softmin(m)_i A_i.

  softmin(m)_i ∝ w_i e^{−m_i}. For R ≤ 1 and η ≤ 1 its margin grows to
  μ − (log n + 1) / (μ η t) and beyond. `averaged` is adaptive-step GD with the
  exponential loss.

  Args:
    step_size: η > 0, divided by no norm of the data.

  Returns:
    The method.

  Raises:
    ValueError: If η is not positive and finite.

  References:
    Ji and Telgarsky, `Characterizing the implicit bias via a primal-dual
    analysis <https://arxiv.org/abs/1906.04540>`_, 2021
  """
  checks.check_positive(step_size=step_size)
  return _ascent(
    lambda state, problem: step_size * problems.softmin(problem, state.margins)
  )


def adaptive_gd(step_size: jax.typing.ArrayLike) -> Method:
  r"""Adaptive-step GD on the log-loss L: θ ← θ − η ∇L / (1 − e^{−L}).

  That is gradient descent on log(e^L − 1), minus the margin at which a single
  example would have the loss L; about η / L times the gradient once L is
  small. The theory is about the mean of the iterates,
  `averaged(adaptive_gd(η))`.

  Args:
    step_size: η > 0.

  Returns:
    The method.

  Raises:
    ValueError: If η is not positive and finite.

  References:
    Zhang et al., `Minimax Optimal Convergence of Gradient Descent in Logistic
    Regression via Large and Adaptive Stepsizes
    <https://arxiv.org/abs/2504.04105>`_, 2025
  """
  checks.check_positive(step_size=step_size)

  def coefficients(state, problem):
    weights = _mean_weights(problem)
    loss = jnp.sum(weights * jax.nn.softplus(-state.margins))
    residual = jnp.sum(weights * jax.nn.sigmoid(-state.margins))
    share = -jnp.expm1(-loss)
    # Both vanish alike: their ratio is 1 where they have underflowed.
    ratio = jnp.where(share == 0, 1, residual / jnp.where(share == 0, 1, share))
    return step_size * ratio * _residual_shares(state, problem)

  return _ascent(coefficients)


def averaged(method: Method) -> Method:
  r"""The mean (1/t) Σ_{s ≤ t} θ_s of a method's iterates.

  θ_0 = 0 is left out, which changes the length of the mean and no more.

  Args:
    method: The method that is averaged; it goes on from its own iterates.

  Returns:
    The method whose params are the mean.
  """

  def move(state, problem):
    inner = method.step(state.memory, problem)
    change = (inner.params - state.params) / inner.count
    return state.params + change, inner

  return _method(move, memory=method.init)


def _divided_by_radius(problem, coefficients):
  """Σ c_i A_i / R: the methods below are stated for R ≤ 1."""
  return problems.combination(problem, coefficients) / problem.radius


def dual_momentum() -> Method:
  r"""Gradient descent on the exponential loss with momentum in the dual.

  For A divided by R, with v_0 = g_0 = 0,

    q_t = softmin(A v_t),  g_t = t/(t + 1) (g_{t−1} − Aᵀ q_t),
    v_{t+1} = v_t − (g_t − Aᵀ q_t).

  Its margin is within O(log T / (μ T²)) of μ, for A divided by R.

  Returns:
    The method, whose params are v.

  References:
    Ji et al., `Fast Margin Maximization via Dual Acceleration
    <https://arxiv.org/abs/2107.00595>`_, 2021
  """

  def move(state, problem):
    t = state.count.astype(state.params.dtype)
    q = problems.softmin(problem, state.margins / problem.radius)
    mean = _divided_by_radius(problem, q)
    g = t / (t + 1) * (state.memory - mean)
    return state.params - (g - mean), g

  return _method(move, memory=_zeros)


def nesterov() -> Method:
  r"""Nesterov's accelerated gradient on the exponential loss, normalised.

  For A divided by R, t = 1, 2, … and w_0 = 0,

    p_t = softmin(A s_t / 4),  s_t = θ_{t−1} + t w_{t−1},
    w_t = w_{t−1} + 2/(t + 1) (Aᵀ p_t − w_{t−1}),  θ_t = θ_{t−1} + t w_t:

  a step from the extrapolated s_t, where Aᵀ softmin is the gradient of minus
  the logarithm of the loss. Its margin is at least μ − (8 log n + 1/4) /
  (μ t (t + 1)), for A divided by R; `bounds.nesterov` has the reason.

  Returns:
    The method.

  References:
    Wang et al., `On Accelerated Perceptrons and Beyond
    <https://arxiv.org/abs/2210.09371>`_, 2023
  """

  def move(state, problem):
    t = (state.count + 1).astype(state.params.dtype)
    ahead = problems.margins(problem, state.params + t * state.memory)
    p = problems.softmin(problem, ahead / (4 * problem.radius))
    mean = _divided_by_radius(problem, p)
    w = state.memory + 2 / (t + 1) * (mean - state.memory)
    return state.params + t * w, w

  return _method(move, memory=_zeros)


def smooth_perceptron() -> Method:
  r"""The smooth perceptron: Nesterov's excessive gap on a smoothed margin.

  For A divided by R, with μ_k = 4 / ((k + 1)(k + 2)) and τ_k = 2 / (k + 3),

    s_k = softmin(A θ_k / μ_k),  q_k = (1 − τ_{k−1}) q_{k−1} + τ_{k−1} s_k,
    θ_{k+1} = (1 − τ_k) (θ_k + τ_k Aᵀ q_k) + τ_k² Aᵀ s_k.

  It starts at the mean, θ_0 = Aᵀ w / n, not at 0.

  Returns:
    The method.

  References:
    Soheili and Peña, `A Smooth Perceptron Algorithm
    <https://doi.org/10.1137/110821780>`_, 2012
  """

  def start(problem):
    return _divided_by_radius(problem, _mean_weights(problem))

  def move(state, problem):
    k = state.count.astype(state.params.dtype)
    smoothing = 4 / ((k + 1) * (k + 2))
    s = problems.softmin(problem, state.margins / (problem.radius * smoothing))
    q = state.memory + 2 / (k + 2) * (s - state.memory)
    tau = 2 / (k + 3)
    mean = _divided_by_radius(problem, (1 - tau) * q + tau * s)
    return (1 - tau) * state.params + tau * mean, q

  return _method(
    move, memory=lambda problem: jnp.zeros_like(problem.signs), start=start
  )
