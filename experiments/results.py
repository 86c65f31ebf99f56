"""The tables of an experiment: one row per run, and one per scheme."""

import collections
import csv
import io
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from adaopt.experiments import files, records


class Result(NamedTuple):
  """One row: one scheme, one seed."""

  scheme: str
  seed: int
  steps: int
  examples: int
  mean_batch_size: float
  final_batch_size: int
  train_loss: float
  test_accuracy: float
  seconds: float
  programs: int
  finished: bool


Columns = dict[str, tuple[str, str]]
"""Field of the rows → its title and number format."""

COLUMNS = {
  'steps': ('steps', '.0f'),
  'examples': ('examples', '.0f'),
  'mean_batch_size': ('mean batch', '.0f'),
  'final_batch_size': ('final batch', '.0f'),
  'train_loss': ('train loss', '.4f'),
  'test_accuracy': ('test accuracy', '.4f'),
  'seconds': ('seconds', '.1f'),
  'programs': ('programs compiled', '.0f'),
}


def result(
  scheme: str, seed: int, curves: records.Curves, end: records.End
) -> Result:
  """The row of a run that made at least one step."""
  steps = len(curves.train['examples'])
  examples = int(curves.train['examples'][-1])
  return Result(
    scheme=scheme,
    seed=seed,
    steps=steps,
    examples=examples,
    mean_batch_size=examples / steps,
    final_batch_size=int(curves.train['batch_size'][-1]),
    train_loss=float(curves.eval['train_loss'][-1]),
    test_accuracy=float(curves.eval['test_accuracy'][-1]),
    seconds=end.seconds,
    programs=end.programs,
    finished=end.finished,
  )


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


def averages(rows: Sequence[NamedTuple], columns: Columns) -> str:
  """A Markdown table of mean ± standard deviation over seeds."""
  lines = [['scheme', 'seeds', *(title for title, _ in columns.values())]]
  for scheme in dict.fromkeys(row.scheme for row in rows):
    runs = [row for row in rows if row.scheme == scheme]
    cells = [
      mean_and_deviation([getattr(run, name) for run in runs], style)
      for name, (_, style) in columns.items()
    ]
    lines.append([scheme, str(len(runs)), *cells])
  return markdown(lines)


def table(rows: list[Result]) -> str:
  """The results in Markdown; each scheme says how many of its runs stopped."""
  stopped = collections.Counter(r.scheme for r in rows if not r.finished)
  titles = {name: f'{name} ({n} stopped)' for name, n in stopped.items()}
  renamed = [r._replace(scheme=titles.get(r.scheme, r.scheme)) for r in rows]
  return averages(renamed, COLUMNS)


def save(
  rows: Sequence[NamedTuple], text: str, folder: pathlib.Path, name: str
) -> None:
  """Writes NAME.csv, one line per row, and NAME.md."""
  lines = io.StringIO()
  writer = csv.writer(lines, lineterminator='\n')
  writer.writerow(rows[0]._fields)
  writer.writerows(rows)
  files.write(folder / f'{name}.csv', lines.getvalue())
  files.write(folder / f'{name}.md', text + '\n')
