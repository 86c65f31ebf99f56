r"""The maximal margin: the shortest point in the convex hull of the A_i.

μ = max_{‖θ‖=1} min_i ⟨A_i, θ⟩ = min_q ‖Aᵀq‖ over the simplex. For any q the
norm is an upper bound on μ; for any θ its margin over ‖θ‖ is a lower bound.

`newton` has the method. Its multipliers give q, its params θ: both bounds are
kept at their best, so that every step only narrows the certificate.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import sparse

from adaopt._common import checks
from adaopt.logistic import newton
from adaopt.logistic import problem as problems

PATIENCE = 30
"""Steps without a smaller gap after which rounding is taken to be the limit."""

FALL = 0.99
"""A gap is smaller if it is less than this times the last."""


class Separation(NamedTuple):
  """The margin of the data, with a certificate: margin ≤ μ ≤ margin + gap.

  Inseparable data have margin ≤ 0 and margin + gap near 0.
  """

  num_examples: jax.Array  # n = Σ w_i, []
  radius: jax.Array  # R = max ‖a_i‖, []
  margin: jax.Array  # min_i ⟨A_i, θ⟩, attained by params, []
  gap: jax.Array  # ‖Aᵀq‖ − margin ≥ 0, []
  params: jax.Array  # θ, of norm 1, [d]
  coefficients: jax.Array  # q on the simplex, [n]
  iterations: jax.Array  # [] int32
  converged: jax.Array  # [] bool: the gap is within the tolerance


class _Search(NamedTuple):
  """The best of the points so far, and the current one."""

  point: newton.Iterate
  params: jax.Array  # of the greatest margin so far, of norm 1, [d]
  coefficients: jax.Array  # of the smallest ‖Aᵀq‖ so far, [n]
  lower: jax.Array  # that margin, []
  upper: jax.Array  # that norm, []
  gap: jax.Array  # upper − lower when it last fell, []
  idle: jax.Array  # steps since then, [] int32
  iterations: jax.Array  # [] int32


def _start(problem):
  """The search before its first step."""
  two = jnp.full([], 2, problem.signs.dtype)  # no bound for R = 1 is as bad
  point = newton.initial(problem)
  return _Search(
    point=point,
    params=point.params,
    coefficients=point.multipliers,
    lower=-two,
    upper=two,
    gap=2 * two,
    idle=jnp.zeros([], jnp.int32),
    iterations=jnp.zeros([], jnp.int32),
  )


def _best(better, ours, theirs):
  return jax.tree.map(lambda a, b: jnp.where(better, a, b), ours, theirs)


def _iterate(problem, search):
  """One step, with the bounds at the points before and after it."""
  p = newton.pulls(problem, search.point)
  total = jnp.sum(p)
  pull = problems.combination(problem, p)
  norm = jnp.linalg.norm(pull) / total
  coefficients, upper = _best(
    norm < search.upper,
    (p / total, norm),
    (search.coefficients, search.upper),
  )
  point = newton.step(problem, search.point, p, pull)
  length = jnp.linalg.norm(point.params)
  length = jnp.where(length == 0, 1, length)
  margin = problems.min_margin(problem, point.margins) / length
  params, lower = _best(
    margin > search.lower,
    (point.params / length, margin),
    (search.params, search.lower),
  )
  fell = upper - lower < FALL * search.gap
  return _Search(
    point=point,
    params=params,
    coefficients=coefficients,
    lower=lower,
    upper=upper,
    gap=jnp.where(fell, upper - lower, search.gap),
    idle=jnp.where(fell, 0, search.idle + 1),
    iterations=search.iterations + 1,
  )


def _converged(search, tolerance):
  """Whether the gap is small beside ‖Aᵀq‖, or ‖Aᵀq‖ beside R = 1."""
  return (search.upper - search.lower <= tolerance * search.upper) | (
    search.upper <= tolerance
  )


@jax.jit
def _minimize(problem, tolerance, max_steps):
  """The separation of a problem."""
  scaled = problem._replace(signs=problem.signs / problem.radius)
  basis = None
  n, d = problem.features.shape
  if n < d and not isinstance(problem.features, sparse.BCOO):
    # Only the span of the rows matters: n coordinates are enough.
    basis, rows = jnp.linalg.qr(problem.features.T)
    scaled = scaled._replace(features=rows.T)
  search = jax.lax.while_loop(
    lambda search: (
      ~_converged(search, tolerance)
      & (search.idle <= PATIENCE)
      & (search.iterations < max_steps)
    ),
    lambda search: _iterate(scaled, search),
    _start(scaled),
  )
  params = search.params if basis is None else basis @ search.params
  margin = problems.min_margin(problem, problems.margins(problem, params))
  norm = jnp.linalg.norm(problems.combination(problem, search.coefficients))
  return Separation(
    num_examples=problems.total_weight(problem),
    radius=problem.radius,
    margin=margin,
    gap=norm - margin,
    params=params,
    coefficients=search.coefficients,
    iterations=search.iterations,
    converged=(norm - margin <= tolerance * norm)
    | (norm <= tolerance * problem.radius),
  )


def max_margin(
  features: problems.Features,
  labels: jax.Array,
  *,
  weights: jax.Array | None = None,
  tolerance: jax.typing.ArrayLike | None = None,
  max_steps: jax.typing.ArrayLike = 10_000,
) -> Separation:
  r"""The maximal margin μ, with a certified gap.

  Stops when the gap is at most tolerance · ‖Aᵀq‖, or when ‖Aᵀq‖ ≤ tolerance ·
  R. The latter certifies that μ is at most that small: the data are inseparable
  or nearly so.

  An iteration is a Newton step; there are some tens of them, whatever n and d.
  It costs two products with the features and, for dense ones, the outer
  products of the examples that come near the margin or leave it, and a Cholesky
  factor of min(n, d) rows; for sparse ones, up to 500 steps of conjugate
  gradients. If rounding allows no smaller gap, the search ends unconverged.

  Args:
    features: As in `make_problem`.
    labels: As in `make_problem`.
    weights: As in `make_problem`; only whether they are 0 matters.
    tolerance: Default: the square root of the dtype's precision, 1.5e-8 in
      float64 and 3.5e-4 in float32; float32 reaches little more.
    max_steps: The maximum number of iterations.

  Returns:
    The separation. Works under `jit` and `vmap`.

  Raises:
    ValueError: As in `make_problem`; for features of less than 32 bits; if
      tolerance is not positive; if concrete (not traced) data are certified
      inseparable.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt import logistic
    >>> features = jnp.array([[3.0, 4.0], [-3.0, 4.0], [0.0, -9.0]])
    >>> found = logistic.max_margin(features, jnp.array([1, 1, -1]))
    >>> print(f'{found.margin:.4f}', found.params.round(4), found.converged)
    4.0000 [0. 1.] True

  References:
    Mangasarian, `A finite Newton method for classification
    <https://doi.org/10.1080/1055678021000028375>`_, 2002

    Li, Sun and Toh, `A Highly Efficient Semismooth Newton Augmented Lagrangian
    Method for Solving Lasso Problems <https://arxiv.org/abs/1607.05428>`_, 2018
  """
  problem = problems.make_problem(features, labels, weights=weights)
  if jnp.finfo(problem.signs.dtype).bits < 32:
    raise ValueError(
      'max_margin solves linear equations, in float32 or float64; got features '
      f'of {problem.signs.dtype}: convert them first.'
    )
  if tolerance is None:
    tolerance = float(jnp.finfo(problem.signs.dtype).eps) ** 0.5
  checks.check_positive(tolerance=tolerance)
  checks.check_integer(1, max_steps=max_steps)
  found = _minimize(problem, tolerance, max_steps)
  upper = found.margin + found.gap
  if checks.is_concrete(upper) and upper <= tolerance * problem.radius:
    raise ValueError(
      'no θ separates the data: a convex combination of the A_i = y_i a_i has '
      f'norm {float(upper):.3g}, while R = {float(problem.radius):.3g}. If the '
      'data need a bias, add a constant feature.'
    )
  return found
