"""The form of every method: an init and a step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from adaopt._common import checks, functions
from adaopt.logistic import problem as problems


class State(NamedTuple):
  """The state of a method."""

  count: jax.Array  # steps done, [] int32
  params: jax.Array  # θ, [d]
  margins: jax.Array  # m_i of θ, [n]
  memory: Any  # any other state of the method, () for most


class Method(NamedTuple):
  """A method as a pair of functions."""

  init: Callable[[problems.Problem], State]
  step: Callable[[State, problems.Problem], State]
  # Whether params and memory alone determine all later ones, so that iterates
  # that return to a state are a cycle.
  autonomous: bool = False


def check_method(method: Method, role: str = 'method must be') -> None:
  """Raises ValueError unless it is a method, and no function that makes one."""
  if isinstance(method, Method):
    checks.check_callable('of the problem', **{'method.init': method.init})
    checks.check_callable(
      '(state, problem) -> state', **{'method.step': method.step}
    )
    return
  name = getattr(method, '__name__', None)
  made = f'call it, as in {name}(…)' if name else 'make one by make_method'
  raise ValueError(
    f'{role} a Method, such as normalized_lr_gd(step_size), got '
    f'{name or type(method).__name__}; {made}.'
  )


Move = Callable[[State, problems.Problem], tuple[jax.Array, Any]]
"""(state, problem) → the next (params, memory)."""


def zeros(problem: problems.Problem) -> jax.Array:
  """0 in the space of θ, of linear scores. [d]."""
  problems.check_linear(problem)
  return jnp.zeros(problem.features.shape[1], problem.features.dtype)


def start(problem: problems.Problem) -> jax.Array:
  """θ_0 of the model, 0 for linear scores. [p]."""
  if problem.model is None:
    return zeros(problem)
  return problem.model.start(problem.features)


def make_method(
  move: Move,
  memory: Callable[[problems.Problem], Any] = lambda problem: (),
  start: Callable[[problems.Problem], jax.Array] = start,
  *,
  autonomous: bool,
) -> Method:
  """Builds a method from its move, its initial memory and θ_0."""

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

  return Method(init, step, autonomous)


def check_step_size(step_size: optax.ScalarOrSchedule) -> None:
  """Raises ValueError unless it is positive and finite, or a schedule."""
  if callable(step_size):
    functions.check_schedule(step_size=step_size)
  else:
    checks.check_positive(step_size=step_size)


def step_size_of(step_size: optax.ScalarOrSchedule, state: State) -> jax.Array:
  """γ of the next step."""
  return step_size(state.count) if callable(step_size) else step_size


def ascent(
  coefficients: Callable[[State, problems.Problem], jax.Array],
  step_size: optax.ScalarOrSchedule = 1.0,
) -> Method:
  """θ ← θ + γ Σ c_i ∇m_i, with c [n] a function of state and problem.

  ∇m_i is A_i for linear scores.
  """

  def move(state, problem):
    c = step_size_of(step_size, state) * coefficients(state, problem)
    # A step size may be wider than the features.
    change = problems.pull(problem, state.params, c.astype(problem.signs.dtype))
    return state.params + change, state.memory

  return make_method(move, autonomous=not callable(step_size))


def averaged(method: Method) -> Method:
  r"""The mean (1/t) Σ_{s ≤ t} θ_s of a method's iterates.

  θ_0 = 0 is excluded, which changes only the length of the mean.

  Args:
    method: The method to average; it continues from its own iterates.

  Returns:
    The method whose params are the mean.

  Raises:
    ValueError: If it is not a method.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt import logistic
    >>> features = jnp.array([[0.5, -1.0], [-0.5, -1.0]])
    >>> labels, weights = jnp.array([1, -1]), jnp.array([1.0, 999.0])
    >>> found = logistic.solve(
    ...   logistic.averaged(logistic.adaptive_gd(100.0)), features, labels,
    ...   weights=weights, max_steps=1000)
    >>> print(found.iterations)
    32
  """
  check_method(method)

  def move(state, problem):
    inner = method.step(state.memory, problem)
    change = (inner.params - state.params) / inner.count
    return state.params + change, inner

  return make_method(move, memory=method.init, autonomous=False)
