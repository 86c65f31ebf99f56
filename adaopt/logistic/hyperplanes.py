"""Hyperplanes for many labellings of the same examples, in one program."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from adaopt.logistic import methods
from adaopt.logistic import problem as problems


class _Run(NamedTuple):
  """A run in progress, for one labelling."""

  state: methods.State
  mean: jax.Array  # (1/t) Σ θ_s over s = 1 … t, [d]
  best: jax.Array  # θ of the largest margin, [d]
  margin: jax.Array  # that margin; −∞ while θ = 0, []


def _find_one(method, problem, num_features, min_iter, max_iter):
  """`find` for one labelling: θ, [d], whether it separates, and t, []."""

  def seen(state, mean, best, margin):
    # The distance to the hyperplane does not count the intercept.
    norm = jnp.linalg.norm(state.params[:num_features])
    new = problems.min_margin(problem, state.margins) / norm
    better = new > margin  # False for 0/0
    return _Run(
      state=state,
      mean=mean,
      best=jnp.where(better, state.params, best),
      margin=jnp.where(better, new, margin),
    )

  def is_waiting(run):
    t = run.state.count
    return ((run.margin <= 0) | (t < min_iter)) & (t < max_iter)

  def advance(run):
    state = method.step(run.state, problem)
    mean = run.mean + (state.params - run.mean) / state.count
    return seen(state, mean, run.best, run.margin)

  first = method.init(problem)
  worst = jnp.full_like(problem.radius, -jnp.inf)
  run = jax.lax.while_loop(
    is_waiting, advance, seen(first, first.params, first.params, worst)
  )
  separated = run.margin > 0
  params = jnp.where(separated, run.best, run.mean)
  return params, separated, run.state.count


@functools.partial(jax.jit, static_argnames=('make', 'num_features'))
def find(
  make: Callable[..., methods.Method],
  arguments: tuple,
  features: problems.Features,
  labels: jax.Array,
  weights: jax.Array,
  *,
  num_features: int,
  min_iter: jax.typing.ArrayLike,
  max_iter: jax.typing.ArrayLike,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Runs a method on each labelling until it is separated.

  The last iterate of large steps may be far off where classes overlap; their
  mean is not.

  Args:
    make: Arguments → the method.
    arguments: Such as the step size, in a tuple.
    features: a_i, [n, d]; the labellings share them.
    labels: ±1 or {0, 1}, [runs, n].
    weights: How often each example counts, [n].
    num_features: How many of the features count in the norm of a margin, the
      first ones; an intercept does not.
    min_iter: Iterations to make even if the labelling is separated before.
    max_iter: Iterations at most.

  Returns:
    θ of the largest margin or, if none was positive, the mean of all iterates
    but θ_0, [runs, d]; whether one was positive, [runs] bool; and the number of
    iterations, [runs] int32.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt import logistic
    >>> from adaopt.logistic import hyperplanes
    >>> features = jnp.array([[3.0, 4.0], [-3.0, 4.0], [0.0, -9.0]])
    >>> params, separated, iterations = hyperplanes.find(
    ...   logistic.perceptron, (), features, jnp.array([[1, 1, 0], [0, 0, 1]]),
    ...   jnp.ones(3), num_features=2, min_iter=0, max_iter=100)
    >>> print(params.tolist(), separated, iterations)
    [[3.0, 4.0], [-3.0, -4.0]] [ True  True] [1 1]
  """

  def find_one(labels):
    problem = problems.make_problem(features, labels, weights=weights)
    return _find_one(
      make(*arguments), problem, num_features, min_iter, max_iter
    )

  if len(labels) == 1:  # A product with a vector is faster than with a matrix.
    return jax.tree.map(lambda x: x[None], find_one(labels[0]))
  return jax.vmap(find_one)(labels)
