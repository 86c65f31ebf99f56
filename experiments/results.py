"""Tables of results: in Markdown to read, as CSV to compute with."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from adaopt.experiments import files

Rows = pd.DataFrame | Sequence[NamedTuple] | Sequence[dict[str, Any]]

Columns = dict[str, tuple[str, str]]
"""Field of the rows → its title and number format."""

Cell = Callable[[Any], str]
"""From a row of a frame, with its columns as fields, to a cell."""


def _frame(rows: Rows) -> pd.DataFrame:
  """Rows whose integers stay what they are beside a value that is missing."""
  return pd.DataFrame(rows, dtype=object)


def mean_and_deviation(values: Sequence[float | None], style: str) -> str:
  """Mean ± standard deviation, as a cell.

  Args:
    values: One per seed; None if undefined.
    style: A format, such as '.2f'.

  Returns:
    The mean of the defined values, with their deviation if they differ; '' if
    no value is defined.
  """
  values = [value for value in values if value is not None]
  if not values:
    return ''
  mean = f'{np.mean(values):{style}}'
  if len(set(values)) == 1:
    return mean
  return f'{mean} ± {np.std(values, ddof=1):{style}}'


def markdown(lines: list[list[str]]) -> str:
  """Cells as a Markdown table with aligned columns; header first."""
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  padded = [
    '| '
    + ' | '.join(c.ljust(w) for c, w in zip(line, widths, strict=True))
    + ' |'
    for line in lines
  ]
  padded.insert(1, '|' + '|'.join('-' * (w + 2) for w in widths) + '|')
  return '\n'.join(padded)


def averages(rows: Rows, columns: Columns) -> str:
  """A Markdown table of mean ± standard deviation over seeds, by scheme."""
  lines = [['scheme', 'seeds', *(title for title, _ in columns.values())]]
  for scheme, runs in _frame(rows).groupby('scheme', sort=False):
    cells = [
      mean_and_deviation(runs[name], style)
      for name, (_, style) in columns.items()
    ]
    lines.append([scheme, str(len(runs)), *cells])
  return markdown(lines)


def table(frame: pd.DataFrame, columns: dict[str, Cell]) -> str:
  """A Markdown table with a line for every row; columns by their titles.

  Example:
    >>> import pandas as pd
    >>> from adaopt.experiments import results
    >>> frame = pd.DataFrame({'method': ['NLR', 'BP'], 'loss': [0.25, 0.5]})
    >>> columns = {
    ...   'method': lambda row: row.method,
    ...   'log-loss': lambda row: f'{row.loss:.2f}'}
    >>> print(results.table(frame, columns))
    | method | log-loss |
    |--------|----------|
    | NLR    | 0.25     |
    | BP     | 0.50     |
  """
  lines = [
    [cell(row) for cell in columns.values()] for row in frame.itertuples()
  ]
  return markdown([list(columns), *lines])


def crossed(
  frame: pd.DataFrame, heads: dict[str, str], across: Cell, cell: Cell
) -> str:
  """A Markdown table with a cell for every row.

  Args:
    frame: The rows.
    heads: Title → column, of texts; rows that agree in them share a line.
    across: From a row to the title of its column.
    cell: From a row to its cell.

  Example:
    >>> import pandas as pd
    >>> from adaopt.experiments import results
    >>> frame = pd.DataFrame({'set': list('aab'), 'd': [2, 4, 2], 'x': 0.5})
    >>> d, x = lambda row: f'd = {row.d}', lambda row: f'{row.x:.2f}'
    >>> print(results.crossed(frame, {'of': 'set'}, d, x))
    | of | d = 2 | d = 4 |
    |----|-------|-------|
    | a  | 0.50  | 0.50  |
    | b  | 0.50  |       |
  """
  lines, titles = {}, {}
  keys = frame[[*heads.values()]].itertuples(index=False, name=None)
  for key, row in zip(keys, frame.itertuples(), strict=True):
    title = across(row)
    titles[title] = None
    lines.setdefault(key, {})[title] = cell(row)
  body = [[*key, *(by.get(x, '') for x in titles)] for key, by in lines.items()]
  return markdown([[*heads, *titles], *body])


def save(rows: Rows, text: str, folder: pathlib.Path, name: str) -> None:
  """Writes NAME.csv, one line per row, and NAME.md."""
  lines = _frame(rows).to_csv(index=False, na_rep='nan')
  files.write(folder / f'{name}.csv', lines)
  files.write(folder / f'{name}.md', text + '\n')
