"""The tables of an experiment: a row for every run, a row for every scheme."""

import csv
import pathlib
import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from experiments import records


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


COLUMNS = {
  'steps': 'steps',
  'examples': 'examples',
  'mean_batch_size': 'mean batch',
  'final_batch_size': 'final batch',
  'train_loss': 'train loss',
  'test_accuracy': 'test accuracy',
  'seconds': 'seconds',
  'programs': 'programs compiled',
}
DECIMALS = {'train_loss': 4, 'test_accuracy': 4, 'seconds': 1}


def result(
  scheme: str, seed: int, curves: records.Curves, end: records.End
) -> Result:
  """The row of a run that made at least a step.

  Args:
    scheme: Its name.
    seed: Of the run.
    curves: Its records.
    end: How it ended.
  """
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


def _cell(values: Iterable[float], decimals: int) -> str:
  """Mean, and the standard deviation where there are several."""
  values = list(values)
  text = f'{statistics.fmean(values):.{decimals}f}'
  if len(values) == 1:
    return text
  return f'{text} ± {statistics.stdev(values):.{decimals}f}'


def markdown(lines: list[list[str]]) -> str:
  """Cells as a Markdown table with aligned columns, the header first."""
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  padded = [
    '| '
    + ' | '.join(c.ljust(w) for c, w in zip(line, widths, strict=True))
    + ' |'
    for line in lines
  ]
  padded.insert(1, '|' + '|'.join('-' * (w + 2) for w in widths) + '|')
  return '\n'.join(padded)


def table(rows: list[Result]) -> str:
  """The results as a Markdown table, one row a scheme."""
  lines = [['scheme', 'seeds', *COLUMNS.values()]]
  for scheme in dict.fromkeys(row.scheme for row in rows):
    runs = [row for row in rows if row.scheme == scheme]
    cells = [
      _cell((getattr(run, name) for run in runs), DECIMALS.get(name, 0))
      for name in COLUMNS
    ]
    stopped = sum(not run.finished for run in runs)
    name = f'{scheme} ({stopped} stopped)' if stopped else scheme
    lines.append([name, str(len(runs)), *cells])
  return markdown(lines)


def save(
  rows: Sequence[NamedTuple], text: str, folder: pathlib.Path, name: str
) -> None:
  """Writes NAME.csv, one line a row, and NAME.md.

  Args:
    rows: At least one, all of one type.
    text: In Markdown.
    folder: Where to.
    name: Of both files.
  """
  with (folder / f'{name}.csv').open('w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(rows[0]._fields)
    writer.writerows(rows)
  (folder / f'{name}.md').write_text(text + '\n')
