"""What every data set is, and how its files are found and mistrusted."""

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

# What a reader raises where the bytes are not what it expects.
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
  """Where the files of a data set may lie, and where they can be had."""

  folders: tuple[str, ...]  # within the data folder, or absolute
  origin: str


def search(
  find: Callable[[pathlib.Path], Found | None],
  source: Source,
  data_dir: str | None,
  *,
  need: str,
) -> Found:
  """What the first folder of a source holds that holds what is sought.

  Args:
    find: folder → what it holds, or None.
    source: Names the folders.
    data_dir: The data folder; without one, only absolute folders are searched.
    need: The message's beginning: what needs which files.

  Returns:
    What was found.

  Raises:
    FileNotFoundError: If no folder holds it; says where it was looked for.
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
  where = ', '.join(map(str, folders)) or 'no folder, since none was given'
  raise FileNotFoundError(
    f'{need}. Looked in: {where}. Set --data_dir or ADAOPT_DATA to the folder '
    f'that holds {source.folders[0]}/. They can be had from {source.origin}.'
  )


def first_file(
  folder: pathlib.Path, name: str, suffixes: tuple[str, ...]
) -> pathlib.Path | None:
  """The first of folder/name + suffix that is a file."""
  paths = (folder / f'{name}{suffix}' for suffix in suffixes)
  return next((path for path in paths if path.is_file()), None)


@contextlib.contextmanager
def telling_damage(path: str | os.PathLike) -> Iterator[None]:
  """Turns any error of a reader about wrong bytes into a ValueError."""
  try:
    yield
  except _DAMAGE as error:
    if getattr(error, 'errno', None):  # the system's, not the bytes'
      raise
    raise ValueError(
      f'{path} is damaged ({error}); get a fresh copy of it.'
    ) from error
