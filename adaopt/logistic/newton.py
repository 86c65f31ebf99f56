r"""Newton steps on the augmented Lagrangian of the maximal margin.

For A divided by R = max ‖a_i‖, the θ of least norm with A θ ≥ 1 has norm 1/μ.
Its augmented Lagrangian, for multipliers λ ≥ 0 and a penalty ρ > 0, is

  Φ(θ) = ‖θ‖²/2 + Σ p_i²/(2ρ),  p_i = max(λ_i + ρ (1 − m_i), 0),
  ∇Φ(θ) = θ − Aᵀp.

It is quadratic where the active set {i: p_i > 0} stays, so that Newton's method
with an exact line search is finite. At its minimum λ becomes p. For any θ, p
over its sum lies on the simplex: Aᵀp over the sum bounds μ from above.
"""

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.experimental import sparse

from adaopt.logistic import problem as problems

ROWS = 512
"""Rows that enter or leave a Gram matrix in one product."""

SOLVED = 1e-3
"""Newton's last step starts at a gradient of at most this times ‖Aᵀp‖."""

GROWTH = 10.0
"""ρ grows by this factor from one minimum to the next."""

POWERS = 10
"""Products that estimate the largest eigenvalue of the Hessian."""

HALVINGS = 30
"""Of the interval of the line search."""


class Gram(NamedTuple):
  """Σ a_i a_iᵀ over the active i."""

  matrix: jax.Array  # [d, d]
  active: jax.Array  # [n] bool


Curvature: TypeAlias = Gram | None
"""What is kept of the Hessian: nothing for sparse features."""


class Iterate(NamedTuple):
  """A point of the method."""

  params: jax.Array  # θ, [d]
  margins: jax.Array  # m_i of A / R, [n]
  multipliers: jax.Array  # λ, [n]
  penalty: jax.Array  # ρ, []
  curvature: Curvature


def initial(problem: problems.Problem) -> Iterate:
  """θ = λ = 0 and ρ = 1."""
  n, d = problem.features.shape
  zeros = lambda *shape: jnp.zeros(shape, problem.signs.dtype)
  curvature = None
  if not isinstance(problem.features, sparse.BCOO):
    curvature = Gram(zeros(d, d), jnp.zeros(n, bool))
  return Iterate(zeros(d), zeros(n), zeros(n), 1 + zeros(), curvature)


def pulls(problem: problems.Problem, point: Iterate) -> jax.Array:
  """p_i, 0 for weight 0. [n]."""
  p = point.multipliers + point.penalty * (1 - point.margins)
  return jnp.where(problem.weights > 0, jnp.maximum(p, 0), 0)


def _updated(features, gram, active):
  """The Gram matrix of another active set, by its changes if they are fewer."""
  change = active.astype(features.dtype) - gram.active
  afresh = jnp.sum(active) <= jnp.sum(change != 0)
  change = jnp.where(afresh, active, change)
  first = jnp.argsort(change == 0)  # the changed rows come first
  rows = min(ROWS, change.size)
  first = jnp.pad(first, (0, -change.size % rows), constant_values=change.size)

  def add(block, matrix):
    chosen = jax.lax.dynamic_slice(first, [block * rows], [rows])
    a = features.at[chosen].get(mode='fill', fill_value=0)
    c = change.at[chosen].get(mode='fill', fill_value=0)
    return matrix + (c[:, None] * a).T @ a

  matrix = jax.lax.fori_loop(
    0,
    -(-jnp.sum(change != 0) // rows),
    add,
    jnp.where(afresh, 0, gram.matrix),
  )
  return Gram(matrix, active)


def _largest(product, vector):
  """An estimate from below of a matrix's largest eigenvalue."""

  def multiply(_, state):
    vector, length = state
    vector = product(vector / jnp.where(length == 0, 1, length))
    return vector, jnp.linalg.norm(vector)

  start = vector, jnp.linalg.norm(vector)
  return jax.lax.fori_loop(0, POWERS, multiply, start)[1]


def _solve(problem, point, active, vector):
  """(I + ρ G)⁻¹ vector for G = A_activeᵀ A_active, its curvature, and v → G v.

  Dense features are worth a Cholesky factor of G, sparse ones are not.
  """
  squares = jnp.square(problem.signs)  # 1/R²
  if point.curvature is None:
    weights = jnp.where(active, squares, 0)
    product = lambda v: (weights * (problem.features @ v)) @ problem.features
    solution, _ = jax.scipy.sparse.linalg.cg(
      lambda v: v + point.penalty * product(v), vector, tol=0.01, maxiter=500
    )
    return solution, None, product
  curvature = _updated(problem.features, point.curvature, active)
  matrix = squares[0] * curvature.matrix
  identity = jnp.eye(vector.size, dtype=vector.dtype)
  factor = jax.scipy.linalg.cho_factor(
    matrix + identity / point.penalty, lower=True
  )
  solution = jax.scipy.linalg.cho_solve(factor, vector) / point.penalty
  return solution, curvature, lambda v: matrix @ v


def _length(problem, point, direction, margins):
  """The s in [0, 1] of least Φ(θ + s direction), by the sign of its slope."""
  change = margins - point.margins
  square, product = direction @ direction, point.params @ direction

  def slope(s):
    moved = point._replace(margins=point.margins + s * change)
    return product + s * square - pulls(problem, moved) @ change

  def halve(_, bounds):
    low, high = bounds
    middle = (low + high) / 2
    falls = slope(middle) < 0
    return jnp.where(falls, middle, low), jnp.where(falls, high, middle)

  one = jnp.ones_like(square)
  _, s = jax.lax.fori_loop(0, HALVINGS, halve, (0 * one, one))
  return jnp.where(slope(one) <= 0, 1, s)


def step(
  problem: problems.Problem, point: Iterate, p: jax.Array, pull: jax.Array
) -> Iterate:
  """A Newton step, and new multipliers if it ends at the minimum.

  Args:
    problem: The problem, with signs y_i / R.
    point: Where to start.
    p: `pulls(problem, point)`, [n].
    pull: Aᵀp, [d].

  Returns:
    The next point.
  """
  gradient = point.params - pull
  active = p > 0
  direction, curvature, product = _solve(problem, point, active, -gradient)
  params = point.params + direction
  margins = problems.margins(problem, params)
  full = point._replace(params=params, margins=margins)
  same = jnp.all((pulls(problem, full) > 0) == active)
  length = _length(problem, point, direction, margins)
  length = jnp.where(same, 1, length)
  moved = Iterate(
    params=point.params + length * direction,
    margins=jnp.where(
      length == 1,
      margins,
      point.margins + length * (margins - point.margins),
    ),
    multipliers=point.multipliers,
    penalty=point.penalty,
    curvature=curvature,
  )
  small = jnp.linalg.norm(gradient) <= SOLVED * jnp.linalg.norm(pull)
  # Rounding in ρ G would otherwise exceed the identity beside it.
  highest = 0.01 / jnp.finfo(p.dtype).eps / _largest(product, pull)
  penalty = jnp.minimum(GROWTH * point.penalty, highest)
  solved = same | small
  moved = moved._replace(
    multipliers=jnp.where(solved, pulls(problem, moved), point.multipliers),
    penalty=jnp.where(solved, penalty, point.penalty),
  )
  # Where it does so nevertheless, there is no Cholesky factor.
  smaller = point._replace(penalty=point.penalty / GROWTH)
  done = jnp.all(jnp.isfinite(direction))
  return jax.tree.map(lambda a, b: jnp.where(done, a, b), moved, smaller)
