"""Trials of a frontier, kept as lines of a file that a new start reads."""

import json
import os
import pathlib
from typing import NamedTuple


class Trial(NamedTuple):
  """What tells a run apart from all others in a folder."""

  scheme: str
  settings: str  # of the scheme, as JSON
  learning_rate: float
  seed: int


class Outcome(NamedTuple):
  """What a run came to."""

  steps: int
  examples: int
  train_loss: float  # NaN where the run diverged, as in all losses
  validation_loss: float
  test_loss: float
  test_accuracy: float
  seconds: float  # of training
  rounds: tuple[int, ...]  # Σ ⌈b / (P m)⌉ over steps, for every P
  curve: tuple[tuple[int, int], ...]  # (examples, batch size), some 60 points


Found = dict[Trial, Outcome]


def _tuples(value):
  """JSON's lists as tuples."""
  if isinstance(value, list):
    return tuple(map(_tuples, value))
  return value


def read(path: pathlib.Path, settings: str) -> Found:
  """The trials in a file.

  Args:
    path: The file; one that does not exist holds none.
    settings: What all trials depend on, as JSON.

  Returns:
    The outcomes. A last line that a kill has cut short does not count.

  Raises:
    ValueError: If the file was written with other settings, or is damaged.
  """
  if not path.exists():
    return {}
  first, *lines = path.read_bytes().split(b'\n')
  if first.decode() != settings:
    raise ValueError(
      f'{path} holds trials with other settings, {first.decode()[:200]}; use '
      'another --workdir, or delete the file.'
    )
  found = {}
  for number, line in enumerate(lines[:-1], 2):
    try:
      trial, outcome = json.loads(line)
      outcome = {name: _tuples(value) for name, value in outcome.items()}
      found[Trial(**trial)] = Outcome(**outcome)
    except (AttributeError, TypeError, ValueError) as error:
      raise ValueError(
        f'{path}, line {number}, is damaged ({error}); delete the line.'
      ) from error
  return found


def add(
  path: pathlib.Path, settings: str, trial: Trial, outcome: Outcome
) -> None:
  """Adds a trial to a file, and takes away a line that was cut short."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.touch()
  with path.open('r+b') as file:
    whole = file.read().rpartition(b'\n')[0]
    lines = [whole] if whole else [settings.encode()]
    file.seek(len(whole) + 1 if whole else 0)
    line = json.dumps([trial._asdict(), outcome._asdict()]).encode()
    file.write(b'\n'.join([*([] if whole else lines), line, b'']))
    file.truncate()
    file.flush()
    os.fsync(file.fileno())
