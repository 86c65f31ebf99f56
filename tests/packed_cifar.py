"""CIFAR-10 in a third of its size, for tests on the real images.

  python tests/packed_cifar.py PACKED DATA_DIR

writes cifar-10-batches-bin below DATA_DIR from train_1.npz to train_5.npz and
test.npz in PACKED, each with `residual` [3, n, 32, 32] uint8 and `labels` [n]
uint8. The planes are R − G, G and B − G, stored as differences between rows and
between columns, modulo 256.
"""

import pathlib
import sys

import data_files
import numpy as np

from adaopt.experiments.datasets import cifar

FILES = (*(f'train_{i}.npz' for i in range(1, 6)), 'test.npz')
BINARY = cifar.LAYOUTS[1]


def packed(images):
  """The differences of images [n, 32, 32, 3]."""
  red, green, blue = images.transpose(3, 0, 1, 2)
  planes = np.stack([red - green, green, blue - green])
  zero = np.uint8(0)
  return np.diff(np.diff(planes, axis=2, prepend=zero), prepend=zero)


def unpacked(residual):
  """The images [n, 32, 32, 3] of their differences."""
  planes = residual.cumsum(2, dtype=np.uint8).cumsum(3, dtype=np.uint8)
  planes[0] += planes[1]
  planes[2] += planes[1]
  return planes.transpose(1, 2, 3, 0)


def unpack(source, data_dir):
  """Writes the binary layout that the loader reads."""
  folder = pathlib.Path(data_dir, BINARY.folder)
  folder.mkdir(parents=True, exist_ok=True)
  for name, file in zip(FILES, BINARY.files, strict=True):
    with np.load(pathlib.Path(source, name)) as batch:
      images = unpacked(batch['residual'])
      content = data_files.binary(images, batch['labels'])
    (folder / file).write_bytes(content)


if __name__ == '__main__':
  unpack(*sys.argv[1:])
