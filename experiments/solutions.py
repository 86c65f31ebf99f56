"""How many iterations a method took, beside how many it may take."""

import csv
import pathlib
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


COLUMNS = ('problem', 'method', 'γ', 'iterations', 'bound', 'R²/μ²')


def _number(x: float, style: str) -> str:
  """A number; an infinite one as its sign."""
  return '∞' if x == float('inf') else f'{x:{style}}'


def _cells(row: Solution) -> list[str]:
  return [
    row.problem,
    row.method,
    _number(row.step_size, 'g'),
    f'{row.iterations}' if row.solved else f'> {row.iterations}',
    _number(row.bound, '.4g'),
    _number(row.squared_ratio, '.4g'),
  ]


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
  return results.markdown([list(COLUMNS), *map(_cells, rows)])


def save(rows: list[Solution], folder: pathlib.Path) -> None:
  """Writes large_steps.csv and large_steps.md."""
  with (folder / 'large_steps.csv').open('w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(Solution._fields)
    writer.writerows(rows)
  (folder / 'large_steps.md').write_text(table(rows) + '\n')
