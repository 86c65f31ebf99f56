"""How many iterations a method took, beside how many it may take."""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

from experiments import results


class Solution(NamedTuple):
  """One row: one method with one step size on one problem."""

  problem: str
  method: str
  step_size: float  # γ; infinite for the perceptrons, the limits
  iterations: int  # to the first solution, or all there were
  solved: bool
  bound: float  # of the iterations; infinite where no margin is known
  squared_ratio: float  # R²/μ², from above


LIMITS = {'LR+GD': 'BP', 'NLR': 'NBP'}
"""The methods with a step size, and what they tend to as γ → ∞."""


def _number(x: float, style: str) -> str:
  """A number; an infinite one as its sign."""
  return '∞' if x == float('inf') else f'{x:{style}}'


def _iterations(row: Solution) -> str:
  return f'{row.iterations}' if row.solved else f'> {row.iterations}'


# For a title what makes its cell of a row.
COLUMNS: dict[str, Callable[[Solution], str]] = {
  'problem': lambda row: row.problem,
  'method': lambda row: row.method,
  'γ': lambda row: _number(row.step_size, 'g'),
  'iterations': _iterations,
  'bound': lambda row: _number(row.bound, '.4g'),
  'R²/μ²': lambda row: _number(row.squared_ratio, '.4g'),
}


def table(rows: list[Solution]) -> str:
  """The rows in Markdown; iterations that did not solve have a >.

  Example:
    >>> from experiments import solutions
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
  """Iterations alone: a column for every γ, the perceptrons being γ = ∞."""
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
  """Both tables: iterations by γ, and each beside its bound."""
  return f'{overview(rows)}\n\n{table(rows)}'


def save(rows: list[Solution], folder: pathlib.Path) -> None:
  """Writes large_steps.csv, one line a run, and large_steps.md."""
  results.save(rows, tables(rows), folder, 'large_steps')
