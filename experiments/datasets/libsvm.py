"""Two-class sets of features in LIBSVM's text format."""

import functools
import pathlib
from typing import NamedTuple

import numpy as np
from sklearn import datasets, model_selection

from adaopt.experiments.datasets import base

LIBSVM = base.Source(
  folders=('libsvm', '.'),
  origin='https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/binary.html',
)


class Shape(NamedTuple):
  """Facts about a set that its files do not state."""

  num_features: int
  has_test_file: bool = False


SETS = {
  'a9a': Shape(123, has_test_file=True),
  'ijcnn1': Shape(22, has_test_file=True),
  'mushrooms': Shape(112),
  'phishing': Shape(68),
  'w8a': Shape(300),
}


def _read(
  path: pathlib.Path, num_features: int
) -> tuple[np.ndarray, np.ndarray]:
  """Features [n, d] float32, and labels [n] as in the file."""
  with base.telling_damage(path):
    features, labels = datasets.load_svmlight_file(
      path, n_features=num_features, dtype=np.float32, zero_based=False
    )
    values = features.toarray()
    for name, array in (('feature', values), ('label', labels[:, None])):
      finite = np.isfinite(array).all(1)
      if not finite.all():
        raise ValueError(
          f'a {name} of example {1 + int(np.argmin(finite))} is not finite'
        )
  return values, labels


def load_libsvm(name: str, data_dir: str | None = None) -> base.Dataset:
  """A two-class set from LIBSVM's collection, as dense features.

  a9a and ijcnn1 come with a test file. Of the others, a fixed fifth of each
  class is for testing.

  Args:
    name: A key of SETS.
    data_dir: Folder with libsvm/NAME and, if there is one, libsvm/NAME.t;
      plain, or compressed as .gz or .bz2.

  Returns:
    Inputs [n, d] float32 and labels [n] int32: 1 for the class with the larger
    number, 0 for the other.

  Raises:
    FileNotFoundError: If a file is missing.
    ValueError: If a file is damaged or has another shape.

  References:
    Chang and Lin, `LIBSVM <https://doi.org/10.1145/1961189.1961199>`_, 2011
  """
  shape = SETS[name]
  names = (name, f'{name}.t') if shape.has_test_file else (name,)

  def find(folder: pathlib.Path) -> list[pathlib.Path] | None:
    paths = [base.first_file(folder, n, ('.gz', '.bz2', '')) for n in names]
    return paths if all(paths) else None

  files = ' and '.join(names)
  paths = base.search(
    find,
    LIBSVM,
    data_dir,
    need=f'{name} needs {files}, plain or as .gz or .bz2',
  )
  parts = []
  for path in paths:
    features, numbers = _read(path, shape.num_features)
    classes, labels = np.unique(numbers, return_inverse=True)
    if len(classes) != 2:
      raise ValueError(
        f'{path} holds {len(classes)} classes rather than 2; get a fresh copy '
        'of it.'
      )
    parts.append((features, labels.astype(np.int32)))
  if not shape.has_test_file:
    ((features, labels),) = parts
    split = model_selection.train_test_split(
      features, labels, test_size=0.2, random_state=0, stratify=labels
    )
    parts = [split[0::2], split[1::2]]
  return base.Dataset(*({'input': x, 'label': y} for x, y in parts))


LOADERS = {name: functools.partial(load_libsvm, name) for name in SETS}
