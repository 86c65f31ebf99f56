"""The iterations that methods took, next to their bounds."""

from typing import Any

import numpy as np
import pandas as pd

from adaopt import logistic
from adaopt.experiments import results
from adaopt.experiments.large_steps import sweeps


def summarise(
  problem: str, method: str, found: logistic.Solution, **others: Any
) -> pd.DataFrame:
  """A row for each step size of a method, with other columns at the end."""
  return pd.DataFrame(
    {
      'problem': problem,
      'method': method,
      # γ; infinite for the perceptrons.
      'step_size': sweeps.SWEEPS[method].step_sizes,
      'iterations': found.iterations,  # until the first solution, else all
      'solved': found.solved,
      **others,
    }
  )


def bounds(
  method: str, separated: logistic.Separation | None
) -> dict[str, Any]:
  """The bound of a method and R²/μ², as columns; infinite without μ."""
  if separated is None:
    return {'bound': np.inf, 'squared_ratio': np.inf}
  known, sweep = separated[:3], sweeps.SWEEPS[method]
  return {
    'bound': np.asarray(sweep.bound(*known, np.array(sweep.step_sizes))),
    'squared_ratio': float(logistic.bounds.perceptron(*known)),
  }


def number(x: float, style: str) -> str:
  """A formatted number; infinity as ∞."""
  return '∞' if x == np.inf else f'{x:{style}}'


def iterations(row: Any) -> str:
  """The iterations until the first solution, with > where there was none."""
  return f'{row.iterations}' if row.solved else f'> {row.iterations}'


def step_size(row: Any) -> str:
  """The step size, as the title of a column."""
  return f'γ = {number(row.step_size, "g")}'


TITLES = {
  name: f'{method}, {limit}'
  for method, limit in sweeps.LIMITS.items()
  for name in (method, limit)
}
"""What a method and its limit are called in one line."""

COLUMNS: dict[str, results.Cell] = {
  'problem': lambda row: row.problem,
  'method': lambda row: row.method,
  'γ': lambda row: number(row.step_size, 'g'),
  'iterations': iterations,
  'bound': lambda row: number(row.bound, '.4g'),
  'R²/μ²': lambda row: number(row.squared_ratio, '.4g'),
}


def tables(rows: pd.DataFrame) -> str:
  """Iterations by γ, the perceptrons as γ = ∞; then next to their bounds."""
  overview = results.crossed(
    rows.assign(methods=rows.method.map(TITLES)),
    {'problem': 'problem', 'method': 'methods'},
    step_size,
    iterations,
  )
  return f'{overview}\n\n{results.table(rows, COLUMNS)}'
