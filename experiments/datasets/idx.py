"""MNIST and Fashion-MNIST, read from their four idx files."""

import gzip
import os
import pathlib

import numpy as np

from experiments.datasets import base

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


def read_idx(path: str | os.PathLike) -> np.ndarray:
  """Reads an idx file of unsigned bytes, gzipped or not.

  Args:
    path: The file.

  Returns:
    The array, uint8.

  Raises:
    ValueError: If the file is damaged or of another format.

  References:
    LeCun et al., `The MNIST database <https://yann.lecun.com/exdb/mnist/>`_
  """
  path = pathlib.Path(path)
  content = path.read_bytes()
  if path.suffix == '.gz':
    with base.telling_damage(path):
      content = gzip.decompress(content)
  if len(content) < 4 or content[:3] != b'\0\0\x08':
    raise ValueError(f'{path} is not an idx file of unsigned bytes.')
  start = 4 + 4 * content[3]
  shape = tuple(np.frombuffer(content[4:start], '>u4').astype(int))
  if len(content) != start + np.prod(shape):
    raise ValueError(
      f'{path} holds {len(content) - start} bytes, but its header promises '
      f'{np.prod(shape)}; get a fresh copy of it.'
    )
  return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


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
  parts = {'train': {}, 'test': {}}
  for (part, kind), path in paths.items():
    array = read_idx(path)
    parts[part][kind] = array.astype(np.int32) if kind == 'label' else array
  return base.Dataset(**parts)


def load_mnist(data_dir: str | None = None) -> base.Dataset:
  """MNIST: 28×28 uint8 images, 60 000 and 10 000."""
  return _load('MNIST', MNIST, data_dir)


def load_fashion_mnist(data_dir: str | None = None) -> base.Dataset:
  """Fashion-MNIST: 28×28 uint8 images, 60 000 and 10 000."""
  return _load('Fashion-MNIST', FASHION_MNIST, data_dir)
