"""The form of every data set, and how its files are found and checked."""

import contextlib
import os
import pathlib
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np

Found = TypeVar('Found')

# What a reader raises when it meets unexpected bytes.
_DAMAGE = (
  ArithmeticError,
  AttributeError,
  EOFError,
  LookupError,
  MemoryError,
  OSError,
  TypeError,
  ValueError,
  pickle.UnpicklingError,
  tarfile.TarError,
  zipfile.BadZipFile,
  zlib.error,
)


class Dataset(NamedTuple):
  """Training and test examples: {'input': [n, ...], 'label': [n, ...] int32}.

  Inputs are uint8 images, float32 images or features, or int32 tokens.
  """

  train: dict[str, np.ndarray]
  test: dict[str, np.ndarray]


class Source(NamedTuple):
  """Where the files of a data set may be, and where to get them."""

  folders: tuple[str, ...]  # within the data folder, or absolute
  origin: str


def search(
  find: Callable[[pathlib.Path], Found | None],
  source: Source,
  data_dir: str | None,
  *,
  need: str,
) -> Found:
  """Searches the folders of a source and returns the first result.

  Args:
    find: folder → the result, or None.
    source: Names the folders.
    data_dir: The data folder; without one, only absolute folders are searched.
    need: Start of the error message: what needs which files.

  Returns:
    What was found.

  Raises:
    FileNotFoundError: If no folder has it; the message lists the folders.
  """
  folders = [
    pathlib.Path(data_dir or '.', folder)
    for folder in source.folders
    if data_dir or os.path.isabs(folder)
  ]
  for folder in folders:
    found = find(folder)
    if found is not None:
      return found
  where = ', '.join(map(str, folders)) or 'no folder, because none was given'
  raise FileNotFoundError(
    f'{need}. Looked in: {where}. Set --data_dir or ADAOPT_DATA to the folder '
    f'that holds {source.folders[0]}/. Get them from {source.origin}.'
  )


def first_file(
  folder: pathlib.Path, name: str, suffixes: tuple[str, ...]
) -> pathlib.Path | None:
  """The first of folder/name + suffix that is a file."""
  paths = (folder / f'{name}{suffix}' for suffix in suffixes)
  return next((path for path in paths if path.is_file()), None)


@contextlib.contextmanager
def telling_damage(path: str | os.PathLike) -> Iterator[None]:
  """Turns a reader's errors about wrong bytes into a ValueError."""
  try:
    yield
  except _DAMAGE as error:
    if getattr(error, 'errno', None):  # an error of the system
      raise
    raise ValueError(
      f'{path} is damaged ({error}); get a fresh copy of it.'
    ) from error
