"""Small files, written whole or not at all."""

import contextlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def naming(path: pathlib.Path | str) -> Iterator[None]:
  """Names a file in the OSError of what reads or writes it."""
  try:
    yield
  except OSError as error:
    raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def write(path: pathlib.Path, text: str) -> None:
  """Writes a text; a kill or a full disk leaves the file as it was.

  Raises:
    OSError: If there is no room for it; it names the file.
  """
  new = path.with_name(f'{path.name}.new')
  try:
    with naming(path):
      with new.open('w', encoding='utf-8') as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
      new.replace(path)
  except OSError:
    new.unlink(missing_ok=True)
    raise


def read_json(path: pathlib.Path, make: Callable[[Any], Any]) -> Any:
  """What a file of JSON holds.

  Args:
    path: The file.
    make: From its content to what is returned; raises TypeError or ValueError
      if it has another form.

  Raises:
    ValueError: If the file is damaged or has another form; it names the file.
  """
  try:
    return make(json.loads(path.read_text(encoding='utf-8')))
  except (TypeError, ValueError) as error:
    raise ValueError(
      f'{path} is damaged ({error}); delete it, and the same command goes on.'
    ) from error
