"""Results by name, in a file that the next start reads."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

from adaopt.experiments import files

Once = Callable[[str, Callable[[], Any]], Any]
"""(name, compute) → what compute() returned, now or in an earlier start."""


def _read(path, settings):
  if not path.exists():
    return {}
  first, *lines = path.read_text().split('\n')
  if first != settings:
    raise ValueError(
      f'{path} holds results with other settings, {first[:200]}; use another '
      '--workdir, or delete the file.'
    )
  found = {}
  for number, line in enumerate(lines[:-1], 2):
    try:
      name, result = json.loads(line)
      found[name] = result
    except (TypeError, ValueError) as error:
      raise ValueError(
        f'{path}, line {number}, is damaged ({error}); delete the line, and '
        'its result is computed again.'
      ) from error
  return found


def remembering(path: pathlib.Path, settings: str) -> Once:
  """How to compute a result once.

  Args:
    path: The file, a result a line; a last line that was cut short does not
      count.
    settings: What all results depend on, in one line.

  Returns:
    A function that computes what the file lacks, and adds it. Results are what
    JSON can hold.

  Raises:
    ValueError: If the file was written with other settings, or is damaged.
  """
  found = _read(path, settings)

  def once(name, compute):
    if name not in found:
      found[name] = compute()
      path.parent.mkdir(parents=True, exist_ok=True)
      lines = [settings, *map(json.dumps, found.items()), '']
      files.write(path, '\n'.join(lines))
    return found[name]

  return once
