"""Methods on random batches of the examples."""

import jax
import jax.numpy as jnp

from adaopt._common import arithmetic, calls, checks
from adaopt.logistic import methods


def draw(key: jax.Array, weights: jax.Array, batch_size: int) -> jax.Array:
  """How often each example is among `batch_size` draws ∝ w_i. [n]."""
  dtype = arithmetic.accumulator_dtype(weights)
  ends = jnp.cumsum(weights, dtype=dtype)
  points = ends[-1] * jax.random.uniform(key, [batch_size], dtype)
  drawn = jnp.searchsorted(ends, points, side='right')
  last = jnp.max(jnp.where(weights > 0, jnp.arange(len(weights)), 0))
  counts = jnp.zeros(len(weights), jnp.int32)
  counts = counts.at[jnp.minimum(drawn, last)].add(1)
  return counts.astype(weights.dtype)


def sampled(
  method: methods.Method, batch_size: int, key: jax.Array
) -> methods.Method:
  r"""A method on a new random batch at every step: LR+GD becomes LR+SGD.

  The b examples are drawn independently, with probabilities ∝ w_i: the step
  sees how often each was drawn in place of w_i. All margins are known at every
  iterate, since `solve` stops by them; an iteration therefore costs as much as
  of the whole data, and what is saved is counted, not timed.

  Args:
    method: Such as `lr_gd(step_size)`.
    batch_size: b ≥ 1.
    key: Draws the batches.

  Returns:
    The method.

  Raises:
    ValueError: If it is not a method, or b is not an integer of at least 1.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from adaopt import logistic
    >>> features = jnp.array([[0.5, -1.0], [-0.5, -1.0]])
    >>> labels, weights = jnp.array([1, -1]), jnp.array([1.0, 9.0])
    >>> method = logistic.sampled(logistic.lr_gd(10.0), 4, jax.random.key(0))
    >>> found = logistic.solve(
    ...   method, features, labels, weights=weights, max_steps=1000)
    >>> print(found.solved)
    True
  """
  methods.check_method(method)
  checks.check_integer(1, batch_size=batch_size)
  calls.check_key(key)

  def init(problem):
    inner = method.init(problem)
    return inner._replace(memory=(inner.memory, key))

  def step(state, problem):
    memory, last = state.memory
    now, following = jax.random.split(last)
    counts = draw(now, problem.weights, batch_size)
    batch = problem._replace(weights=counts)
    inner = method.step(state._replace(memory=memory), batch)
    return inner._replace(memory=(inner.memory, following))

  return methods.Method(init, step)
