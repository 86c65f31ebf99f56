"""The files that a run writes and reads: its metrics and how it ended."""

import json
import math
import os
import pathlib
from typing import Any, NamedTuple

import ml_collections
import numpy as np
import tensorboardX

from adaopt.experiments import events, files

METRICS = 'metrics.jsonl'
RUN = 'run.json'
END = 'end.json'


class Log(NamedTuple):
  """Open files of one run: JSON lines and TensorBoard events."""

  lines: Any
  events: tensorboardX.RecordWriter


class End(NamedTuple):
  """How a run ended."""

  finished: bool  # False: it was stopped, and can be resumed
  seconds: float  # of training, with compilation but not evaluation
  programs: int  # compiled for its steps since it was last resumed


class Curves(NamedTuple):
  """The records of a run, as columns [n] float64; NaN if not finite."""

  train: dict[str, np.ndarray]  # of every step
  eval: dict[str, np.ndarray]  # of every evaluation


def check(folder: pathlib.Path, settings: ml_collections.ConfigDict) -> None:
  """Checks that a folder is free or holds this run.

  Raises:
    ValueError: If the folder holds a run with other settings, or the file of
      its settings is damaged.
  """
  path = folder / RUN
  if not path.exists():
    return
  wanted, found = json.loads(settings.to_json()), files.read_json(path, _named)
  keys = sorted(
    key for key in wanted | found if wanted.get(key) != found.get(key)
  )
  if keys:
    raise ValueError(
      f'{folder} holds a run with different settings for {", ".join(keys)} '
      f'(see {RUN} there); use another --workdir, or delete the folder.'
    )


def _named(found):
  """What JSON holds, if that is values by name."""
  if not isinstance(found, dict):
    raise TypeError(f'values by name are expected, not {str(found)[:100]!r}')
  return found


def claim(folder: pathlib.Path, settings: ml_collections.ConfigDict) -> None:
  """Creates the folder of a run and writes its settings, unless it has them."""
  folder.mkdir(parents=True, exist_ok=True)
  if not (folder / RUN).exists():
    files.write(folder / RUN, settings.to_json(indent=2) + '\n')


def check_metrics(folder: pathlib.Path, position: int) -> None:
  """Raises ValueError if the metrics of a run are shorter, in bytes."""
  path = folder / METRICS
  size = path.stat().st_size if path.exists() else 0
  if size < position:
    raise ValueError(
      f'{path} holds {size} of the {position} bytes that it is to have'
    )


def open_log(folder: pathlib.Path, position: int, examples: int) -> Log:
  """Opens the files of a run for appending.

  Args:
    folder: The folder of the run.
    position: How many bytes of its metrics to keep.
    examples: How many examples it has consumed; later events are dropped.
  """
  if not position:
    for old in folder.glob(events.PATTERN):
      old.unlink()
  path = folder / METRICS
  path.touch()
  lines = path.open('r+b')
  lines.truncate(position)
  lines.seek(position)
  return Log(
    lines, events.open_file(folder, examples + 1 if position else None)
  )


def write(log: Log, kind: str, record: dict[str, Any]) -> None:
  """Writes one record: a JSON line, and scalars against examples."""
  record = {k: v.item() if hasattr(v, 'item') else v for k, v in record.items()}
  finite = {k: v for k, v in record.items() if math.isfinite(v)}
  line = {'kind': kind} | dict.fromkeys(record) | finite
  with files.naming(log.lines.name):
    log.lines.write(json.dumps(line).encode() + b'\n')
  tagged = {f'{kind}/{name}': value for name, value in finite.items()}
  events.write(log.events, tagged, record['examples'])


def flush(log: Log) -> int:
  """Flushes all buffers; returns the length of the metrics in bytes."""
  with files.naming(log.lines.name):
    log.lines.flush()
    os.fsync(log.lines.fileno())
  events.flush(log.events)
  return log.lines.tell()


def close(log: Log) -> None:
  """Closes the files, both even if there is no room for the last lines."""
  try:
    with files.naming(log.lines.name):
      log.lines.close()
  finally:
    events.close(log.events)


def save_end(folder: pathlib.Path, end: End) -> None:
  """Writes how a run ended."""
  files.write(folder / END, json.dumps(end._asdict()) + '\n')


def _end(found):
  finished, seconds, programs = End(**_named(found))
  if not isinstance(finished, bool):
    raise TypeError(f'finished={finished!r} is not true or false')
  return End(finished, float(seconds), int(programs))


def read_end(folder: pathlib.Path) -> End | None:
  """How a run ended, or None if it never started or was killed.

  Raises:
    ValueError: If the file of it is damaged; it names the file.
  """
  path = folder / END
  return files.read_json(path, _end) if path.exists() else None


def read(folder: pathlib.Path) -> Curves:
  """Reads the metrics of a run.

  A last line that was cut short does not count: the run goes on before it.

  Raises:
    ValueError: If another line is damaged; it names file and line.
  """
  path, records = folder / METRICS, {'train': [], 'eval': []}
  for number, line in enumerate(path.read_bytes().split(b'\n')[:-1], 1):
    try:
      record = json.loads(line)
      records[record.pop('kind')].append(record)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
      raise ValueError(
        f'{path}, line {number}, is damaged ({error!r}); delete the folder to '
        'restart the run from scratch.'
      ) from error

  def columns(rows):
    names = rows[0] if rows else ()
    return {
      name: np.array([row[name] for row in rows], float) for name in names
    }

  return Curves(**{kind: columns(rows) for kind, rows in records.items()})
