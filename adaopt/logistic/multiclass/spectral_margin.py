r"""The maximal margin of k classes in the spectral norm, between two bounds.

With c ≠ y_i, max_{‖W‖ ≤ 1} min_{i, c} ⟨Δ_ic, W⟩ = min_q ‖Σ q_ic Δ_ic‖_* over
the simplex, with the nuclear norm. Any W and any q bound it from below and from
above. They are the means of a primal-dual method, Δ divided by √2 R:

  W_{t+1} = clip(W_t + τ Σ q_ic Δ_ic),
  q_ic ∝ q_ic e^{−⟨Δ_ic, 2 W_{t+1} − W_t⟩ / τ},

where clip takes singular values above 1 to 1. With ‖Δ_ic‖ ≤ 1 the bounds of
the means of all T steps are within (r / (2τ) + τ log N) / T, for the rank r of
W and N pairs (i, c): τ² = r / (2 log N) is best.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adaopt._common import checks
from adaopt.logistic import cutting_planes
from adaopt.logistic import geometry as geometries
from adaopt.logistic import problem as two_classes
from adaopt.logistic.multiclass import methods
from adaopt.logistic.multiclass import problem as problems

FIRST_ROUND = 256


class _Iterate(NamedTuple):
  """W and q, and their sums: of W over all steps, of q over a round.

  The mean of q forgets a start far from the margin, and is better for it.
  """

  params: jax.Array
  log_q: jax.Array  # −∞ at c = y_i
  params_sum: jax.Array
  q_sum: jax.Array


def _clip(params):
  u, s, v = jnp.linalg.svd(params, full_matrices=False)
  return (u * jnp.minimum(s, 1)[None, :]) @ v


def _differences(problem, params):
  """⟨Δ_ic, W⟩. [n, k]."""
  logits = problems.logits(problem, params)
  right = jnp.sum(jnp.where(problem.targets, logits, 0), 1, keepdims=True)
  return right - logits


def _step_size(problem):
  """τ."""
  k, d = problem.targets.shape[1], problem.features.shape[1]
  pairs = jnp.sum(problem.weights > 0) * (k - 1)
  return jnp.sqrt(min(k, d) / (2 * jnp.log(jnp.maximum(pairs, 2))))


def _step(problem, iterate):
  scale, step_size = np.sqrt(2) * problem.radius, _step_size(problem)
  q = jnp.exp(iterate.log_q)
  pull = problems.combination(problem, q) / scale
  params = _clip(iterate.params + step_size * pull)
  ahead = _differences(problem, 2 * params - iterate.params) / scale
  log_q = jax.nn.log_softmax(iterate.log_q - ahead / step_size, (0, 1))
  return _Iterate(
    params,
    log_q,
    iterate.params_sum + params,
    iterate.q_sum + jnp.exp(log_q),
  )


@jax.jit
def _round(problem, iterate, steps):
  """Steps, then the margin of the mean W and the bound of the mean q."""
  iterate = jax.lax.fori_loop(
    0,
    steps,
    lambda _, iterate: _step(problem, iterate),
    iterate._replace(q_sum=jnp.zeros_like(iterate.log_q)),
  )
  params = iterate.params_sum
  norm = geometries.SPECTRAL.norm(params)
  params /= jnp.where(norm == 0, 1, norm)
  q = iterate.q_sum / jnp.sum(iterate.q_sum)
  margins = problems.margins(problem, problems.logits(problem, params))
  lower = two_classes.min_margin(problem, margins)
  upper = geometries.SPECTRAL.dual_norm(problems.combination(problem, q))
  return iterate, (lower, params), (upper, q)


def _start(problem):
  """W = 0 and equal q_ic."""
  counted = (problem.weights > 0)[:, None] & ~problem.targets
  zero = methods.zeros(problem)
  log_q = jax.nn.log_softmax(jnp.where(counted, 0.0, -jnp.inf), (0, 1))
  return _Iterate(zero, log_q, zero, jnp.zeros_like(log_q))


def max_margin_spectral(
  features: two_classes.Features,
  labels: jax.Array,
  *,
  weights: jax.Array | None = None,
  num_classes: int | None = None,
  tolerance: float = 2e-2,
  max_steps: int = 20_000,
) -> cutting_planes.CertifiedMargin:
  r"""max_{‖W‖_2 ≤ 1} min_i m_i in the spectral norm, between two bounds.

  In float64, in rounds of steps, each as long as all before; a round ends with
  a bound of either kind. They close in as 1 over the steps: ask for no more
  than a percent or so. A margin ≤ 0 separates nothing.

  Args:
    features: As in `max_margin`.
    labels: As in `max_margin`.
    weights: As in `max_margin`.
    num_classes: As in `max_margin`.
    tolerance: The gap over the upper bound at which to end.
    max_steps: No round begins after so many steps.

  Returns:
    The largest margin found and the gap to the least bound ‖Σ q_ic Δ_ic‖_*,
    W [k, d] and q [n, k].

  Raises:
    ValueError: As `max_margin`, or if max_steps is not an integer of at least
      1. Data are called inseparable where the bound is at most 1e-6 · √2 R.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt.logistic import multiclass
    >>> found = multiclass.max_margin_spectral(2 * jnp.eye(3), jnp.arange(3))
    >>> print(f'{found.margin:.1f}', found.gap < 0.02 * 2)
    2.0 True
  """
  cutting_planes.check_concrete(
    'max_margin_spectral', features, labels, weights
  )
  checks.check_positive(tolerance=tolerance)
  checks.check_integer(1, max_steps=max_steps)
  with jax.enable_x64(True):
    problem = problems.make_problem(
      features, labels, weights=weights, num_classes=num_classes
    )
    problem = jax.tree.map(
      lambda x: x.astype(float) if jnp.issubdtype(x.dtype, jnp.floating) else x,
      problem,
    )
    iterate, done, steps = _start(problem), 0, FIRST_ROUND
    lowest, highest = [], []
    while True:
      iterate, low, high = jax.device_get(_round(problem, iterate, steps))
      lowest.append(low)
      highest.append(high)
      done += steps
      steps = done
      lower, params = max(lowest, key=lambda bound: bound[0])
      upper, q = min(highest, key=lambda bound: bound[0])
      cutting_planes.check_separable(
        float(upper), 1e-6, np.sqrt(2) * float(problem.radius)
      )
      if upper - lower <= tolerance * upper or done >= max_steps:
        break
  return cutting_planes.CertifiedMargin(lower, upper - lower, params, q)
