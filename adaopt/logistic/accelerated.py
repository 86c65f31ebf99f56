r"""Accelerated methods: margins within O(1/T²) of the maximum, up to logs.

All are stated for A divided by R = max ‖a_i‖, with softmin(m)_i ∝ w_i e^{−m_i}.
"""

import jax.numpy as jnp

from adaopt.logistic import methods
from adaopt.logistic import problem as problems


def _divided_by_radius(problem, coefficients):
  """Σ c_i A_i / R: the methods below are stated for R ≤ 1."""
  return problems.combination(problem, coefficients) / problem.radius


def dual_momentum() -> methods.Method:
  r"""Gradient descent on the exponential loss with momentum in the dual.

  For A divided by R, with v_0 = g_0 = 0,

    q_t = softmin(A v_t),  g_t = t/(t + 1) (g_{t−1} − Aᵀ q_t),
    v_{t+1} = v_t − (g_t − Aᵀ q_t).

  Its margin is within O(log T / (μ T²)) of μ, for A divided by R.

  Returns:
    The method, whose params are v.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt import logistic
    >>> features = jnp.array([[0.5, -1.0], [-0.5, -1.0]])
    >>> labels, weights = jnp.array([1, -1]), jnp.array([1.0, 999.0])
    >>> found = logistic.solve(
    ...   logistic.dual_momentum(), features, labels,
    ...   weights=weights, max_steps=1000)
    >>> print(found.iterations)
    7

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

  return methods.make_method(
    move, memory=methods.zeros, start=methods.zeros, autonomous=False
  )


def nesterov() -> methods.Method:
  r"""Nesterov's accelerated gradient on the exponential loss, normalised.

  For A divided by R, t = 1, 2, … and w_0 = 0,

    p_t = softmin(A s_t / 4),  s_t = θ_{t−1} + t w_{t−1},
    w_t = w_{t−1} + 2/(t + 1) (Aᵀ p_t − w_{t−1}),  θ_t = θ_{t−1} + t w_t.

  Each step starts at the extrapolated s_t, where Aᵀ softmin is the gradient of
  −log(loss). Its margin is at least μ − (8 log n + 1/4) / (μ t (t + 1)), for A
  divided by R; `bounds.nesterov` has the proof.

  Returns:
    The method.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt import logistic
    >>> features = jnp.array([[0.5, -1.0], [-0.5, -1.0]])
    >>> labels, weights = jnp.array([1, -1]), jnp.array([1.0, 999.0])
    >>> found = logistic.solve(
    ...   logistic.nesterov(), features, labels,
    ...   weights=weights, max_steps=1000)
    >>> print(found.iterations)
    12

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

  return methods.make_method(
    move, memory=methods.zeros, start=methods.zeros, autonomous=False
  )


def smooth_perceptron() -> methods.Method:
  r"""The smooth perceptron: Nesterov's excessive-gap method, smoothed margin.

  For A divided by R, with μ_k = 4 / ((k + 1)(k + 2)) and τ_k = 2 / (k + 3),

    s_k = softmin(A θ_k / μ_k),  q_k = (1 − τ_{k−1}) q_{k−1} + τ_{k−1} s_k,
    θ_{k+1} = (1 − τ_k) (θ_k + τ_k Aᵀ q_k) + τ_k² Aᵀ s_k.

  It starts at the mean, θ_0 = Aᵀ w / n, not at 0.

  Returns:
    The method.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt import logistic
    >>> features = jnp.array([[0.5, -1.0], [-0.5, -1.0]])
    >>> labels, weights = jnp.array([1, -1]), jnp.array([1.0, 999.0])
    >>> found = logistic.solve(
    ...   logistic.smooth_perceptron(), features, labels,
    ...   weights=weights, max_steps=1000)
    >>> print(found.iterations)
    7

  References:
    Soheili and Peña, `A Smooth Perceptron Algorithm
    <https://doi.org/10.1137/110821780>`_, 2012
  """

  def start(problem):
    return _divided_by_radius(problem, problems.mean_weights(problem))

  def move(state, problem):
    k = state.count.astype(state.params.dtype)
    smoothing = 4 / ((k + 1) * (k + 2))
    s = problems.softmin(problem, state.margins / (problem.radius * smoothing))
    q = state.memory + 2 / (k + 2) * (s - state.memory)
    tau = 2 / (k + 3)
    mean = _divided_by_radius(problem, (1 - tau) * q + tau * s)
    return (1 - tau) * state.params + tau * mean, q

  return methods.make_method(
    move,
    memory=lambda problem: jnp.zeros_like(problem.signs),
    start=start,
    autonomous=False,
  )
