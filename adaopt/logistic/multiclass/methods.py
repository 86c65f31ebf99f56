"""The form of every method for k classes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from adaopt.logistic import methods
from adaopt.logistic.multiclass import problem as problems


class State(NamedTuple):
  """The state of a method."""

  count: jax.Array  # steps done, [] int32
  params: jax.Array  # W, [k, d]
  margins: jax.Array  # m_i of W, [n]
  logits: jax.Array  # z_ic of W, [n, k]
  memory: Any  # any other state of the method, () for most


class Method(methods.Method):
  """A method for k classes: an init and a step, of `multiclass.Problem`."""


def check_method(method: Method) -> None:
  """Raises ValueError unless it is a method for k classes."""
  methods.check_method(method)
  if not isinstance(method, Method):
    raise ValueError(
      'method must be one for k classes, got a logistic.Method for two: take '
      'that of the same name in logistic.multiclass, or logistic.solve.'
    )


def _check_problem(problem):
  """Raises ValueError unless the problem is one of k classes."""
  if not isinstance(problem, problems.Problem):
    raise ValueError(
      'method must be one for two classes, got a method of multiclass: take '
      'that of the same name in logistic, or multiclass.solve.'
    )


Move = Callable[[State, problems.Problem], tuple[jax.Array, Any]]
"""(state, problem) → the next (params, memory)."""


def zeros(problem: problems.Problem) -> jax.Array:
  """0 in the space of W. [k, d]."""
  shape = problem.targets.shape[1], problem.features.shape[1]
  return jnp.zeros(shape, problem.features.dtype)


def _state(problem, count, params, memory):
  """The state at W."""
  logits = problems.logits(problem, params)
  margins = problems.margins(problem, logits)
  return State(count, params, margins, logits, memory)


def make_method(
  move: Move,
  memory: Callable[[problems.Problem], Any] = lambda problem: (),
  *,
  autonomous: bool,
) -> Method:
  """Builds a method from its move and its initial memory; W_0 = 0."""

  def init(problem):
    _check_problem(problem)
    count = jnp.zeros([], jnp.int32)
    return _state(problem, count, zeros(problem), memory(problem))

  def step(state, problem):
    return _state(problem, state.count + 1, *move(state, problem))

  return Method(init, step, autonomous)


def ascent(
  coefficients: Callable[[State, problems.Problem], jax.Array],
  step_size: optax.ScalarOrSchedule = 1.0,
) -> Method:
  """W ← W + γ Σ q_ic Δ_ic, with q [n, k] a function of state and problem."""

  def move(state, problem):
    length = methods.step_size_of(step_size, state)
    # A step size may be wider than the features.
    q = (length * coefficients(state, problem)).astype(state.params.dtype)
    return state.params + problems.combination(problem, q), state.memory

  return make_method(move, autonomous=not callable(step_size))
