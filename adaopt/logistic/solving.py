"""Runs a method until every margin is positive, in one program."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from adaopt._common import checks
from adaopt.logistic import cycles, methods, models
from adaopt.logistic import problem as problems


class Solution(NamedTuple):
  """The result of a run: its last and its best iterate."""

  iterations: jax.Array  # updates until the first solution, else made; [] int32
  solved: jax.Array  # [] bool; False: no iterate had every m_i > 0
  params: jax.Array  # the last θ, [d]
  best_params: jax.Array  # θ of the largest min m_i / ‖θ‖^L, [d]
  best_margin: jax.Array  # that margin; −∞ if every θ was 0, []
  period: jax.Array  # the iterates repeat after as many, 0: not seen; [] int32


class Trajectory(NamedTuple):
  """Measurements of every iterate, θ_0 first. [num_steps + 1] each."""

  loss: jax.Array  # (1/n) Σ w_i log(1 + e^{−m_i})
  accuracy: jax.Array  # the share of w_i with m_i > 0
  gradient_norm: jax.Array  # ‖∇‖ of that loss
  margin: jax.Array  # min m_i / ‖θ‖^L, L = 1 for linear scores; NaN at θ = 0


class Run(NamedTuple):
  """A run in progress."""

  state: methods.State
  solved: jax.Array  # whether this iterate has every m_i > 0, [] bool
  best_params: jax.Array
  best_margin: jax.Array
  watch: cycles.Watch


def _margin(problem, state):
  """min m_i / ‖θ‖^L, NaN at θ = 0."""
  scale = jnp.linalg.norm(state.params)
  if problem.model is not None:
    scale **= problem.model.degree
  return problems.min_margin(problem, state.margins) / scale


def _seen(problem, state, best_params, best_margin, watch):
  """Updates a run with a new iterate."""
  margin = _margin(problem, state)
  better = margin > best_margin
  return Run(
    state=state,
    solved=problems.separates(problem, state.margins),
    best_params=jnp.where(better, state.params, best_params),
    best_margin=jnp.where(better, margin, best_margin),
    watch=watch,
  )


def start(method: methods.Method, problem: problems.Problem) -> Run:
  """A run before its first update."""
  state = method.init(problem)
  worst = jnp.full_like(problem.radius, -jnp.inf)
  watch = cycles.begin(method, state)
  return _seen(problem, state, state.params, worst, watch)


def advance(method: methods.Method, problem: problems.Problem, run: Run) -> Run:
  """A run after one more update."""
  state = method.step(run.state, problem)
  watch = cycles.look(method, run.watch, state)
  return _seen(problem, state, run.best_params, run.best_margin, watch)


def is_waiting(run: Run, max_steps: jax.typing.ArrayLike) -> jax.Array:
  """Whether a run is unsolved, in no cycle, and has steps left."""
  more = (run.watch.period == 0) & (run.state.count < max_steps)
  return ~run.solved & more


def finish(
  method: methods.Method,
  problem: problems.Problem,
  run: Run,
  max_steps: jax.typing.ArrayLike,
) -> Run:
  """Advances a run until it is solved, in a cycle, or out of steps."""
  return jax.lax.while_loop(
    lambda run: is_waiting(run, max_steps),
    lambda run: advance(method, problem, run),
    run,
  )


def solution(run: Run) -> Solution:
  """The solution of a run that has ended."""
  return Solution(
    iterations=run.state.count,
    solved=run.solved,
    params=run.state.params,
    best_params=run.best_params,
    best_margin=run.best_margin,
    period=run.watch.period,
  )


def solve(
  method: methods.Method,
  features: problems.Features,
  labels: jax.Array,
  *,
  max_steps: jax.typing.ArrayLike,
  weights: jax.Array | None = None,
  model: models.Model | None = None,
) -> Solution:
  """Runs a method until the first solution, an iterate with min m_i > 0.

  Where no θ separates the data, iterates may return to an earlier one, bit by
  bit, and repeat for ever: the run ends there, and `period` says after how many
  updates they repeat.

  To make many runs in one program, `jax.vmap` over step sizes, labels or data
  sets padded to one size; all runs then wait for the slowest. `sweep` avoids
  the wait for runs on the same data. Wrap in `jax.jit` for repeated calls.

  Args:
    method: Such as `normalized_lr_gd(step_size)`.
    features: As in `make_problem`.
    labels: As in `make_problem`.
    max_steps: The run ends unsolved after this many updates. May be traced.
    weights: As in `make_problem`.
    model: As in `make_problem`.

  Returns:
    The last and the best iterate; `solved` says whether every m_i > 0.

  Raises:
    ValueError: As in `make_problem`, or if max_steps is not an integer of at
      least 0.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from adaopt import logistic
    >>> features = jnp.array([[0.5, -1.0], [-0.5, -1.0]])
    >>> labels, weights = jnp.array([1, -1]), jnp.array([1.0, 999.0])
    >>> def iterations(step_size):
    ...   return logistic.solve(
    ...     logistic.normalized_lr_gd(step_size), features, labels,
    ...     weights=weights, max_steps=1000).iterations
    >>> print(jax.vmap(iterations)(jnp.array([100.0, 10.0, 1.0, 0.1])))
    [  2   2  16 157]
  """
  methods.check_method(method)
  checks.check_integer(0, max_steps=max_steps)
  problem = problems.make_problem(
    features, labels, weights=weights, model=model
  )
  return solution(finish(method, problem, start(method, problem), max_steps))


def trace(
  method: methods.Method,
  problem: problems.Problem,
  observe: Callable[[methods.State], Trajectory],
  num_steps: int,
) -> tuple[Solution, Trajectory]:
  """`record` with measurements of one's own."""

  def advance_and_observe(run, _):
    run = advance(method, problem, run)
    return run, (run.solved, observe(run.state))

  first = start(method, problem)
  last, rest = jax.lax.scan(advance_and_observe, first, length=num_steps)
  solved, trajectory = jax.tree.map(
    lambda start, rest: jnp.concatenate([start[None], rest]),
    (first.solved, observe(first.state)),
    rest,
  )
  ever = jnp.any(solved)
  iterations = jnp.where(ever, jnp.argmax(solved), num_steps)
  found = solution(last)._replace(
    iterations=iterations.astype(jnp.int32), solved=ever
  )
  return found, trajectory


def record(
  method: methods.Method,
  features: problems.Features,
  labels: jax.Array,
  *,
  num_steps: int,
  weights: jax.Array | None = None,
  model: models.Model | None = None,
) -> tuple[Solution, Trajectory]:
  """Runs a method for a fixed number of updates and records every iterate.

  It continues past the first solution; later iterates may be unsolved again.

  Args:
    method: As in `solve`.
    features: As in `make_problem`.
    labels: As in `make_problem`.
    num_steps: The number of updates.
    weights: As in `make_problem`.
    model: As in `make_problem`.

  Returns:
    The solution, whose `iterations` count until the first one, and the
    trajectory.

  Raises:
    ValueError: As in `make_problem`, or if num_steps is not an integer of at
      least 1.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt import logistic
    >>> features = jnp.array([[1.0, -1.0], [-1.0, -4.0]])
    >>> solution, trajectory = logistic.record(
    ...   logistic.lr_gd(1000.0), features, jnp.array([1, -1]), num_steps=2)
    >>> print(solution.iterations, trajectory.accuracy)
    2 [0.  0.5 1. ]
  """
  methods.check_method(method)
  checks.check_integer(1, num_steps=num_steps)
  problem = problems.make_problem(
    features, labels, weights=weights, model=model
  )
  total = problems.total_weight(problem)

  def observe(state):
    pulls = problem.weights * jax.nn.sigmoid(-state.margins)
    losses = problem.weights * jax.nn.softplus(-state.margins)
    return Trajectory(
      loss=jnp.sum(losses) / total,
      accuracy=jnp.sum(problem.weights * (state.margins > 0)) / total,
      gradient_norm=jnp.linalg.norm(problems.pull(problem, state.params, pulls))
      / total,
      margin=_margin(problem, state),
    )

  return trace(method, problem, observe, num_steps)
