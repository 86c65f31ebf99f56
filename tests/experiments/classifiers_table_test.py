"""A table that flatters a classifier, or compares what differs."""

import csv

import numpy as np
import pandas as pd
import pytest
import scripts
from sklearn import svm

from adaopt.experiments import results
from adaopt.experiments.large_steps import classifiers


def make_split():
  """Two classes at a distance of 1 from x_0 = 0."""
  features = np.float32([[1, 5], [3, -2], [-1, 4], [-2, -7]])
  labels = np.array([1, 1, -1, -1])
  return classifiers.Split(features, features, labels, labels)


def test_a_margin_is_a_distance_whatever_the_length_of_the_weights():
  split = make_split()
  model = svm.LinearSVC(fit_intercept=False, C=1e5, max_iter=10_000)
  model.fit(split.train_features, split.train_labels)
  expected = classifiers.margin(model, split)
  np.testing.assert_allclose(expected, 1, rtol=1e-3)
  model.coef_ *= -7
  np.testing.assert_allclose(
    classifiers.margin(model, split),
    -np.max(np.abs(split.train_features @ model.coef_[0]))
    / np.linalg.norm(model.coef_),
    rtol=1e-5,
  )


def test_the_maximal_margin_is_that_of_the_training_examples():
  split = make_split()
  np.testing.assert_allclose(classifiers.max_margin(split), 1, rtol=1e-6)


def test_all_classifiers_of_a_task_have_the_same_hyperplanes_to_choose_from():
  for task in classifiers.TASKS.values():
    models = classifiers.large_steps(task) | classifiers.of_sklearn(task)
    assert {x.fit_intercept for x in models.values()} == {task.fit_intercept}


def test_a_margin_that_is_not_known_is_a_blank():
  rows = pd.DataFrame(
    {
      'task': ['a9a'],
      'classifier': 'NLR',
      'train_accuracy': 0.85,
      'test_accuracy': 0.84,
      'margin_ratio': np.nan,
      'iterations': 300,
      'first_seconds': 7.0,
      'seconds': 2.5,
    }
  )
  table = results.table(rows, classifiers.COLUMNS)
  header, _, line = table.splitlines()
  cells = dict(
    zip(
      *[[cell.strip() for cell in x.split('|')] for x in (header, line)],
      strict=True,
    )
  )
  assert cells['margin / μ'] == ''
  assert cells['train'] == '0.8500'
  assert cells['later, s'] == '2.500'


@pytest.fixture(name='rows', scope='module')
def make_rows(tmp_path_factory):
  """What the script leaves for one pair of digits."""
  folder = tmp_path_factory.mktemp('classifiers')
  done = scripts.run(
    'large_steps.classifiers',
    f'--workdir={folder}',
    '--task=digits_3_9',
    '--repeats=1',
  )
  assert done.returncode == 0, done.stderr
  assert (folder / 'classifiers.md').read_text().strip() in done.stdout
  with (folder / 'classifiers.csv').open() as file:
    return {row['classifier']: row for row in csv.DictReader(file)}


@pytest.mark.slow
def test_large_steps_separate_a_pair_of_digits(rows):
  assert len(rows) == 9
  for name in ('NLR, γ = 30', 'LR+GD, γ = 1000', 'perceptron', 'Nesterov'):
    assert float(rows[name]['train_accuracy']) == 1
    assert float(rows[name]['margin_ratio']) > 0
    assert float(rows[name]['test_accuracy']) > 0.95


def test_no_margin_is_above_the_maximal_one(rows):
  ratios = {name: float(row['margin_ratio']) for name, row in rows.items()}
  assert max(ratios.values()) <= 1 + 1e-5  # scores in float32
  # 1000 iterations of the methods that maximise it.
  assert ratios['Nesterov'] > 0.99
  assert ratios['dual momentum'] > 0.99
