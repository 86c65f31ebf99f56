"""If these fail, a mistake meets a traceback, or passes and counts."""

import collections
import importlib
import inspect
import pathlib
import pkgutil
import traceback

import pytest

import adaopt
from adaopt import (
  batch_size,
  criteria,
  logistic,
  noise,
  training,
  transforms,
)
from tests.wrong_calls import table

PACKAGE = pathlib.Path(adaopt.__file__).parent
SUBJECTS = [
  importlib.import_module(f'tests.wrong_calls.{path.stem}')
  for path in sorted(pathlib.Path(__file__).parent.glob('of_*.py'))
]
CASES = [case for subject in SUBJECTS for case in subject.CASES]
ROWS = [row for case in CASES for row in table.rows_of(case)]
# A test for each argument of a public name: for each row it would take longer
# than the rows.
ROWS_OF = collections.defaultdict(list)
for row in ROWS:
  ROWS_OF[f'{table.name_of(row.public)}-{row.argument}'].append(row)

# What only the toolkit makes.
RESULTS = (
  batch_size.AccumulateState,
  batch_size.AdaptBatchSizeState,
  batch_size.HoldUntilState,
  batch_size.ScheduleBatchSizeState,
  criteria.CriticalBatchSizeState,
  criteria.GoodputState,
  criteria.GradientDiversityState,
  criteria.Seconds,
  logistic.CertifiedMargin,
  logistic.Problem,
  logistic.Separation,
  logistic.Settled,
  logistic.Solution,
  logistic.State,
  logistic.Trajectory,
  logistic.multiclass.Problem,
  logistic.multiclass.State,
  noise.AverageState,
  noise.BetweenStepsState,
  noise.NoiseEstimates,
  noise.NoiseReport,
  noise.NoiseRow,
  noise.NoiseScaleState,
  noise.PerTensor,
  noise.TwoLevel,
  training.Metrics,
  training.Parts,
  transforms.FollowBatchSizeState,
  transforms.ScaleByAdagradNormState,
  transforms.ScaleByAdagradState,
  transforms.ScaleByAdascaleState,
  transforms.ScaleByBatchSizeState,
  transforms.RescaleSecondMomentState,
  transforms.ResetMomentsState,
  transforms.ScaleByExampleScheduleState,
  transforms.ScaleByLegwState,
  transforms.ScaleByPowerScheduleState,
)
# Arguments of which no value is wrong: what a message calls who asks, and
# those that go to the loss function as they are.
FREE = {'test', 'args'}


def public_names():
  """What is public and called, by its name."""
  modules = [
    adaopt,
    logistic.bounds,
    logistic.losses,
    logistic.multiclass,
    logistic.risks,
  ]
  for _, room, is_package in pkgutil.iter_modules(adaopt.__path__):
    if is_package and not room.startswith('_'):
      modules.append(importlib.import_module(f'adaopt.{room}'))
  return {
    table.name_of(value): value
    for module in modules
    for name, value in vars(module).items()
    if not name.startswith('_')
    and (inspect.isfunction(value) or inspect.isclass(value))
    and value.__module__.startswith('adaopt.')
    and value not in RESULTS
  }


def fault(row):
  """What is wrong with the answer to a wrong call, or None."""
  try:
    row.call(**row.arguments)
  except Exception as error:
    *_, (innermost, _) = traceback.walk_tb(error.__traceback__)
    message = str(error)
    if not isinstance(error, ValueError | TypeError):
      return f'it is answered by a {type(error).__name__}: {message}'
    if PACKAGE not in pathlib.Path(innermost.f_code.co_filename).parents:
      return f'it is not answered by the toolkit: {message}'
    missing = [x for x in row.words if not any(word in message for word in x)]
    return f'{missing} are not in: {message}' if missing else None
  return 'it is accepted'


def test_there_are_thousands_of_rows():
  assert len(ROWS) > 5000


@pytest.mark.parametrize(('name', 'public'), public_names().items())
def test_a_public_name_has_rows_of_each_of_its_arguments(name, public):
  rows = [row for row in ROWS if row.public is public]
  assert rows, name
  if inspect.isfunction(public):
    arguments = {row.argument.split()[0] for row in rows}
    assert not set(inspect.signature(public).parameters) - arguments - FREE


@pytest.mark.slow
@pytest.mark.parametrize('rows', ROWS_OF.values(), ids=ROWS_OF)
def test_a_wrong_call_is_answered_by_a_sentence(rows):
  faults = [(table.label(row.value), fault(row)) for row in rows]
  assert not [(value, found) for value, found in faults if found]


@pytest.mark.slow
@pytest.mark.parametrize('case', CASES, ids=lambda x: table.name_of(x.public))
def test_the_call_is_right_but_for_the_wrong_value(case):
  (case.call or case.public)(**case.valid)
