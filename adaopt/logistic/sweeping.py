"""Many runs on the same data, each of its own length.

Runs in a batch share every pass over the data, but a batch lasts as long as its
slowest run. So a batch runs until half of its runs have ended; the other half
continues as a batch of that size, and so on down to one run. This is one
program, and fewer than half of its steps are spent on runs that have ended.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from adaopt._common import checks, functions
from adaopt.logistic import methods, models, solving
from adaopt.logistic import problem as problems


def _count(parameters):
  """The number of runs.

  Raises:
    ValueError: If a leading axis is missing or empty, or if they differ.
  """
  checks.check_arrays(parameters=parameters)
  shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(parameters)]
  counts = {shape[0] if shape else 0 for shape in shapes}
  if len(counts) != 1 or 0 in counts:
    raise ValueError(
      'parameters must be arrays with the same leading axis, one entry per '
      'run, got shapes '
      f'{[list(shape) for shape in shapes]}.'
    )
  return counts.pop()


def _take(tree, indices):
  return jax.tree.map(lambda x: x[indices], tree)


def _put(tree, indices, part):
  return jax.tree.map(lambda x, y: x.at[indices].set(y), tree, part)


def sweep(
  make: Callable[[Any], methods.Method],
  parameters: Any,
  features: problems.Features,
  labels: jax.Array,
  *,
  max_steps: jax.typing.ArrayLike,
  weights: jax.Array | None = None,
  model: models.Model | None = None,
) -> solving.Solution:
  """`solve` for many step sizes at once, or other parameters of a method.

  Each run ends as it would alone, up to rounding, and soon afterwards costs
  nothing. The runs share each read of the features. For several data sets, use
  `jax.lax.map`. Wrap in `jax.jit` for repeated calls.

  Args:
    make: Parameters of one run → its method, such as `lr_gd`.
    parameters: Step sizes, [runs], or a pytree of arrays [runs, ...].
    features: As in `make_problem`; stored twice, as rows and as columns, unless
      there is a model.
    labels: As in `make_problem`.
    max_steps: A run ends unsolved after this many updates. May be traced.
    weights: As in `make_problem`.
    model: As in `make_problem`.

  Returns:
    The solutions, each field with a leading axis, [runs, ...].

  Raises:
    ValueError: As in `make` or `solve`, or if the parameters do not share one
      leading axis.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt import logistic
    >>> features = jnp.array([[0.5, -1.0], [-0.5, -1.0]])
    >>> labels, weights = jnp.array([1, -1]), jnp.array([1.0, 999.0])
    >>> found = logistic.sweep(
    ...   logistic.normalized_lr_gd, jnp.array([100.0, 10.0, 1.0, 0.1]),
    ...   features, labels, weights=weights, max_steps=1000)
    >>> print(found.iterations)
    [  2   2  16 157]
  """
  checks.check_integer(0, max_steps=max_steps)
  checks.check_callable('of the parameters of a run', make=make)
  functions.check_takes(1, make=make)
  size = _count(parameters)
  parameters = jax.tree.map(jnp.asarray, parameters)
  if checks.is_concrete(*jax.tree.leaves(parameters)):
    for i in range(size):
      # Raises what a single run raises.
      methods.check_method(make(_take(parameters, i)), 'make must return')
  alone = problems.make_problem(features, labels, weights=weights, model=model)
  shared = alone
  if model is None:
    shared = alone._replace(columns=alone.features.T)

  def is_waiting(run):
    return solving.is_waiting(run, max_steps)

  def start(parameters):
    return solving.start(make(parameters), shared)

  def step_together(parameters, run):
    waiting = is_waiting(run)
    moved = solving.advance(make(parameters), shared, run)
    return jax.tree.map(lambda a, b: jnp.where(waiting, a, b), moved, run)

  def finish(parameters, runs, size):
    if size == 1:
      method, run = make(_take(parameters, 0)), _take(runs, 0)
      return _put(runs, 0, solving.finish(method, alone, run, max_steps))
    half = (size + 1) // 2
    runs = jax.lax.while_loop(
      lambda runs: jnp.sum(is_waiting(runs)) > half,
      lambda runs: jax.vmap(step_together)(parameters, runs),
      runs,
    )
    last = jnp.argsort(~is_waiting(runs))[:half]
    ended = finish(_take(parameters, last), _take(runs, last), half)
    return _put(runs, last, ended)

  runs = finish(parameters, jax.vmap(start)(parameters), size)
  return jax.vmap(solving.solution)(runs)
