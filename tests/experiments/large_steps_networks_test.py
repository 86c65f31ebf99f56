"""A set on which linear models are not slow, or a network's row in disguise."""

import csv

import jax
import numpy as np
import pandas as pd
import pytest
import scripts

from adaopt import logistic
from adaopt.experiments.large_steps import networks, scaling, separable, sweeps

DIMENSIONS = (33, 65, 129)


@pytest.fixture(name='rows', scope='module')
def make_rows():
  """Both models by the perceptrons, linear scores by one descent."""
  with jax.enable_x64(True):
    perceptrons = ('BP', 'NBP', 'perceptron')
    linear = scaling.measure(DIMENSIONS, ['linear'], ['LR+GD', *perceptrons])
    methods = ['NLR', 'perceptron']
    product = scaling.measure(DIMENSIONS, ['hadamard'], methods)
    return pd.concat([linear, product])


@pytest.mark.slow
@pytest.mark.parametrize('d', [3, 17])
def test_the_set_has_margin_one_over_root_d(d):
  with jax.enable_x64(True):
    examples = separable.one_feature(d)
    found = logistic.max_margin(
      examples.features,
      examples.labels,
      weights=examples.weights,
      max_steps=100,
    )
    squared_ratio = logistic.bounds.perceptron(*found[:3])
  np.testing.assert_allclose(found.radius, 1)
  np.testing.assert_allclose(found.margin, d**-0.5, rtol=1e-6)
  np.testing.assert_allclose(squared_ratio, d, rtol=1e-6)
  np.testing.assert_array_equal(np.argmax(np.abs(found.params)), 0)


@pytest.mark.parametrize('d', [1, 2, 16])
def test_an_even_number_of_features_is_a_sentence(d):
  with pytest.raises(ValueError, match=f'odd and at least 3, got {d}'):
    separable.one_feature(d)


def test_the_overlap_never_vanishes():
  """The invariant of the proof: |X| ≥ 1/14."""
  features = separable.one_feature(17)
  rows = np.sqrt(17) * features.labels[:, None] * features.features
  for normalised in (False, True):
    params, scale = np.zeros(17), 84  # 84 X is an integer
    for t in range(100):
      wrong = (rows @ params <= 0) * features.weights
      if not wrong.any():
        break
      half = 0.5 if t == 0 and not normalised else 1
      wrong /= wrong.sum() if normalised else 7 / half
      params += wrong @ rows
      # The features that A_0 lacks hold c_1 − c_2, the others c_0 more.
      overlap = scale * (params[1] + params[-1]) / 2
      np.testing.assert_allclose(overlap, np.round(overlap), atol=1e-9)
      assert abs(overlap) >= 6 - 1e-9  # |X| ≥ 1/14
    else:
      pytest.fail('not solved')


@pytest.mark.slow
def test_linear_perceptrons_take_iterations_in_proportion_to_d(rows):
  for method, least in (('BP', 14), ('NBP', 14), ('perceptron', 2)):
    found = scaling.curve(rows, 'linear', method)
    assert list(found) == list(DIMENSIONS)
    for d, iterations in found.items():
      # The bound of the docstring: at equality a margin of 0 is rounded, and
      # may pass. R²/μ² = d is Novikoff's bound, for two of them.
      assert (d - 1) / least <= iterations <= d
    # Rounded to whole iterations, so that α is not exactly 1.
    assert 0.8 < scaling.exponent(found) < 1.2


def test_no_step_size_of_the_sweep_makes_a_linear_model_fast(rows):
  found = scaling.curve(rows, 'linear', 'LR+GD')
  for d, iterations in found.items():
    assert iterations > (d - 1) / 14


def test_a_product_takes_root_d_log_d(rows):
  found = scaling.curve(rows, 'hadamard', 'perceptron')
  for d, iterations in found.items():
    # The leading order of the docstring; a whole update and terms of 1/√d off.
    expected = np.sqrt(d) / 4 * np.log(4 * np.sqrt(d))
    np.testing.assert_allclose(iterations, expected, atol=1.5)
  # The best step size needs no more than log d.
  for d, iterations in scaling.curve(rows, 'hadamard', 'NLR').items():
    assert iterations <= np.log(d)


def test_a_dash_where_no_step_size_solves():
  rows = pd.DataFrame(
    {
      'model': ['linear'],
      'method': 'BP',
      'num_features': 17,
      'step_size': float('inf'),
      'iterations': 34,
      'solved': False,
    }
  )
  *_, line = scaling.table(rows).splitlines()
  assert [cell.strip() for cell in line.split('|')[4:-1]] == ['–', '–']


def test_a_halt_shows_beside_the_accuracy():
  rows = pd.DataFrame(
    {
      'iterations': 9,
      'solved': [False, False, True],
      'accuracy': 0.5,
      'period': [1, 0, 1],
    }
  )
  cells = [networks.cell(row) for row in rows.itertuples()]
  assert cells == ['50.0% (halts)', '50.0%', '9']


@pytest.mark.slow
def test_large_steps_halt_a_relu_network():
  with jax.enable_x64(True):
    examples = separable.digits_pair((1, 8))
    found, path = sweeps.run(
      sweeps.SWEEPS['NLR'],
      examples,
      num_steps=8,
      model=scaling.MODELS['ReLU'],
    )
  assert sweeps.SWEEPS['NLR'].step_sizes[-1] == 100
  # Measured by a loop in numpy: every ReLU is dead at the third iterate.
  assert (found.solved[-1], found.period[-1]) == (False, 1)
  np.testing.assert_allclose(
    np.asarray(path.accuracy)[-1].max(), 0.581, atol=5e-4
  )
  np.testing.assert_array_equal(path.accuracy[-1, 3:], 0)


@pytest.mark.slow
def test_the_script_leaves_tables_and_pictures(tmp_path):
  done = scripts.run(
    'large_steps.networks',
    f'--workdir={tmp_path}',
    '--network_problem=digits_0_1',
    '--network_iterations=60',
    '--network_model=linear',
    '--doublings=0',
  )
  assert done.returncode == 0, done.stderr
  for name in ('scaling', 'digits_0_1_linear'):
    assert (tmp_path / f'{name}.png').stat().st_size > 0
  for name in ('scaling', 'networks'):
    assert (tmp_path / f'{name}.md').read_text().strip() in done.stdout
  with (tmp_path / 'networks.csv').open() as file:
    rows = {
      (row['method'], row['step_size']): row for row in csv.DictReader(file)
    }
  # Measured by plain float64 gradient descent.
  assert rows['LR+GD', '0.1']['iterations'] == '51'


@pytest.mark.slow
def test_the_script_names_a_missing_file(tmp_path):
  done = scripts.run(
    'large_steps.networks',
    f'--data_dir={tmp_path}',
    f'--workdir={tmp_path}',
    '--network_problem=mnist',
  )
  assert done.returncode == 1
  assert 'MNIST needs the four files' in done.stderr
  assert 'Traceback' not in done.stderr
