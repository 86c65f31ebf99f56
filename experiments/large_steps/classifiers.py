"""Large steps as a classifier of scikit-learn, beside those of scikit-learn.

python -m adaopt.experiments.large_steps.classifiers \
  --workdir=DIR --data_dir=DIR

Two classes that a hyperplane through 0 separates; then, with an intercept,
overlapping classes, ten classes and two of CIFAR-10. In float32; tested on a
fifth of the examples, held out, or on the test set of the data.
"""

import functools
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import pandas as pd
from absl import flags
from sklearn import exceptions, linear_model, model_selection, svm

from adaopt import logistic
from adaopt.experiments import command_line, datasets, options, results
from adaopt.experiments.benchmarks import timing
from adaopt.experiments.large_steps import separable
from adaopt.logistic import classifier


class Split(NamedTuple):
  """Features and labels for training and for testing."""

  train_features: np.ndarray
  test_features: np.ndarray
  train_labels: np.ndarray
  test_labels: np.ndarray


class Task(NamedTuple):
  """A set, and what hyperplanes are to be found for it."""

  load: Callable[[str | None], Split]
  fit_intercept: bool
  max_iter: int  # of large steps


def _separable(name, data_dir):
  """Two classes, a fixed fifth of each held out for testing."""
  examples = separable.PROBLEMS[name](data_dir)
  counted = examples.weights > 0
  features, labels = examples.features[counted], examples.labels[counted]
  split = model_selection.train_test_split(
    np.float32(features), labels, test_size=0.2, random_state=0, stratify=labels
  )
  return Split(*split)


def _whole(name, data_dir, scale=1.0, count=None):
  """The first examples of a data set, and its test set."""
  parts = datasets.DATASETS[name](data_dir)
  flat = [
    np.float32(part['input']).reshape(len(part['label']), -1) / scale
    for part in parts
  ]
  labels = [part['label'] for part in parts]
  return Split(flat[0][:count], flat[1], labels[0][:count], labels[1])


TASKS = {
  **{
    name: Task(functools.partial(_separable, name), False, 3000)
    for name in (
      *('digits_1_8', 'digits_3_9', 'digits_8_9'),
      *('mushrooms', 'mnist', 'fashion_mnist'),
    )
  },
  **{
    name: Task(functools.partial(_whole, name), True, 300)
    for name in ('phishing', 'a9a', 'w8a')
  },
  'digits, 10 classes': Task(functools.partial(_whole, 'digits'), True, 1000),
  'MNIST, 10 classes': Task(
    functools.partial(_whole, 'mnist', scale=255, count=10_000), True, 100
  ),
  # Too long for μ, and for steps until it is separated.
  'cifar10': Task(functools.partial(_separable, 'cifar10'), True, 300),
}

MARGIN_ITER = 1000
"""Iterations of the methods that maximise the margin."""


def large_steps(task: Task) -> dict[str, classifier.LargeStepClassifier]:
  """The classifiers of the toolkit, by name."""
  make = functools.partial(
    classifier.LargeStepClassifier,
    fit_intercept=task.fit_intercept,
    max_iter=task.max_iter,
  )
  longer = functools.partial(make, step_size=None, min_iter=MARGIN_ITER)
  found = {
    'NLR, γ = 30': make(),
    'LR+GD, γ = 1000': make(logistic.lr_gd, step_size=1000.0),
    'perceptron': make(logistic.perceptron, step_size=None),
  }
  of_margin = {
    'dual momentum': longer(logistic.dual_momentum),
    'Nesterov': longer(logistic.nesterov),
  }
  return found if task.fit_intercept else found | of_margin


def of_sklearn(task: Task) -> dict:
  """The classifiers of scikit-learn, by name; their settings are the default.

  But for C of LogisticRegression, which leaves it all but unregularised, and
  for the most iterations.
  """
  intercept = dict(fit_intercept=task.fit_intercept)
  return {
    'LogisticRegression, C = 1e8': linear_model.LogisticRegression(
      C=1e8, max_iter=1000, **intercept
    ),
    'Perceptron': linear_model.Perceptron(random_state=0, **intercept),
    'SGDClassifier': linear_model.SGDClassifier(random_state=0, **intercept),
    'LinearSVC': svm.LinearSVC(random_state=0, **intercept),
  }


def max_margin(split: Split) -> float | None:
  """μ of the training examples, or None if it was not found."""
  with jax.enable_x64(True):
    found = jax.jit(logistic.max_margin)(
      np.float64(split.train_features), split.train_labels
    )
    return float(found.margin) if found.margin > 0 else None


def margin(model, split: Split) -> float:
  """The least distance of a training example of two classes."""
  scores = model.decision_function(split.train_features)
  signs = np.where(split.train_labels == model.classes_[1], 1, -1)
  return float(np.min(signs * scores) / np.linalg.norm(model.coef_))


def compare(name: str, task: Task, split: Split) -> pd.DataFrame:
  """Fits every classifier in turn; a row for each."""
  models = large_steps(task) | of_sklearn(task)
  fits = {
    key: functools.partial(model.fit, split.train_features, split.train_labels)
    for key, model in models.items()
  }
  first = {}
  for key, fit in fits.items():
    begin = time.perf_counter()
    fit()
    first[key] = time.perf_counter() - begin
  milliseconds = timing.in_turns(fits)
  best = None if task.fit_intercept else max_margin(split)
  return pd.DataFrame(
    {
      'task': name,
      'classifier': key,
      'train_accuracy': model.score(split.train_features, split.train_labels),
      'test_accuracy': model.score(split.test_features, split.test_labels),
      # NaN if μ is not known.
      'margin_ratio': margin(model, split) / best if best else np.nan,
      'iterations': int(np.max(model.n_iter_)),  # or epochs
      'first_seconds': first[key],  # of the first fit, which compiles
      'seconds': milliseconds[key] / 1e3,  # of later fits
    }
    for key, model in models.items()
  )


COLUMNS: dict[str, results.Cell] = {
  'data': lambda row: row.task,
  'classifier': lambda row: row.classifier,
  'train': lambda row: f'{row.train_accuracy:.4f}',
  'test': lambda row: f'{row.test_accuracy:.4f}',
  'margin / μ': lambda row: (
    '' if np.isnan(row.margin_ratio) else f'{row.margin_ratio:.3f}'
  ),
  'iterations': lambda row: str(row.iterations),
  'first fit, s': lambda row: f'{row.first_seconds:.2f}',
  'later, s': lambda row: f'{row.seconds:.3f}',
}

_TASKS = flags.DEFINE_multi_enum(
  'task', list(TASKS), list(TASKS), 'Set to run; may be repeated.'
)


def main() -> None:
  """Fits every classifier on every set; writes a table."""
  warnings.simplefilter('ignore', exceptions.ConvergenceWarning)
  timing.print_machine()
  frames = []
  for name in _TASKS.value:
    split = options.load(TASKS[name].load)
    folder = options.make_workdir()
    frames.append(compare(name, TASKS[name], split))
    print(f'\n{results.table(frames[-1], COLUMNS)}', flush=True)
    rows = pd.concat(frames)
    results.save(rows, results.table(rows, COLUMNS), folder, 'classifiers')


if __name__ == '__main__':
  command_line.run(main, ['workdir'], ['data_dir'])
