"""Data sets of the experiments, read from files as they are published."""

import gzip
import os
import pathlib
import zlib
from typing import NamedTuple

import numpy as np
from sklearn import datasets as sklearn_datasets
from sklearn import model_selection


class Dataset(NamedTuple):
  """Training and test examples: {'image': [n, ...], 'label': [n] int32}."""

  train: dict[str, np.ndarray]
  test: dict[str, np.ndarray]


class Source(NamedTuple):
  """Where the idx files of a data set may lie, and where they can be had."""

  folders: tuple[str, ...]  # within the data folder, or absolute
  origin: str


MNIST = Source(
  folders=('mnist', 'MNIST/raw', '.'),
  origin='https://yann.lecun.com/exdb/mnist/, or by torchvision.datasets.MNIST',
)
FASHION_MNIST = Source(
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
  ('train', 'image'): 'train-images-idx3-ubyte',
  ('train', 'label'): 'train-labels-idx1-ubyte',
  ('test', 'image'): 't10k-images-idx3-ubyte',
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
  try:
    content = path.read_bytes()
    if path.suffix == '.gz':
      content = gzip.decompress(content)
  except (EOFError, zlib.error, gzip.BadGzipFile) as error:
    raise ValueError(
      f'{path} is damaged ({error}); get a fresh copy of it.'
    ) from error
  if len(content) < 4 or content[:3] != b'\0\0\x08':
    raise ValueError(f'{path} is no idx file of unsigned bytes.')
  start = 4 + 4 * content[3]
  shape = tuple(np.frombuffer(content[4:start], '>u4').astype(int))
  if len(content) != start + np.prod(shape):
    raise ValueError(
      f'{path} holds {len(content) - start} bytes where its header promises '
      f'{np.prod(shape)}; get a fresh copy of it.'
    )
  return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _find_idx(name: str, source: Source, data_dir: str | None) -> dict:
  """The path of each idx file, from the first folder that holds them all."""
  folders = [
    pathlib.Path(data_dir or '.', folder)
    for folder in source.folders
    if data_dir or os.path.isabs(folder)
  ]
  for folder in folders:
    paths = {
      key: path
      for key, file in IDX_FILES.items()
      for path in (folder / file, folder / f'{file}.gz')
      if path.is_file()
    }
    if len(paths) == len(IDX_FILES):
      return paths
  files = ', '.join(IDX_FILES.values())
  where = ', '.join(map(str, folders)) or 'no folder, since none was given'
  raise FileNotFoundError(
    f'{name} needs the four files {files}, each with or without .gz. Looked '
    f'in: {where}. Set --data_dir or ADAOPT_DATA to the folder that holds '
    f'{source.folders[0]}/. They can be had from {source.origin}.'
  )


def _load_idx(name: str, source: Source, data_dir: str | None) -> Dataset:
  parts = {'train': {}, 'test': {}}
  for (part, kind), path in _find_idx(name, source, data_dir).items():
    array = read_idx(path)
    parts[part][kind] = array.astype(np.int32) if kind == 'label' else array
  return Dataset(**parts)


def load_digits(data_dir: str | None = None) -> Dataset:
  """scikit-learn's handwritten digits: 8×8 images in [0, 1], 1437 and 360."""
  del data_dir
  digits = sklearn_datasets.load_digits()
  images = (digits.images / 16).astype(np.float32)
  labels = digits.target.astype(np.int32)
  split = model_selection.train_test_split(
    images, labels, test_size=0.2, random_state=0, stratify=labels
  )
  train_images, test_images, train_labels, test_labels = split
  return Dataset(
    {'image': train_images, 'label': train_labels},
    {'image': test_images, 'label': test_labels},
  )


def load_mnist(data_dir: str | None = None) -> Dataset:
  """MNIST: 28×28 uint8 images, 60 000 and 10 000."""
  return _load_idx('MNIST', MNIST, data_dir)


def load_fashion_mnist(data_dir: str | None = None) -> Dataset:
  """Fashion-MNIST: 28×28 uint8 images, 60 000 and 10 000."""
  return _load_idx('Fashion-MNIST', FASHION_MNIST, data_dir)


DATASETS = {
  'digits': load_digits,
  'mnist': load_mnist,
  'fashion_mnist': load_fashion_mnist,
}
