"""Gradient descent on the log-loss with an ℓ₂ penalty, to its minimiser."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from adaopt._common import checks
from adaopt.logistic import cycles, methods, models
from adaopt.logistic import problem as problems


def regularized_lr_gd(
  step_size: optax.ScalarOrSchedule, penalty: jax.typing.ArrayLike
) -> methods.Method:
  r"""GD on (1/n) Σ w_i log(1 + e^{−m_i}) + (λ/2) ‖θ‖².

  θ ← (1 − γλ) θ + (γ/n) Σ w_i p_i A_i.

  On separable data, and for small λ, a step far above 2/L of the smoothness L,
  at which the objective rises at first, needs about √κ iterations in place of
  κ = L/λ. Beyond some γ, of the order of 1/(λ log(1/λ)) for R = 1 and a fixed
  margin, iterates need not settle: `settle` reports cycles.

  Args:
    step_size: γ > 0, or a schedule over the iterations.
    penalty: λ > 0, with γλ < 2.

  Returns:
    The method.

  Raises:
    ValueError: If γ or λ is not positive and finite, or γλ ≥ 2, where θ grows
      without bound.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt import logistic
    >>> features = jnp.array([[0.5, -1.0], [-0.5, -1.0]])
    >>> for step_size in (1.0, 10.0):  # 289 and 31 iterations
    ...   found = logistic.settle(
    ...     logistic.regularized_lr_gd(step_size, 0.01), features,
    ...     jnp.array([1, -1]), tolerance=1e-5, max_steps=10_000)
    ...   print(found.converged, f'{found.params[0]:.2f}')
    True 4.59
    True 4.59

  References:
    Wu et al., `Large Stepsizes Accelerate Gradient Descent for Regularized
    Logistic Regression <https://arxiv.org/abs/2506.02336>`_, 2025
  """
  methods.check_step_size(step_size)
  checks.check_positive(penalty=penalty)
  concrete = not callable(step_size) and checks.is_concrete(step_size, penalty)
  if concrete and not step_size * penalty < 2:
    raise ValueError(
      f'step_size · penalty must be below 2, got {step_size} · {penalty} = '
      f'{step_size * penalty}: each step would turn and lengthen θ.'
    )

  def move(state, problem):
    size = methods.step_size_of(step_size, state)
    residuals = jax.nn.sigmoid(-state.margins)
    c = size * problems.mean_weights(problem) * residuals
    pulled = problems.pull(problem, state.params, c.astype(problem.signs.dtype))
    kept = ((1 - size * penalty) * state.params).astype(pulled.dtype)
    return kept + pulled, state.memory

  return methods.make_method(move, autonomous=not callable(step_size))


class Settled(NamedTuple):
  """Where the iterates came to rest, or why they did not."""

  iterations: jax.Array  # [] int32
  converged: jax.Array  # [] bool: the last step was at most the tolerance long
  period: jax.Array  # the iterates repeat after as many, 0: not seen; [] int32
  params: jax.Array  # the last θ, [d]
  step_norm: jax.Array  # ‖θ_t − θ_{t−1}‖, []


def settle(
  method: methods.Method,
  features: problems.Features,
  labels: jax.Array,
  *,
  tolerance: jax.typing.ArrayLike,
  max_steps: jax.typing.ArrayLike,
  weights: jax.Array | None = None,
  model: models.Model | None = None,
) -> Settled:
  r"""Runs a method until it rests, ‖θ_t − θ_{t−1}‖ ≤ tolerance.

  For GD with a constant γ that is a gradient of norm tolerance / γ. The run
  also ends where iterates return to an earlier one bit by bit, as large steps
  on data that no θ separates can make them.

  Args:
    method: Such as `regularized_lr_gd(step_size, penalty)`. Steps that shrink
      by a schedule, or those of `averaged`, say nothing about rest.
    features: As in `make_problem`.
    labels: As in `make_problem`.
    tolerance: > 0.
    max_steps: The run ends after this many updates. May be traced.
    weights: As in `make_problem`.
    model: As in `make_problem`.

  Returns:
    The last iterate; `converged` says whether it rests.

  Raises:
    ValueError: As in `solve`, or if the tolerance is not positive.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt import logistic
    >>> features = jnp.array([[1.0], [1.0], [1.0]])
    >>> found = logistic.settle(
    ...   logistic.lr_gd(4.0), features, jnp.array([1, 1, -1]),
    ...   tolerance=1e-6, max_steps=1000)
    >>> print(found.converged, found.params.round(4))  # log 2
    True [0.6931]

  References:
    Meng et al., `Gradient Descent on Logistic Regression: Do Large Step-Sizes
    Work with Data on the Sphere? <https://arxiv.org/abs/2507.11228>`_, 2025
  """
  methods.check_method(method)
  checks.check_positive(tolerance=tolerance)
  checks.check_integer(0, max_steps=max_steps)
  problem = problems.make_problem(
    features, labels, weights=weights, model=model
  )

  def advance(carried):
    state, watch, _ = carried
    moved = method.step(state, problem)
    length = jnp.linalg.norm(moved.params - state.params)
    return moved, cycles.look(method, watch, moved), length

  def is_moving(carried):
    state, watch, length = carried
    more = (state.count < max_steps) & (watch.period == 0)
    return more & ~(length <= tolerance)

  state = method.init(problem)
  state, watch, length = jax.lax.while_loop(
    is_moving,
    advance,
    (
      state,
      cycles.begin(method, state),
      jnp.full_like(problem.radius, jnp.inf),
    ),
  )
  return Settled(
    iterations=state.count,
    converged=length <= tolerance,
    period=watch.period,
    params=state.params,
    step_norm=length,
  )
