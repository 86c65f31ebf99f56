"""The iterations that methods took, next to their bounds."""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

from adaopt.experiments import results


class Solution(NamedTuple):
  """One row: one method with one step size on one problem."""

  problem: str
  method: str
  step_size: float  # γ; infinite for the perceptrons, the limits
  iterations: int  # until the first solution, else all
  solved: bool
  bound: float  # on the iterations; infinite if no margin is known
  squared_ratio: float  # upper bound on R²/μ²


LIMITS = {'LR+GD': 'BP', 'NLR': 'NBP'}
"""Methods with a step size → their limits as γ → ∞."""


def _number(x: float, style: str) -> str:
  """A formatted number; infinity as ∞."""
  return '∞' if x == float('inf') else f'{x:{style}}'


def _iterations(row: Solution) -> str:
  return f'{row.iterations}' if row.solved else f'> {row.iterations}'


# Title → the function from a row to its cell.
COLUMNS: dict[str, Callable[[Solution], str]] = {
  'problem': lambda row: row.problem,
  'method': lambda row: row.method,
  'γ': lambda row: _number(row.step_size, 'g'),
  'iterations': _iterations,
  'bound': lambda row: _number(row.bound, '.4g'),
  'R²/μ²': lambda row: _number(row.squared_ratio, '.4g'),
}


def table(rows: list[Solution]) -> str:
  """The rows in Markdown; > marks the iterations of unsolved runs.

  Example:
    >>> from adaopt.experiments.large_steps import solutions
    >>> row = solutions.Solution(
    ...   'hard_set', 'NLR', 0.1, 157, True, bound=385.0, squared_ratio=5.0)
    >>> print(solutions.table([row]))
    | problem  | method | γ   | iterations | bound | R²/μ² |
    |----------|--------|-----|------------|-------|-------|
    | hard_set | NLR    | 0.1 | 157        | 385   | 5     |
  """
  lines = [[cell(row) for cell in COLUMNS.values()] for row in rows]
  return results.markdown([list(COLUMNS), *lines])


def overview(rows: list[Solution]) -> str:
  """Iterations only: one column per γ, with the perceptrons as γ = ∞."""
  sizes = sorted({row.step_size for row in rows})
  found = {(row.problem, row.method, row.step_size): row for row in rows}
  lines = [
    ['problem', 'method', *(f'γ = {_number(size, "g")}' for size in sizes)]
  ]
  for problem in dict.fromkeys(row.problem for row in rows):
    for method, limit in LIMITS.items():
      of = [
        found.get((problem, method, size)) or found[problem, limit, size]
        for size in sizes
      ]
      lines.append([problem, f'{method}, {limit}', *map(_iterations, of)])
  return results.markdown(lines)


def tables(rows: list[Solution]) -> str:
  """Both tables: iterations by γ, and iterations next to their bounds."""
  return f'{overview(rows)}\n\n{table(rows)}'


def save(rows: list[Solution], folder: pathlib.Path) -> None:
  """Writes large_steps.csv, one line per run, and large_steps.md."""
  results.save(rows, tables(rows), folder, 'large_steps')
