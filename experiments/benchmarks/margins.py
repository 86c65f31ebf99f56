"""Times the maximal margin on large data, beside scikit-learn's linear SVM.

python -m adaopt.experiments.benchmarks.margins \
  [--margin_problems=…] [--data_dir=DIR]

Each row is one run, compiled before: seconds, also of the CPU, with which a
machine that others use still compares; the certificate μ_low ≤ μ ≤ μ_high; and
the margin that `LinearSVC` of scikit-learn attains, with no bias and C = 1e10,
in at most --svm_iterations of its own.
"""

import functools
import re
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import scipy.sparse
from absl import flags
from sklearn import exceptions, svm

from adaopt import logistic
from adaopt.experiments import command_line, datasets, options
from adaopt.experiments.benchmarks import timing
from adaopt.experiments.large_steps import separable

NAMES = flags.DEFINE_list(
  'margin_problems',
  ['dense', 'sparse', 'mnist_0_1', 'fashion_mnist_3_8', 'cifar10_0_1'],
  'dense, sparse, or a data set and two classes, as in cifar10_3_5.',
)
WIDE = flags.DEFINE_bool('float64', False, 'Whether to compute in float64.')
SVM_ITERATIONS = flags.DEFINE_integer(
  'svm_iterations', 1000, '0: without scikit-learn.', lower_bound=0
)
CONSTANT = 1e10  # C of the SVM: as good as none of its slack
SVM_TITLES = 'LinearSVC', 'LinearSVC s'

Data = tuple[Any, np.ndarray]  # features [n, d], labels ±1 [n]


def dense(n: int = 100_000, d: int = 1000) -> Data:
  """Normal rows, moved apart by 0.2 along a direction."""
  rng = np.random.default_rng(0)
  features, direction = rng.normal(size=(n, d)), rng.normal(size=d)
  direction /= np.linalg.norm(direction)
  labels = np.where(features @ direction > 0, 1, -1)
  return features + 0.1 * labels[:, None] * direction, labels


def sparse(n: int = 100_000, d: int = 10_000, entries: int = 10) -> Data:
  """Normal entries at random places, without the rows nearest to a plane."""
  rng = np.random.default_rng(0)
  rows = np.repeat(np.arange(2 * n), entries)
  columns = rng.integers(d, size=rows.size)
  values = rng.normal(size=rows.size)
  features = scipy.sparse.csr_array((values, (rows, columns)), (2 * n, d))
  products = features @ rng.normal(size=d)
  kept = np.sort(np.argsort(-np.abs(products))[:n])
  return features[kept], np.where(products > 0, 1, -1)[kept]


def images(name: str, data_dir: str | None) -> Data:
  """All training images of two classes, as in mnist_0_1."""
  found = re.fullmatch(r'(\w+)_(\d+)_(\d+)', name)
  if not found or found[1] not in separable.IMAGES:
    raise ValueError(
      f'--margin_problems has {name!r}; take dense, sparse, or one of '
      f'{", ".join(separable.IMAGES)} and two classes, as in cifar10_3_5.'
    )
  train = datasets.DATASETS[found[1]](data_dir).train
  classes = int(found[2]), int(found[3])
  counts = [np.sum(train['label'] == label) for label in classes]
  if 0 in counts or classes[0] == classes[1]:
    raise ValueError(
      f'{name!r} needs two classes that differ, of those in the data, got '
      f'{classes[0]} and {classes[1]}.'
    )
  examples = separable.image_pair(train, classes, counts)
  return examples.features, examples.labels


def load(name: str) -> Data:
  """The problem of a name, in the dtype of the flags."""
  made = {'dense': dense, 'sparse': sparse}
  load_images = functools.partial(images, name, options.DATA_DIR.value)
  features, labels = made.get(name, load_images)()
  return features.astype(np.float64 if WIDE.value else np.float32), labels


def timed(function: Callable[[], Any]) -> tuple[Any, float, float]:
  """What it returns, and the seconds by the clock and by the CPUs."""
  begin = time.perf_counter(), time.process_time()
  result = jax.block_until_ready(function())
  return result, time.perf_counter() - begin[0], time.process_time() - begin[1]


def svm_margin(features: Any, labels: np.ndarray) -> float:
  """The margin of scikit-learn's θ."""
  fit = svm.LinearSVC(
    C=CONSTANT,
    loss='hinge',
    fit_intercept=False,
    tol=1e-6,
    max_iter=SVM_ITERATIONS.value,
  )
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', exceptions.ConvergenceWarning)
    theta = fit.fit(features, labels).coef_.ravel()
  return np.min(labels * (features @ theta)) / np.linalg.norm(theta)


def main() -> None:
  """Prints a row for each problem."""
  jax.config.update('jax_enable_x64', WIDE.value)
  timing.print_machine()
  timing.print_header(
    *('problem', 'n × d', 's', 'CPU s', 'steps', 'μ_low', 'μ_high', 'R'),
    *('converged', *(SVM_TITLES if SVM_ITERATIONS.value else ())),
  )
  for name in NAMES.value:
    try:
      features, labels = load(name)
    except (OSError, ValueError) as error:
      sys.exit(str(error))
    data = logistic.make_problem(features, labels).features
    found, seconds, busy = timed(
      timing.compiled(logistic.max_margin, data, labels)
    )
    cells = [
      *(name, ' × '.join(map(str, features.shape))),
      *(f'{seconds:.1f}', f'{busy:.1f}', found.iterations),
      *(f'{x:.7g}' for x in (found.margin, found.margin + found.gap)),
      *(f'{found.radius:.4g}', found.converged),
    ]
    if SVM_ITERATIONS.value:
      margin, seconds, _ = timed(
        functools.partial(svm_margin, features, labels)
      )
      cells += [f'{margin:.7g}', f'{seconds:.1f}']
    timing.print_row(*cells)


if __name__ == '__main__':
  command_line.run(main, optional=['data_dir'])
