"""Normalised gradient descent on spheres of growing radius."""

import jax
import jax.numpy as jnp

from adaopt._common import checks
from adaopt.logistic import methods
from adaopt.logistic import problem as problems


def _check(step_size, growth, every):
  """Raises ValueError unless the arguments make phases."""
  checks.check_positive(step_size=step_size, growth=growth)
  if checks.is_concrete(growth) and growth <= 1:
    raise ValueError(
      f'growth must be above 1, got {growth}; normalized_exponential_gd '
      'does not rescale.'
    )
  checks.check_integer(1, every=every)


def progressive_rescaling(
  step_size: jax.typing.ArrayLike,
  *,
  growth: jax.typing.ArrayLike = 1.5,
  every: jax.typing.ArrayLike = 10,
) -> methods.Method:
  r"""Progressive rescaling: normalised GD on balls of growing radius.

  The first `every` steps are `normalized_exponential_gd`. Each further phase
  stretches θ to norm R_k = growth · R_{k−1}, from R_0 = ‖θ‖, and takes `every`
  projected steps

    θ ← Π(θ + η Σ softmin(m)_i A_i),  Π onto the ball ‖θ‖ ≤ R_k.

  The minimum of the exponential loss on that ball is within O(1/R_k) of the
  direction of the maximal margin. A phase starts O(R_k / R_{k−1}) from it, a
  distance that does not grow with k. Where steps towards it have a length that
  does not vanish, as when the A_i on the margin span the space with positive
  coefficients, a fixed number of steps a phase is enough: the gap in the
  margin falls as growth^{−t/every}, not as 1/t.

  The phases of equal length and the geometric R_k are our choice of a schedule.
  So is their limit: R_k stays where rounding leaves margins right to 1/100.

  Args:
    step_size: η > 0; it is not divided by any norm of the data, and should not
      exceed 1/R² by much, R = max ‖a_i‖.
    growth: R_k / R_{k−1} > 1.
    every: Steps in a phase, a positive integer.

  Returns:
    The method.

  Raises:
    ValueError: If η is not positive and finite, growth is not above 1 or
      finite, or every is not a positive integer.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt import logistic
    >>> features = jnp.array([[0.5, -1.0], [-0.5, -1.0]])
    >>> labels, weights = jnp.array([1, -1]), jnp.array([1.0, 999.0])
    >>> for method in (
    ...   logistic.normalized_exponential_gd(0.8),
    ...   logistic.progressive_rescaling(0.8),
    ... ):
    ...   _, trajectory = logistic.record(
    ...     method, features, labels, weights=weights, num_steps=200)
    ...   print(f'{0.5 - trajectory.margin[-1]:.0e}')
    4e-02
    3e-04

  References:
    Wang, Min and Wu, `Achieving Margin Maximization Exponentially Fast via
    Progressive Norm Rescaling <https://arxiv.org/abs/2311.14387>`_, 2024
  """
  _check(step_size, growth, every)

  def move(state, problem):
    dtype = problem.signs.dtype
    length = jnp.linalg.norm(state.params)
    stretched = (state.count > 0) & (state.count % every == 0)
    last = jnp.where(jnp.isinf(state.memory), length, state.memory)
    limit = 0.01 / jnp.finfo(dtype).eps / problem.radius
    norm = jnp.minimum(growth * last, limit).astype(dtype)
    norm = jnp.where(stretched, norm, state.memory)
    scale = jnp.where(
      stretched & (length > 0), norm / jnp.where(length > 0, length, 1), 1
    )
    shares = problems.softmin(problem, scale * state.margins)
    pull = problems.combination(problem, shares)
    params = (scale * state.params + step_size * pull).astype(dtype)
    length = jnp.linalg.norm(params)
    inside = length <= norm
    return jnp.where(
      inside, params, params * (norm / jnp.where(inside, 1, length))
    ), norm

  return methods.make_method(
    move,
    memory=lambda problem: jnp.full([], jnp.inf, problem.signs.dtype),
    start=methods.zeros,
    autonomous=False,
  )
