"""What a run leaves behind: metrics, a row of the table, the table."""

import csv
import json
import math
import pathlib
import statistics
from collections.abc import Iterable
from typing import Any, NamedTuple

import tensorboardX


class Evaluation(NamedTuple):
  """The state of a run after `examples` examples."""

  examples: int
  train_loss: float
  test_accuracy: float


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


class Writer(NamedTuple):
  """Open files of one run: JSON lines and TensorBoard events."""

  lines: Any
  events: tensorboardX.SummaryWriter


def open_writer(folder: pathlib.Path) -> Writer:
  """Opens fresh metrics.jsonl and events in a folder, which it makes."""
  folder.mkdir(parents=True, exist_ok=True)
  for old in folder.glob('events.out.tfevents.*'):
    old.unlink()
  return Writer(
    (folder / 'metrics.jsonl').open('w'),
    tensorboardX.SummaryWriter(str(folder), flush_secs=10),
  )


def write(writer: Writer, kind: str, record: dict[str, Any]) -> None:
  """Writes one record: a JSON line, and a scalar each against examples."""
  record = {k: v.item() if hasattr(v, 'item') else v for k, v in record.items()}
  finite = {k: v for k, v in record.items() if math.isfinite(v)}
  line = {'kind': kind} | dict.fromkeys(record) | finite
  writer.lines.write(json.dumps(line) + '\n')
  for name, value in finite.items():
    writer.events.add_scalar(f'{kind}/{name}', value, record['examples'])


def close(writer: Writer) -> None:
  """Closes the files."""
  writer.lines.close()
  writer.events.close()


def _cell(values: Iterable[float], decimals: int) -> str:
  """Mean, and the standard deviation where there are several."""
  values = list(values)
  text = f'{statistics.fmean(values):.{decimals}f}'
  if len(values) == 1:
    return text
  return f'{text} ± {statistics.stdev(values):.{decimals}f}'


def table(rows: list[Result]) -> str:
  """The results as a Markdown table, one row a scheme."""
  lines = [['scheme', 'seeds', *COLUMNS.values()]]
  for scheme in dict.fromkeys(row.scheme for row in rows):
    runs = [row for row in rows if row.scheme == scheme]
    cells = [
      _cell((getattr(run, name) for run in runs), DECIMALS.get(name, 0))
      for name in COLUMNS
    ]
    lines.append([scheme, str(len(runs)), *cells])
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  padded = [
    '| '
    + ' | '.join(c.ljust(w) for c, w in zip(line, widths, strict=True))
    + ' |'
    for line in lines
  ]
  padded.insert(1, '|' + '|'.join('-' * (w + 2) for w in widths) + '|')
  return '\n'.join(padded)


def save_table(rows: list[Result], workdir: pathlib.Path) -> None:
  """Writes results.csv, one line a run, and results.md."""
  with (workdir / 'results.csv').open('w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(Result._fields)
    writer.writerows(rows)
  (workdir / 'results.md').write_text(table(rows) + '\n')
