"""A sweep of the wrong problem, or a table that makes a method look better."""

import csv
import functools
import math

import jax
import logistic_oracles as oracles
import numpy as np
import pandas as pd
import pytest
import scripts

from adaopt.experiments import results
from adaopt.experiments.benchmarks import large_steps as benchmark
from adaopt.experiments.benchmarks import numpy_sweeps
from adaopt.experiments.large_steps import separable, solutions, sweeps


def make_train():
  """Images of 2×2 pixels, of classes 0, 1, 2, 0, 1, 2, …."""
  images = np.arange(48, dtype=np.uint8).reshape(12, 2, 2)
  return {'input': images, 'label': np.arange(12, dtype=np.int32) % 3}


def test_a_pair_is_the_first_images_of_its_classes():
  train = make_train()
  pair = separable.image_pair(train, (2, 0), (3, 1))
  # Rows 2, 5 and 8 are of class 2, row 0 of class 0.
  np.testing.assert_array_equal(pair.labels, [-1, 1, 1, 1])
  pixels = train['input'].reshape(12, 4) / 255
  np.testing.assert_array_equal(pair.features, pixels[[0, 2, 5, 8]])
  np.testing.assert_array_equal(pair.weights, np.ones(4))


def test_more_images_than_there_are_is_a_sentence():
  with pytest.raises(ValueError, match='class 1 has 4 images, fewer than 5'):
    separable.image_pair(make_train(), (0, 1), (4, 5))


def test_a_digit_pair_has_both_classes_whole():
  pair = separable.digits_pair((1, 8))
  assert pair.features.shape == (356, 64)
  assert pair.features.max() == 1
  assert np.sum(pair.labels == 1) == 182  # how many ones there are
  assert np.sum(pair.labels == -1) == 174


def test_padding_is_not_counted():
  pair = separable.digits_pair((1, 8))
  padded = separable.padded(pair, 360)
  assert padded.features.shape == (360, 64)
  np.testing.assert_array_equal(padded.features[:356], pair.features)
  np.testing.assert_array_equal(padded.weights, [1] * 356 + [0] * 4)


def test_no_pair_of_digits_is_longer_than_the_longest():
  pairs = [separable.digits_pair(pair) for pair in separable.DIGITS]
  assert max(len(pair.labels) for pair in pairs) == separable.LONGEST


@pytest.fixture(name='hard', scope='module')
def make_hard():
  """Every row of the hard set."""
  with jax.enable_x64(True):
    examples = separable.hard_set(1000)
    separated = sweeps.separation(examples, max_steps=100)
    frames = []
    for method, sweep in sweeps.SWEEPS.items():
      found, _ = sweeps.run(sweep, examples, num_steps=400)
      bounds = solutions.bounds(method, separated)
      frames.append(solutions.summarise('hard_set', method, found, **bounds))
  return pd.concat(frames)


@pytest.mark.slow
def test_the_worst_case_of_table_1(hard):
  iterations = hard.set_index(['method', 'step_size']).iterations
  assert [iterations['NLR', g] for g in (100, 10, 1, 0.1)] == [2, 2, 16, 157]
  assert iterations['LR+GD', 100] == 308
  # The first k above (3n + 2) / 10.
  assert iterations['BP', math.inf] == 301


def test_rows_keep_to_their_bounds_and_say_what_is_unsolved(hard):
  for row in hard.itertuples():
    np.testing.assert_allclose(row.squared_ratio, 5)
    if row.solved:
      assert row.iterations <= row.bound
    else:
      assert row.iterations == 400
  by_key = hard.set_index(['method', 'step_size'])
  bound, solved = by_key.bound, by_key.solved
  np.testing.assert_allclose(bound['NBP', math.inf], 5)
  np.testing.assert_allclose(bound['BP', math.inf], 5000)
  # R² = 1.25 and μ² = 0.25.
  expected = 5 + 2 * math.log(1999) / (0.1 * 0.25)
  np.testing.assert_allclose(bound['NLR', 0.1], expected)
  np.testing.assert_allclose(bound['LR+GD', 0.1], 2000 * expected)
  assert not solved['LR+GD', 0.001]
  assert solved['NLR', 100]


def test_the_overview_has_a_perceptron_for_every_limit(hard):
  overview, _ = solutions.tables(hard).split('\n\n')
  _, _, *lines = overview.splitlines()
  cells = [[cell.strip() for cell in line.split('|')[1:-1]] for line in lines]
  assert cells == [
    ['hard_set', 'LR+GD, BP', *['> 400'] * 5, '308', '301'],
    ['hard_set', 'NLR, NBP', *['> 400'] * 2, '157', '16', '2', '2', '2'],
  ]


def test_nothing_is_claimed_where_no_margin_is_known():
  features = np.array([[1.0], [1.0]])
  examples = separable.Examples(features, np.array([1, -1]), np.ones(2))
  assert sweeps.separation(examples, max_steps=10) is None
  found, _ = sweeps.run(sweeps.SWEEPS['NBP'], examples, num_steps=7)
  bounds = solutions.bounds('NBP', None)
  rows = solutions.summarise('problem', 'NBP', found, **bounds)
  (row,) = rows.itertuples()
  assert row.bound == row.squared_ratio == math.inf
  assert '| > 7' in results.table(rows, solutions.COLUMNS)
  assert row.iterations == 7


@pytest.mark.slow
@pytest.mark.parametrize('layout', benchmark.LAYOUTS)
def test_padding_leaves_the_iterations_as_they_are(layout):
  pairs = [separable.digits_pair(pair) for pair in ((0, 1), (8, 9))]
  layout = benchmark.LAYOUTS[layout]
  mesh = benchmark.make_mesh(len(pairs))
  assert mesh.size == 2
  k = benchmark.STEP_SIZES.index(10.0)
  args = np.float32(benchmark.STEP_SIZES), benchmark.stacked(pairs)
  for program in (
    benchmark.over_pairs,
    functools.partial(benchmark.over_devices, mesh),
  ):
    make = benchmark.METHODS['NLR']
    found = jax.jit(functools.partial(program, layout, make))(*args)
    # As in float64; float32 may pass 8 v 9 a step or two off.
    np.testing.assert_allclose(found[:, k], [10, 95], atol=2)


@pytest.mark.parametrize('method', benchmark.METHODS)
def test_the_numpy_loops_of_the_benchmark_are_the_method(method):
  pair = separable.digits_pair((0, 1))
  rows = pair.labels[:, None] * pair.features
  oracle = {'LR+GD': oracles.lr_gd, 'NLR': oracles.normalized_lr_gd}[method]
  expected = [
    oracles.first_solution(oracle(rows, 14, step_size), rows)
    for step_size in benchmark.STEP_SIZES
  ]
  for layout in numpy_sweeps.LAYOUTS.values():
    found = numpy_sweeps.sweep(
      layout,
      method,
      [rows],
      benchmark.STEP_SIZES,
      max_steps=benchmark.MAX_STEPS,
    )
    assert found.tolist() == [expected]


@pytest.mark.slow
def test_the_script_leaves_tables_and_pictures(tmp_path):
  done = scripts.run(
    'large_steps',
    f'--workdir={tmp_path}',
    '--problem=hard_set',
    '--problem=digits_0_1',
    '--iterations=60',
  )
  assert done.returncode == 0, done.stderr
  for problem in ('hard_set', 'digits_0_1'):
    assert (tmp_path / f'{problem}.png').stat().st_size > 0
  assert (tmp_path / 'large_steps.md').read_text().strip() in done.stdout
  with (tmp_path / 'large_steps.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 2 * (2 * len(sweeps.STEP_SIZES) + 2)
  (row,) = [
    row
    for row in rows
    if (row['problem'], row['method'], row['step_size'])
    == ('digits_0_1', 'LR+GD', '0.1')
  ]
  # Measured by plain float64 gradient descent.
  assert row['iterations'] == '51'


@pytest.mark.slow
def test_the_script_names_a_missing_file(tmp_path):
  done = scripts.run(
    'large_steps',
    f'--data_dir={tmp_path}',
    f'--workdir={tmp_path}',
    '--problem=mnist',
  )
  assert done.returncode == 1
  assert 'MNIST needs the four files' in done.stderr
  assert 'Traceback' not in done.stderr
