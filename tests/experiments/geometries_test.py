"""A margin over the wrong norm, or over less than the most that is possible."""

import csv

import jax
import numpy as np
import pytest
import scripts

from adaopt import logistic
from adaopt.experiments import results
from adaopt.experiments.large_steps import geometries, separable

STEPS = 300


@pytest.fixture(name='measured', scope='module')
def measure():
  """Sign descent on two digits: its schedule, and what was measured."""
  with jax.enable_x64(True):
    pair = separable.digits_pair((0, 1))
    setting = geometries.OF_TWO
    most = geometries.maxima(setting, pair.features, pair.labels)
    schedule = geometries.schedules(setting, pair.features, 5.0)('max')
    found = geometries.measure(
      setting,
      logistic.sign_descent(schedule),
      logistic.make_problem(pair.features, pair.labels),
      most,
      STEPS,
    )
    alone = logistic.solve(
      logistic.sign_descent(schedule),
      pair.features,
      pair.labels,
      max_steps=STEPS,
    )
    return pair, schedule(3), most, found, alone


@pytest.mark.slow
def test_steps_are_in_the_unit_of_the_margins(measured):
  pair, step, _, _, _ = measured
  # The dual of the max norm is the sum, and √(3 + 1) = 2.
  longest = np.max(np.sum(np.abs(pair.features), 1))
  np.testing.assert_allclose(step, 5 / longest / 2)


def test_no_margin_is_above_its_maximum_and_the_first_solution_is_seen(
  measured,
):
  _, _, most, curves, alone = measured
  assert curves.steps[-1] == STEPS
  assert set(curves.ratios) == set(most) == {'sum', 'euclidean', 'max'}
  assert all(np.all(ratio <= 1 + 1e-9) for ratio in curves.ratios.values())
  assert alone.solved
  assert curves.first == int(alone.iterations)
  # An iterate separates the classes where its margins are positive.
  solved = curves.steps[curves.ratios['max'] > 0]
  assert curves.first <= solved[0]
  # ‖θ‖_1 is at least ‖θ‖_2, and that at least ‖θ‖_∞.
  scaled = [curves.ratios[norm] * most[norm] for norm in most]
  positive = scaled[0] > 0
  assert np.all(np.diff([s[positive] for s in scaled], axis=0) >= 0)


def test_rows_say_what_is_unsolved_and_leave_other_norms_out():
  ratios = {'sum': np.array([0.1, 0.25]), 'max': np.zeros(2)}
  curves = geometries.Curves(np.array([1, 9]), ratios, first=4)
  never = curves._replace(first=2**31 - 1)
  rows = geometries.summarise('pair', {'a': curves, 'b': never})
  assert list(rows.iterations) == [4, 9]
  assert list(rows.solved) == [True, False]
  assert list(rows['sum']) == [0.25, 0.25]
  assert np.isnan(rows.spectral).all()
  table = results.table(rows, geometries.COLUMNS)
  _, _, first, second = table.splitlines()
  cells = [cell.strip() for cell in first.split('|')[1:-1]]
  assert cells == ['pair', 'a', '4', '0.250', '', '0.000', '']
  assert '| > 9' in second


@pytest.mark.slow
def test_the_script_leaves_a_table_and_a_picture(tmp_path):
  done = scripts.run(
    'large_steps.geometries',
    f'--workdir={tmp_path}',
    '--margins_of=digits_3_9',
    '--descent_steps=200',
  )
  assert done.returncode == 0, done.stderr
  assert (tmp_path / 'geometries.png').stat().st_size > 0
  assert (tmp_path / 'geometries.md').read_text().strip() in done.stdout
  with (tmp_path / 'geometries.csv').open() as file:
    rows = {row['method']: row for row in csv.DictReader(file)}
  # As in the table of Normalized LR+GD on digits.
  assert rows['NLR, γ = 1']['iterations'] == '99'


@pytest.mark.slow
def test_the_script_names_a_missing_file(tmp_path):
  done = scripts.run(
    'large_steps.geometries',
    f'--data_dir={tmp_path}',
    f'--workdir={tmp_path}',
    '--margins_of=mnist',
  )
  assert done.returncode == 1
  assert 'MNIST needs the four files' in done.stderr
  assert 'Traceback' not in done.stderr
