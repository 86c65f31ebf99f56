"""Small files, written whole or not at all."""

import json
import os
import pathlib
from typing import Any


def write(path: pathlib.Path, text: str) -> None:
  """Writes a text; a kill or a full disk leaves the file as it was.

  Args:
    path: The file, in a folder that there is.
    text: What it is to hold.

  Raises:
    OSError: If there is no room for it; it names the file.
  """
  new = path.with_name(f'{path.name}.new')
  try:
    with new.open('w', encoding='utf-8') as file:
      file.write(text)
      file.flush()
      os.fsync(file.fileno())
    new.replace(path)
  except OSError as error:
    new.unlink(missing_ok=True)
    raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def read_json(path: pathlib.Path) -> Any:
  """What a file of JSON holds; raises ValueError that names it if damaged."""
  try:
    return json.loads(path.read_text(encoding='utf-8'))
  except ValueError as error:
    raise ValueError(
      f'{path} is damaged ({error}); delete it, and the same command goes on.'
    ) from error
