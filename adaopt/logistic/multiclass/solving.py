"""Runs a method for k classes until every margin is positive."""

import functools

import jax
import jax.numpy as jnp

from adaopt._common import checks
from adaopt.logistic import problem as two_classes
from adaopt.logistic import solving
from adaopt.logistic.multiclass import methods
from adaopt.logistic.multiclass import problem as problems


def solve(
  method: methods.Method,
  features: two_classes.Features,
  labels: jax.Array,
  *,
  max_steps: jax.typing.ArrayLike,
  weights: jax.Array | None = None,
  num_classes: int | None = None,
) -> solving.Solution:
  """Runs a method until the first solution, an iterate with min m_i > 0.

  m_i is the least of z_{i y_i} − z_ic over c ≠ y_i. To make many runs in one
  program, `jax.vmap` over step sizes. Wrap in `jax.jit` for repeated calls.

  Args:
    method: One of `multiclass`, such as `normalized_lr_gd(step_size)`.
    features: As in `make_problem`.
    labels: As in `make_problem`.
    max_steps: The run ends unsolved after this many updates. May be traced.
    weights: As in `make_problem`.
    num_classes: As in `make_problem`.

  Returns:
    The last W and that of the largest min m_i / ‖W‖, by the Frobenius norm;
    `solved` says whether every m_i > 0.

  Raises:
    ValueError: As in `make_problem`, if the method is not one for k classes, or
      if max_steps is not an integer of at least 0.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt.logistic import multiclass
    >>> found = multiclass.solve(
    ...   multiclass.normalized_lr_gd(1.0), jnp.eye(3) + 0.8, jnp.arange(3),
    ...   weights=jnp.array([1.0, 1.0, 998.0]), max_steps=1000)
    >>> print(found.solved, found.iterations, found.params.shape)
    True 5 (3, 3)
  """
  methods.check_method(method)
  checks.check_integer(0, max_steps=max_steps)
  problem = problems.make_problem(
    features, labels, weights=weights, num_classes=num_classes
  )
  run = solving.start(method, problem)
  return solving.solution(solving.finish(method, problem, run, max_steps))


def _observe(problem, state):
  """Cross-entropy, accuracy, ‖∇‖ of W, and its margin."""
  total = two_classes.total_weight(problem)
  pulls = jnp.exp(problems.log_pulls(problem, state.logits))
  gradient = problems.combination(problem, pulls) / total
  log_probabilities = jax.nn.log_softmax(state.logits, 1)
  losses = -jnp.sum(jnp.where(problem.targets, log_probabilities, 0), 1)
  least = two_classes.min_margin(problem, state.margins)
  return solving.Trajectory(
    loss=jnp.sum(problem.weights * losses) / total,
    accuracy=jnp.sum(problem.weights * (state.margins > 0)) / total,
    gradient_norm=jnp.linalg.norm(gradient),
    margin=least / jnp.linalg.norm(state.params),
  )


def record(
  method: methods.Method,
  features: two_classes.Features,
  labels: jax.Array,
  *,
  num_steps: int,
  weights: jax.Array | None = None,
  num_classes: int | None = None,
) -> tuple[solving.Solution, solving.Trajectory]:
  """Runs a method for a fixed number of updates and records every iterate.

  It continues past the first solution; later iterates may be unsolved again.

  Args:
    method: As in `solve`.
    features: As in `make_problem`.
    labels: As in `make_problem`.
    num_steps: The number of updates.
    weights: As in `make_problem`.
    num_classes: As in `make_problem`.

  Returns:
    The solution, whose `iterations` count until the first one, and the
    trajectory, W_0 first: mean cross-entropy, accuracy, Frobenius norm of its
    gradient, and min m_i / ‖W‖.

  Raises:
    ValueError: As in `solve`, or if num_steps is not an integer of at least 1.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt.logistic import multiclass
    >>> solution, trajectory = multiclass.record(
    ...   multiclass.lr_gd(9.0), jnp.eye(3) + 0.8, jnp.arange(3),
    ...   weights=jnp.array([1.0, 1.0, 2.0]), num_steps=5)
    >>> print(solution.iterations, trajectory.accuracy)
    4 [0.  0.5 0.5 0.5 1.  1. ]
  """
  methods.check_method(method)
  checks.check_integer(1, num_steps=num_steps)
  problem = problems.make_problem(
    features, labels, weights=weights, num_classes=num_classes
  )

  return solving.trace(
    method, problem, functools.partial(_observe, problem), num_steps
  )
