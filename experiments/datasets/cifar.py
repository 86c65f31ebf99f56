"""CIFAR-10, in its two published layouts.

Archives are read without unpacking. Pickles are read by a reader that calls
only its own code, so an untrusted file can do no harm.
"""

import functools
import gzip
import io
import pathlib
import pickle
import tarfile
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from adaopt.experiments.datasets import base

CIFAR10 = base.Source(
  folders=('cifar10', 'cifar-10', '.'),
  origin='https://www.cs.toronto.edu/~kriz/cifar.html',
)

Examples = tuple[np.ndarray, np.ndarray]

_IMAGE_BYTES = 3 * 32 * 32
_MOST = 2**26
"""Bytes of a batch: the official ones take 31 MB."""
_NUMPY = (
  ('numpy', 'ndarray'),
  ('numpy', 'dtype'),
  ('numpy.core.multiarray', '_reconstruct'),
  ('numpy._core.multiarray', '_reconstruct'),
)


class _StandIn:
  """Replaces what a pickle calls, and keeps only the state."""

  def __init__(self, *unused):
    del unused

  def __setstate__(self, state):
    self.state = state


def _encoded(text: str, encoding: str) -> bytes:
  """How Python 3 writes bytes where Python 2 is to read them."""
  if encoding != 'latin1':
    raise pickle.UnpicklingError(f'it encodes in {encoding}')
  return text.encode('latin1')


class _InertUnpickler(pickle.Unpickler):
  """Builds plain containers, and stand-ins for arrays; calls nothing else."""

  def find_class(self, module: str, name: str) -> Callable:
    if (module, name) == ('_codecs', 'encode'):
      return _encoded
    if (module, name) not in _NUMPY:
      raise pickle.UnpicklingError(
        f'it asks for {module}.{name}, which no array needs'
      )
    return _StandIn


def _from_planes(planes: np.ndarray) -> np.ndarray:
  """Rows of 3072 bytes, plane by plane, as images [n, 32, 32, 3]."""
  return planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def decode_pickle(content: bytes) -> Examples:
  """Decodes a batch of the official archive for Python."""
  batch = _InertUnpickler(io.BytesIO(content), encoding='bytes').load()
  # Text where Python 3 has pickled the batch again.
  batch = {
    key.encode() if isinstance(key, str) else key: value
    for key, value in batch.items()
  }
  _, shape, _, by_columns, data = batch[b'data'].state
  planes = np.frombuffer(data, np.uint8).reshape(
    shape, order='F' if by_columns else 'C'
  )
  return _from_planes(planes), np.asarray(batch[b'labels'])


def decode_binary(content: bytes) -> Examples:
  """Decodes a batch of the binary archive: a label and 3072 bytes each."""
  rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + _IMAGE_BYTES)
  return _from_planes(rows[:, 1:]), rows[:, 0]


class Layout(NamedTuple):
  """The names of the six files, where they are and how to decode them."""

  files: tuple[str, ...]  # the test batch last
  decode: Callable[[bytes], Examples]
  folder: str
  archive: str  # contains the folder


LAYOUTS = (
  Layout(
    (*(f'data_batch_{i}' for i in range(1, 6)), 'test_batch'),
    decode_pickle,
    'cifar-10-batches-py',
    'cifar-10-python.tar.gz',
  ),
  Layout(
    (*(f'data_batch_{i}.bin' for i in range(1, 6)), 'test_batch.bin'),
    decode_binary,
    'cifar-10-batches-bin',
    'cifar-10-binary.tar.gz',
  ),
)


def _folder_contents(
  folder: pathlib.Path, layout: Layout
) -> dict[pathlib.Path, bytes]:
  paths = [folder / file for file in layout.files]
  return {path: path.read_bytes() for path in paths}


def _archive_contents(
  path: pathlib.Path, layout: Layout
) -> dict[pathlib.Path, bytes]:
  """Reads the members in one pass, in any order."""
  names = [f'{layout.folder}/{file}' for file in layout.files]
  contents = {}
  with base.telling_damage(path), gzip.open(path) as stream:
    with tarfile.open(fileobj=stream, mode='r:') as archive:
      for member in archive:
        if not member.isfile() or member.name not in names:
          continue
        if member.name in contents:
          raise ValueError(f'it holds {member.name} twice')
        if member.size > _MOST:
          raise ValueError(f'its {member.name} has {member.size} bytes')
        contents[member.name] = archive.extractfile(member).read()
    while stream.read(2**20):  # to the end, where gzip checks the checksum
      pass
    missing = [name for name in names if name not in contents]
    if missing:
      raise ValueError(f'it lacks {", ".join(missing)}')
  return {path / name: contents[name] for name in names}


def _find(folder: pathlib.Path) -> tuple[Layout, Callable] | None:
  """The first layout in a folder, and what reads its files."""
  for layout in LAYOUTS:
    inner = folder / layout.folder
    if all((inner / file).is_file() for file in layout.files):
      return layout, functools.partial(_folder_contents, inner, layout)
    archive = folder / layout.archive
    if archive.is_file():
      return layout, functools.partial(_archive_contents, archive, layout)
  return None


def _decoded(path: pathlib.Path, layout: Layout, content: bytes) -> Examples:
  """Images [n, 32, 32, 3] uint8 and labels [n] int32 of one file."""
  with base.telling_damage(path):
    images, labels = layout.decode(content)
    if not len(images):
      raise ValueError('it holds no images')
    if images.shape[1:] != (32, 32, 3) or labels.shape != images.shape[:1]:
      raise ValueError(f'labels {labels.shape} with images {images.shape}')
    if not np.issubdtype(labels.dtype, np.integer):
      raise ValueError(f'labels of type {labels.dtype}')
    if not np.all((labels >= 0) & (labels <= 9)):
      raise ValueError('a label is not in 0, ..., 9')
    return np.ascontiguousarray(images), labels.astype(np.int32)


def _joined(batches: list[Examples]) -> dict[str, np.ndarray]:
  images, labels = zip(*batches, strict=True)
  return {'input': np.concatenate(images), 'label': np.concatenate(labels)}


def load_cifar10(data_dir: str | None = None) -> base.Dataset:
  """CIFAR-10: 32×32×3 uint8 images, 50 000 and 10 000.

  Args:
    data_dir: Folder with one of these, in cifar10/ or directly:
      cifar-10-python.tar.gz or its folder cifar-10-batches-py, or
      cifar-10-binary.tar.gz or its folder cifar-10-batches-bin.

  Returns:
    Inputs [n, 32, 32, 3] uint8 and labels [n] int32, in the official order.

  Raises:
    FileNotFoundError: If none of them is there.
    ValueError: If a file is damaged.

  References:
    Krizhevsky, `Learning Multiple Layers of Features from Tiny Images
    <https://www.cs.toronto.edu/~kriz/cifar.html>`_, 2009
  """
  archives = ' or '.join(
    f'{layout.archive} (or its folder {layout.folder})' for layout in LAYOUTS
  )
  layout, contents = base.search(
    _find, CIFAR10, data_dir, need=f'CIFAR-10 needs {archives}'
  )
  batches = [
    _decoded(path, layout, content) for path, content in contents().items()
  ]
  return base.Dataset(_joined(batches[:-1]), _joined(batches[-1:]))
