r"""The maximal margin: the shortest point in the convex hull of the A_i.

μ = max_{‖θ‖=1} min_i ⟨A_i, θ⟩ = min_q ‖Aᵀq‖ over the simplex. For any q the
norm is an upper bound on μ; the margin of x = Aᵀq over ‖x‖ is a lower bound.

Wolfe's method keeps a corral: a few A_i with x inside their convex hull and
equal to the point of least norm of their affine hull. A major step adds the A_i
of least margin. Minor steps move to the new point of least norm and drop each
A_i whose coefficient reaches 0. The norm falls with every major step, so no
corral repeats: the method is finite, and exact up to rounding.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from adaopt._common import checks
from adaopt.logistic import problem as problems


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


class _Corral(NamedTuple):
  """Up to c of the A_i; slots of index n are free."""

  indices: jax.Array  # [c] int32
  rows: jax.Array  # A_i, [c, d], 0 in a free slot
  coefficients: jax.Array  # [c], of sum 1
  params: jax.Array  # x = Σ coefficients · rows, [d]
  margins: jax.Array  # ⟨A_i, x⟩, [n]
  inside: jax.Array  # [] bool: x has the least norm in the affine hull
  iterations: jax.Array  # [] int32
  stalled: jax.Array  # [] bool: rounding allows no further step


def _row(problem, index):
  """A_i for a traced i, of dense or sparse features. [d]."""
  return problems.combination(
    problem,
    jax.nn.one_hot(index, problem.signs.size, dtype=problem.signs.dtype),
  )


def _start(problem, capacity):
  """The corral with only the shortest A_i."""
  n = problem.signs.size
  squares = problems.squared_norms(problem.features)
  squares = jnp.where(problem.weights > 0, squares, jnp.inf)
  first = jnp.argmin(squares).astype(jnp.int32)
  row = _row(problem, first)
  return _Corral(
    indices=jnp.full([capacity], n, jnp.int32).at[0].set(first),
    rows=jnp.zeros([capacity, row.size], row.dtype).at[0].set(row),
    coefficients=jnp.zeros([capacity], row.dtype).at[0].set(1),
    params=row,
    margins=problems.margins(problem, row),
    inside=jnp.array(True),
    iterations=jnp.zeros([], jnp.int32),
    stalled=jnp.array(False),
  )


def _bounds(problem, corral):
  """Lower and upper bounds on μ."""
  upper = jnp.linalg.norm(corral.params)
  least = problems.min_margin(problem, corral.margins)
  return least / jnp.where(upper == 0, 1, upper), upper


def _enter(problem, corral):
  """Adds the A_i of least margin to the corral, with coefficient 0."""
  margins = jnp.where(problem.weights > 0, corral.margins, jnp.inf)
  index = jnp.argmin(margins).astype(jnp.int32)
  free = corral.indices == problem.signs.size
  slot = jnp.argmax(free)
  return corral._replace(
    indices=corral.indices.at[slot].set(index),
    rows=corral.rows.at[slot].set(_row(problem, index)),
    stalled=jnp.any(corral.indices == index) | ~jnp.any(free),
  )


def _affine_minimizer(problem, corral):
  """α of sum 1 with the smallest ‖Σ α_i A_i‖. [c]."""
  used = corral.indices < problem.signs.size
  # Adding a constant to all entries only rescales α, and makes the matrix
  # definite if the A_i of the corral are affinely independent.
  gram = corral.rows @ corral.rows.T + jnp.square(problem.radius)
  gram = jnp.where(used[:, None] & used[None, :], gram, 0)
  gram += jnp.diag(jnp.where(used, 0, jnp.square(problem.radius)))
  solution = jax.scipy.linalg.solve(
    gram, used.astype(gram.dtype), assume_a='pos'
  )
  return solution / jnp.sum(solution)


def _iterate(problem, corral):
  """One minor step, after a major step if the corral is `inside`."""
  entered = _enter(problem, corral)
  corral = jax.tree.map(
    lambda a, b: jnp.where(corral.inside, a, b), entered, corral
  )
  used = corral.indices < problem.signs.size
  old, new = corral.coefficients, _affine_minimizer(problem, corral)
  leaving = used & (new <= 0)
  ratios = jnp.where(leaving, old / jnp.where(leaving, old - new, 1), jnp.inf)
  length = jnp.minimum(jnp.min(ratios), 1)
  blocked = jnp.argmin(ratios)
  coefficients = old + length * (new - old)
  inside = ~jnp.any(leaving)
  slots = jnp.arange(used.size)
  kept = used & (inside | ((slots != blocked) & (coefficients > 0)))
  coefficients = jnp.where(kept, coefficients, 0)
  coefficients /= jnp.sum(coefficients)
  rows = jnp.where(kept[:, None], corral.rows, 0)
  params = coefficients @ rows
  moved = _Corral(
    indices=jnp.where(kept, corral.indices, problem.signs.size),
    rows=rows,
    coefficients=coefficients,
    params=params,
    margins=problems.margins(problem, params),
    inside=inside,
    iterations=corral.iterations + 1,
    stalled=jnp.array(False),
  )
  stalled = corral.stalled | ~jnp.all(jnp.isfinite(params))
  kept_corral = corral._replace(stalled=stalled)
  return jax.tree.map(lambda a, b: jnp.where(stalled, a, b), kept_corral, moved)


@jax.jit
def _minimize(problem, tolerance, max_steps):
  """The separation of a problem."""

  def converged(corral):
    lower, upper = _bounds(problem, corral)
    return (upper - lower <= tolerance * upper) | (
      upper <= tolerance * problem.radius
    )

  capacity = min(problem.signs.size, problem.features.shape[1] + 1)
  corral = jax.lax.while_loop(
    lambda corral: (
      ~(
        (corral.inside & converged(corral))
        | corral.stalled
        | (corral.iterations >= max_steps)
      )
    ),
    lambda corral: _iterate(problem, corral),
    _start(problem, capacity),
  )
  lower, upper = _bounds(problem, corral)
  return Separation(
    num_examples=problems.total_weight(problem),
    radius=problem.radius,
    margin=lower,
    gap=upper - lower,
    params=corral.params / jnp.where(upper == 0, 1, upper),
    coefficients=jnp.zeros_like(problem.signs)
    .at[corral.indices]
    .add(corral.coefficients, mode='drop'),
    iterations=corral.iterations,
    converged=converged(corral),
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

  An iteration costs two products with the features and one solve of
  min(n, d + 1) linear equations. There are a few iterations per example on the
  margin.

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
      tolerance is not positive; if concrete
      (not traced) data are certified inseparable.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt import logistic
    >>> features = jnp.array([[3.0, 4.0], [-3.0, 4.0], [0.0, -9.0]])
    >>> found = logistic.max_margin(features, jnp.array([1, 1, -1]))
    >>> print(f'{found.margin:.4f}', found.params.round(4), found.converged)
    4.0000 [0. 1.] True

  References:
    Wolfe, `Finding the nearest point in a polytope
    <https://doi.org/10.1007/BF01580381>`_, 1976
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
