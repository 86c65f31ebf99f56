"""Large steps with an ℓ₂ penalty, and on data that no hyperplane separates.

python -m adaopt.experiments.large_steps.regularized --workdir=DIR

Penalties: the iterations of LR+GD to a gradient of norm 10⁻⁶ with the classical
step size 1/L and with the best of larger ones, on two of scikit-learn's digits.
Cycles: what becomes of LR+GD with step sizes around 2/λ, λ the curvature at the
minimiser, on examples in one dimension.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from adaopt import logistic
from adaopt.experiments import command_line, options, results
from adaopt.experiments.large_steps import separable
from adaopt.experiments.plots import regularized as regularized_plots

PAIR = (8, 9)
PENALTIES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4)
FACTORS = tuple(2.0**k for k in range(9))  # of 1/L
TOLERANCE = 1e-6
MAX_STEPS = 100_000

# (a, y, w) of examples in one dimension: many small ones against a large one.
OPPOSED = {
  '15 × 1 against 3': ([1.0, 3.0], [15.0, 1.0]),
  '15 × 1 against 6': ([1.0, 6.0], [15.0, 1.0]),
  '15 × 1 against 10': ([1.0, 10.0], [15.0, 1.0]),
  '40 × 1 against 10': ([1.0, 10.0], [40.0, 1.0]),
}
SHARES = np.round(np.arange(0.5, 3.01, 0.05), 2)  # of 2/λ


class Penalised(NamedTuple):
  """One penalty."""

  penalty: float
  condition: float  # κ = L/λ
  classical: int  # iterations with 1/L; MAX_STEPS: not converged
  best: int  # iterations with the best step size
  factor: float  # that step size times L
  largest: float  # the largest step size times L that converged


def smoothness(examples: separable.Examples, penalty: float) -> float:
  """L of the penalised log-loss: ‖A‖² / (4n) + λ."""
  n = len(examples.labels)
  return float(np.linalg.norm(examples.features, 2) ** 2 / (4 * n) + penalty)


def penalised(
  examples: separable.Examples, penalty: float, max_steps: int = MAX_STEPS
) -> Penalised:
  """The iterations with every step size, in one program."""
  curvature = smoothness(examples, penalty)

  @jax.jit
  @jax.vmap
  def run(step_size):
    return logistic.settle(
      logistic.regularized_lr_gd(step_size, penalty),
      examples.features,
      examples.labels,
      tolerance=TOLERANCE * step_size,
      max_steps=max_steps,
    )

  factors = np.array([x for x in FACTORS if x * penalty < 2 * curvature])
  found = run(jnp.asarray(factors / curvature))
  counts = np.where(found.converged, found.iterations, max_steps)
  return Penalised(
    penalty=penalty,
    condition=curvature / penalty,
    classical=int(counts[0]),
    best=int(np.min(counts)),
    factor=float(factors[np.argmin(counts)]),
    largest=float(np.max(factors[np.asarray(found.converged)], initial=0)),
  )


def curvature_at_minimum(features: np.ndarray, weights: np.ndarray) -> float:
  """λ of (1/n) (w_1 log(1 + e^{−θ a_1}) + w_2 log(1 + e^{θ a_2}))."""
  signed = np.array([1, -1]) * features
  minimum = optimize.brentq(
    lambda theta: (weights * signed) @ (1 / (1 + np.exp(signed * theta))),
    -20,
    20,
    xtol=1e-14,
  )
  p = 1 / (1 + np.exp(signed * minimum))
  return float((weights * features**2) @ (p * (1 - p)) / weights.sum())


def outcomes(features: np.ndarray, weights: np.ndarray) -> logistic.Settled:
  """What becomes of LR+GD for every share of 2/λ."""
  step_sizes = SHARES * 2 / curvature_at_minimum(features, weights)

  @jax.jit
  @jax.vmap
  def run(step_size):
    return logistic.settle(
      logistic.lr_gd(step_size),
      features[:, None],
      np.array([1, -1]),
      weights=weights,
      tolerance=1e-12,
      max_steps=MAX_STEPS,
    )

  return run(jnp.asarray(step_sizes))


def outcome(found: logistic.Settled, i: int) -> str:
  """'rests', 'cycle of 4', or 'neither' where no cycle was seen."""
  if found.converged[i]:
    return 'rests'
  period = int(found.period[i])
  return f'cycle of {period}' if period else 'neither'


def tables(rows: list[Penalised], cycles: dict[str, logistic.Settled]) -> str:
  """Both tables in Markdown."""
  lines = [
    ['λ', 'κ', 'γ = 1/L', 'best γ', 'iterations', 'largest γ that converges']
  ]
  for row in rows:
    shown = str(row.classical)
    shown = f'> {shown}' if row.classical == MAX_STEPS else shown
    lines.append(
      [
        f'{row.penalty:g}',
        f'{row.condition:.0f}',
        shown,
        f'{row.factor:g}/L',
        str(row.best),
        f'{row.largest:g}/L',
      ]
    )
  shown = [0.5, 0.8, 0.95, 1.05, 1.2, 1.5, 2.0, 3.0]
  columns = [int(np.argmin(np.abs(SHARES - share))) for share in shown]
  second = [['γ over 2/λ', *(f'{share:g}' for share in shown)]]
  second += [
    [name, *(outcome(found, i) for i in columns)]
    for name, found in cycles.items()
  ]
  return f'{results.markdown(lines)}\n\n{results.markdown(second)}'


def main() -> None:
  """Prints and saves the tables, and draws them."""
  jax.config.update('jax_enable_x64', True)
  folder = options.make_workdir()
  examples = separable.digits_pair(PAIR)
  rows = [penalised(examples, penalty) for penalty in PENALTIES]
  cycles = {
    name: jax.device_get(outcomes(*map(np.array, data)))
    for name, data in OPPOSED.items()
  }
  text = tables(rows, cycles)
  results.save(rows, text, folder, 'regularized')
  regularized_plots.save(rows, SHARES, cycles, folder / 'regularized.png')
  print(text)
  print(f'Picture: {folder / "regularized.png"}')


if __name__ == '__main__':
  command_line.run(main, ['workdir'])
