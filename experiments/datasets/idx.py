"""MNIST and Fashion-MNIST, read from their four idx files."""

import gzip
import math
import os
import pathlib
from typing import BinaryIO

import numpy as np

from adaopt.experiments.datasets import base

MNIST = base.Source(
  folders=('mnist', 'MNIST/raw', '.'),
  origin='https://yann.lecun.com/exdb/mnist/, or torchvision.datasets.MNIST',
)
FASHION_MNIST = base.Source(
  folders=(
    'fashion_mnist',
    'fashion-mnist',
    'FashionMNIST/raw',
    '/usr/share/datasets/fashion-mnist',
  ),
  origin='https://github.com/zalandoresearch/fashion-mnist, or from Debian: '
  'apt install dataset-fashion-mnist',
)

IDX_FILES = {
  ('train', 'input'): 'train-images-idx3-ubyte',
  ('train', 'label'): 'train-labels-idx1-ubyte',
  ('test', 'input'): 't10k-images-idx3-ubyte',
  ('test', 'label'): 't10k-labels-idx1-ubyte',
}


_CLASSES = 10
_INFLATION = 1100
"""More than gzip makes of a byte at most."""


def _read_shape(file: BinaryIO) -> tuple[int, ...]:
  """The shape of an idx file of unsigned bytes, from its header."""
  magic = file.read(4)
  if len(magic) < 4 or magic[:3] != b'\0\0\x08':
    raise ValueError('it is not an idx file of unsigned bytes')
  axes = magic[3]
  header = file.read(4 * axes)
  if len(header) < 4 * axes:
    raise ValueError(f'its header ends before the last of {axes} sizes')
  return tuple(np.frombuffer(header, '>u4').tolist())


def read_idx(path: str | os.PathLike) -> np.ndarray:
  """Reads an idx file of unsigned bytes, gzipped or not.

  Raises:
    ValueError: If the file is damaged or of another format.

  References:
    LeCun et al., `The MNIST database <https://yann.lecun.com/exdb/mnist/>`_
  """
  path = pathlib.Path(path)
  opened = gzip.open if path.suffix == '.gz' else open
  with base.telling_damage(path), opened(path, 'rb') as file:
    shape = _read_shape(file)
    size = math.prod(shape)
    if size > _INFLATION * path.stat().st_size:
      raise ValueError(f'its header promises {size} bytes')
    # One more, to see whether there is one, and that gzip checks the checksum.
    content = file.read(size + 1)
  if len(content) != size:
    found = f'more than {size}' if len(content) > size else len(content)
    raise ValueError(
      f'{path} holds {found} bytes, but its header promises {size}; get a '
      'fresh copy of it.'
    )
  return np.frombuffer(content, np.uint8).reshape(shape)


def _check(paths: dict[str, pathlib.Path], part: dict[str, np.ndarray]) -> None:
  """Raises ValueError unless the images of a part have their labels."""
  images, labels = part['input'], part['label']
  if images.shape[1:] != (28, 28) or not len(images):
    raise ValueError(
      f'{paths["input"]} holds an array {list(images.shape)} rather than '
      'images [n, 28, 28]; get a fresh copy of it.'
    )
  if labels.shape != images.shape[:1]:
    raise ValueError(
      f'{paths["label"]} holds an array {list(labels.shape)} rather than the '
      f'labels [{len(images)}] of the images in {paths["input"]}; get a fresh '
      'copy of both.'
    )
  if labels.max() >= _CLASSES:
    where = int(np.argmax(labels >= _CLASSES))
    raise ValueError(
      f'{paths["label"]} holds the label {labels[where]} at {where}, but there '
      f'are {_CLASSES} classes; get a fresh copy of it.'
    )


def _find(folder: pathlib.Path) -> dict | None:
  """The path of each idx file, if the folder holds them all."""
  paths = {
    key: base.first_file(folder, file, ('.gz', ''))
    for key, file in IDX_FILES.items()
  }
  return paths if all(paths.values()) else None


def _load(name: str, source: base.Source, data_dir: str | None) -> base.Dataset:
  files = ', '.join(IDX_FILES.values())
  paths = base.search(
    _find,
    source,
    data_dir,
    need=f'{name} needs the four files {files}, each with or without .gz',
  )
  parts = {}
  for part in base.Dataset._fields:
    own = {kind: paths[part, kind] for kind in ('input', 'label')}
    arrays = {kind: read_idx(path) for kind, path in own.items()}
    _check(own, arrays)
    parts[part] = arrays | {'label': arrays['label'].astype(np.int32)}
  return base.Dataset(**parts)


def load_mnist(data_dir: str | None = None) -> base.Dataset:
  """MNIST: 28×28 uint8 images, 60 000 and 10 000."""
  return _load('MNIST', MNIST, data_dir)


def load_fashion_mnist(data_dir: str | None = None) -> base.Dataset:
  """Fashion-MNIST: 28×28 uint8 images, 60 000 and 10 000."""
  return _load('Fashion-MNIST', FASHION_MNIST, data_dir)
