r"""Normalised steepest descent: steps of a given length in the norm of choice.

A_i = y_i a_i, w_i is how often example i counts, n = Σ w_i, m_i = ⟨A_i, θ⟩,
p_i = σ(−m_i) and θ_0 = 0. With G_t = Σ w_i p_i A_i, which is −n ∇L,

  M_t = β M_{t−1} + G_t,  θ_{t+1} = θ_t + η_t argmax_{‖Δ‖ ≤ 1} ⟨M_t, Δ⟩.

The direction does not depend on the length of M_t, so that M_t and the loss may
be as small as they like: both are kept by their logarithms.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from adaopt._common import checks
from adaopt.logistic import geometry as geometries
from adaopt.logistic import methods
from adaopt.logistic import problem as problems


class Momentum(NamedTuple):
  """M = e^log_scale · scaled."""

  scaled: jax.Array  # like the parameters
  log_scale: jax.Array  # −∞ at the start, []


def at_rest(params: jax.Array) -> Momentum:
  """M = 0."""
  return Momentum(jnp.zeros_like(params), jnp.full([], -jnp.inf, params.dtype))


def make_move(
  gradient: Callable[[Any, Any], tuple[jax.Array, jax.Array]],
  geometry: geometries.Geometry,
  step_size: optax.ScalarOrSchedule,
  momentum: jax.typing.ArrayLike,
) -> methods.Move:
  """The move of steepest descent in a norm, whose memory is a `Momentum`.

  Args:
    gradient: (state, problem) → G / e^s, and s.
    geometry: The norm.
    step_size: η or t → η_t.
    momentum: β.

  Returns:
    The move.

  Raises:
    ValueError: If η is not positive and finite, a schedule does not return a
      number, or β is not in [0, 1).
  """
  methods.check_step_size(step_size)
  checks.check_decays(momentum=momentum)

  def move(state, problem):
    scaled, log_size = gradient(state, problem)
    dtype = scaled.dtype
    past = state.memory.log_scale + jnp.log(jnp.asarray(momentum, dtype))
    log_scale = jnp.maximum(past, log_size)
    total = (
      jnp.exp(past - log_scale) * state.memory.scaled
      + jnp.exp(log_size - log_scale) * scaled
    )
    length = jnp.asarray(methods.step_size_of(step_size, state), dtype)
    params = state.params + length * geometry.direction(total)
    return params, Momentum(total, log_scale)

  return move


def _gradient(state, problem):
  """Σ w_i p_i A_i over Σ w_i p_i, and the logarithm of that."""
  log_pulls = jnp.log(problem.weights) - jax.nn.softplus(state.margins)
  log_size = jax.nn.logsumexp(log_pulls)
  shares = jnp.exp(log_pulls - log_size)
  return problems.pull(problem, state.params, shares), log_size


def _descent(geometry, step_size, momentum):
  """Steepest descent on the log-loss in a norm of ℝ^d."""
  return methods.make_method(
    make_move(_gradient, geometry, step_size, momentum),
    memory=lambda problem: at_rest(methods.start(problem)),
    autonomous=not callable(step_size),
  )


def sign_descent(
  step_size: optax.ScalarOrSchedule, momentum: jax.typing.ArrayLike = 0.0
) -> methods.Method:
  r"""Steepest descent in the max norm: θ ← θ + η_t sign(M_t).

  With η_t in proportion to 1/√t, its margin tends to the largest over the cube,
  `max_margin_linf`.

  Args:
    step_size: η > 0, or t → η_t for t = 0, 1, …
    momentum: β of M_t = β M_{t−1} − n ∇L, in [0, 1). 0: without.

  Returns:
    The method. Where an entry of M_t is 0, that of θ stays.

  Raises:
    ValueError: If η is not positive and finite, a schedule does not return a
      number, or β is not in [0, 1).

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt import logistic
    >>> features = jnp.array([[0.5, -1.0], [-0.5, -1.0]])
    >>> labels, weights = jnp.array([1, -1]), jnp.array([1.0, 999.0])
    >>> found = logistic.solve(
    ...   logistic.sign_descent(lambda t: 1 / jnp.sqrt(t + 1)),
    ...   features, labels, weights=weights, max_steps=1000)
    >>> print(found.iterations)
    19

  References:
    Fan et al., `Implicit Bias of Spectral Descent and Muon on Multiclass
    Separable Data <https://arxiv.org/abs/2502.04664>`_, 2025
  """
  return _descent(geometries.MAX, step_size, momentum)


def coordinate_descent(
  step_size: optax.ScalarOrSchedule, momentum: jax.typing.ArrayLike = 0.0
) -> methods.Method:
  r"""Steepest descent in the sum norm: the largest entry of M_t moves by η_t.

  This is boosting, with every feature a weak learner. With η_t in proportion to
  1/√t, its margin tends to the largest for ‖θ‖_1 ≤ 1, `max_margin_l1`.

  Args:
    step_size: As in `sign_descent`.
    momentum: As in `sign_descent`.

  Returns:
    The method. Of equal entries the first moves.

  Raises:
    ValueError: As `sign_descent`.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt import logistic
    >>> features = jnp.array([[0.5, -1.0], [-0.5, -1.0]])
    >>> labels, weights = jnp.array([1, -1]), jnp.array([1.0, 999.0])
    >>> found = logistic.solve(
    ...   logistic.coordinate_descent(lambda t: 1 / jnp.sqrt(t + 1)),
    ...   features, labels, weights=weights, max_steps=1000)
    >>> print(found.iterations)
    77

  References:
    Telgarsky, `Margins, Shrinkage, and Boosting
    <https://arxiv.org/abs/1303.4172>`_, 2013
  """
  return _descent(geometries.SUM, step_size, momentum)


def normalized_gd(
  step_size: optax.ScalarOrSchedule, momentum: jax.typing.ArrayLike = 0.0
) -> methods.Method:
  r"""Steepest descent in the Euclidean norm: θ ← θ + η_t M_t / ‖M_t‖.

  With η_t in proportion to 1/√t, its margin tends to that of `max_margin`.
  `normalized_lr_gd` divides by Σ w_i p_i in place of the norm, and so its steps
  are between γ μ and γ R.

  Args:
    step_size: As in `sign_descent`.
    momentum: As in `sign_descent`.

  Returns:
    The method. Where M_t = 0, θ stays.

  Raises:
    ValueError: As `sign_descent`.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt import logistic
    >>> features = jnp.array([[0.5, -1.0], [-0.5, -1.0]])
    >>> labels, weights = jnp.array([1, -1]), jnp.array([1.0, 999.0])
    >>> found = logistic.solve(
    ...   logistic.normalized_gd(lambda t: 1 / jnp.sqrt(t + 1)),
    ...   features, labels, weights=weights, max_steps=1000)
    >>> print(found.iterations)
    38

  References:
    Fan et al., `Implicit Bias of Spectral Descent and Muon on Multiclass
    Separable Data <https://arxiv.org/abs/2502.04664>`_, 2025
  """
  return _descent(geometries.EUCLIDEAN, step_size, momentum)
