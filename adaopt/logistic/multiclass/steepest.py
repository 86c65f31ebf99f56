r"""Normalised steepest descent of W in the norm of choice.

With G_t = Σ_{i, c ≠ y_i} w_i p_ic Δ_ic, which is −n ∇L,

  M_t = β M_{t−1} + G_t,  W_{t+1} = W_t + η_t argmax_{‖Δ‖ ≤ 1} ⟨M_t, Δ⟩.
"""

import jax
import jax.numpy as jnp
import optax

from adaopt.logistic import geometry as geometries
from adaopt.logistic import steepest
from adaopt.logistic.multiclass import methods
from adaopt.logistic.multiclass import problem as problems


def _gradient(state, problem):
  """Σ w_i p_ic Δ_ic over Σ w_i p_ic, and the logarithm of that."""
  pulls = problems.log_pulls(problem, state.logits)
  log_size = jax.nn.logsumexp(pulls)
  return problems.combination(problem, jnp.exp(pulls - log_size)), log_size


def _descent(geometry, step_size, momentum):
  """Steepest descent on the cross-entropy in a norm of ℝ^{k×d}."""
  return methods.make_method(
    steepest.make_move(_gradient, geometry, step_size, momentum),
    memory=lambda problem: steepest.at_rest(methods.zeros(problem)),
    autonomous=not callable(step_size),
  )


def sign_descent(
  step_size: optax.ScalarOrSchedule, momentum: jax.typing.ArrayLike = 0.0
) -> methods.Method:
  r"""Steepest descent in the max norm: W ← W + η_t sign(M_t).

  With η_t in proportion to 1/√t, its margin tends to the largest for entries
  in [−1, 1], `max_margin_max`.

  Args:
    step_size: η > 0, or t → η_t for t = 0, 1, …
    momentum: β of M_t = β M_{t−1} − n ∇L, in [0, 1). 0: without.

  Returns:
    The method. Where an entry of M_t is 0, that of W stays.

  Raises:
    ValueError: If η is not positive and finite, a schedule does not return a
      number, or β is not in [0, 1).

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt.logistic import multiclass
    >>> found = multiclass.solve(
    ...   multiclass.sign_descent(lambda t: 1 / jnp.sqrt(t + 1)),
    ...   jnp.eye(3) + 0.8, jnp.arange(3), max_steps=1000)
    >>> print(found.iterations)
    1

  References:
    Fan et al., `Implicit Bias of Spectral Descent and Muon on Multiclass
    Separable Data <https://arxiv.org/abs/2502.04664>`_, 2025
  """
  return _descent(geometries.MAX, step_size, momentum)


def normalized_gd(
  step_size: optax.ScalarOrSchedule, momentum: jax.typing.ArrayLike = 0.0
) -> methods.Method:
  r"""Steepest descent in the Frobenius norm: W ← W + η_t M_t / ‖M_t‖.

  With η_t in proportion to 1/√t, its margin tends to that of `max_margin`.

  Args:
    step_size: As in `sign_descent`.
    momentum: As in `sign_descent`.

  Returns:
    The method. Where M_t = 0, W stays.

  Raises:
    ValueError: As `sign_descent`.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt.logistic import multiclass
    >>> found = multiclass.solve(
    ...   multiclass.normalized_gd(lambda t: 1 / jnp.sqrt(t + 1)),
    ...   jnp.eye(3) + 0.8, jnp.arange(3), max_steps=1000)
    >>> print(found.iterations)
    1

  References:
    Fan et al., `Implicit Bias of Spectral Descent and Muon on Multiclass
    Separable Data <https://arxiv.org/abs/2502.04664>`_, 2025
  """
  return _descent(geometries.EUCLIDEAN, step_size, momentum)


def spectral_descent(
  step_size: optax.ScalarOrSchedule, momentum: jax.typing.ArrayLike = 0.0
) -> methods.Method:
  r"""Steepest descent in the spectral norm: W ← W + η_t U Vᵀ, M_t = U Σ Vᵀ.

  U and V hold the singular vectors of the singular values above 0, to rounding:
  without momentum there are k − 1 at most, since the rows of G_t add up to 0.
  By an SVD in each step, in float32 or wider. With momentum it is Muon, but
  exact.

  With η_t in proportion to 1/√t, its margin tends to that of
  `max_margin_spectral`.

  Args:
    step_size: As in `sign_descent`.
    momentum: As in `sign_descent`.

  Returns:
    The method. Where M_t = 0, W stays.

  Raises:
    ValueError: As `sign_descent`.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt.logistic import multiclass
    >>> found = multiclass.solve(
    ...   multiclass.spectral_descent(lambda t: 1 / jnp.sqrt(t + 1)),
    ...   jnp.eye(3) + 0.8, jnp.arange(3), max_steps=1000)
    >>> print(found.iterations)
    1

  References:
    Fan et al., `Implicit Bias of Spectral Descent and Muon on Multiclass
    Separable Data <https://arxiv.org/abs/2502.04664>`_, 2025
  """
  return _descent(geometries.SPECTRAL, step_size, momentum)
