"""Large steps with an ℓ₂ penalty, and on data that no hyperplane separates.

python -m adaopt.experiments.large_steps.regularized --workdir=DIR

Penalties: the iterations of LR+GD to a gradient of norm 10⁻⁶ with the classical
step size 1/L and with the best of larger ones, on two of scikit-learn's digits.
Cycles: what becomes of LR+GD with step sizes around 2/λ, λ the curvature at the
minimiser, on examples in one dimension.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from scipy import optimize

from adaopt import logistic
from adaopt.experiments import command_line, options, results
from adaopt.experiments.large_steps import separable
from adaopt.experiments.plots import iterations

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


@jax.jit(static_argnums=0, static_argnames='max_steps')
def _settle(method, step_sizes, examples, tolerances, max_steps):
  """What becomes of a method with every step size, in one program."""
  return jax.vmap(
    lambda step_size, tolerance: logistic.settle(
      method(step_size),
      **examples._asdict(),
      tolerance=tolerance,
      max_steps=max_steps,
    )
  )(step_sizes, tolerances)


def penalised(
  examples: separable.Examples, penalty: float, max_steps: int = MAX_STEPS
) -> Penalised:
  """The iterations with every step size."""
  curvature = smoothness(examples, penalty)
  factors = np.array([x for x in FACTORS if x * penalty < 2 * curvature])
  step_sizes = factors / curvature
  method = lambda step_size: logistic.regularized_lr_gd(step_size, penalty)
  found = _settle(
    method, step_sizes, examples, TOLERANCE * step_sizes, max_steps
  )
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


def outcomes(
  name: str, features: np.ndarray, weights: np.ndarray
) -> pd.DataFrame:
  """What becomes of LR+GD on examples ±1, a row for each share of 2/λ."""
  step_sizes = SHARES * 2 / curvature_at_minimum(features, weights)
  examples = separable.Examples(features[:, None], np.array([1, -1]), weights)
  tolerances = np.full(len(SHARES), 1e-12)
  found = _settle(logistic.lr_gd, step_sizes, examples, tolerances, MAX_STEPS)
  return pd.DataFrame(
    {
      'data': name,
      'share': SHARES,
      'converged': found.converged,
      'period': found.period,
    }
  )


def outcome(row: Any) -> str:
  """'rests', 'cycle of 4', or 'neither' where no cycle was seen."""
  if row.converged:
    return 'rests'
  return f'cycle of {row.period}' if row.period else 'neither'


COLUMNS: dict[str, results.Cell] = {
  'λ': lambda row: f'{row.penalty:g}',
  'κ': lambda row: f'{row.condition:.0f}',
  'γ = 1/L': lambda row: (
    f'> {MAX_STEPS}' if row.classical == MAX_STEPS else f'{row.classical}'
  ),
  'best γ': lambda row: f'{row.factor:g}/L',
  'iterations': lambda row: f'{row.best}',
  'largest γ that converges': lambda row: f'{row.largest:g}/L',
}


def tables(rows: pd.DataFrame, cycles: pd.DataFrame) -> str:
  """Both tables in Markdown."""
  shown = cycles[cycles.share.isin([0.5, 0.8, 0.95, 1.05, 1.2, 1.5, 2, 3])]
  second = results.crossed(
    shown, {'γ over 2/λ': 'data'}, lambda row: f'{row.share:g}', outcome
  )
  return f'{results.table(rows, COLUMNS)}\n\n{second}'


def main() -> None:
  """Prints and saves the tables, and draws them."""
  jax.config.update('jax_enable_x64', True)
  folder = options.make_workdir()
  examples = separable.digits_pair(PAIR)
  rows = pd.DataFrame([penalised(examples, penalty) for penalty in PENALTIES])
  cycles = pd.concat(
    outcomes(name, *map(np.array, data)) for name, data in OPPOSED.items()
  )
  text = tables(rows, cycles)
  results.save(rows, text, folder, 'regularized')
  iterations.regularized(rows, cycles, folder / 'regularized.png')
  print(text)
  print(f'Picture: {folder / "regularized.png"}')


if __name__ == '__main__':
  command_line.run(main, ['workdir'])
