"""If these fail, a mistake meets a traceback, or passes and counts."""

import importlib
import inspect
import pathlib
import pkgutil

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
from tests.wrong_calls import (
  of_criteria,
  of_logistic,
  of_losses,
  of_optimizers,
  of_training,
  table,
)

PACKAGE = pathlib.Path(adaopt.__file__).parent
SUBJECTS = of_optimizers, of_criteria, of_logistic, of_losses, of_training
CASES = [case for subject in SUBJECTS for case in subject.CASES]
ROWS = [row for case in CASES for row in table.rows_of(case)]

# What only the toolkit makes.
RESULTS = (
  batch_size.AccumulateState,
  batch_size.AdaptBatchSizeState,
  batch_size.ScheduleBatchSizeState,
  criteria.GoodputState,
  criteria.GradientDiversityState,
  criteria.Seconds,
  logistic.Problem,
  logistic.Separation,
  logistic.Solution,
  logistic.State,
  logistic.Trajectory,
  noise.NoiseEstimates,
  noise.NoiseReport,
  noise.NoiseRow,
  noise.NoiseScaleState,
  training.Metrics,
  training.Parts,
  transforms.FollowBatchSizeState,
  transforms.ScaleByAdagradNormState,
  transforms.ScaleByAdagradState,
  transforms.ScaleByAdascaleState,
  transforms.ScaleByBatchSizeState,
  transforms.ScaleByExampleScheduleState,
)
# Arguments of which no value is wrong: what a message calls who asks, and
# those that go to the loss function as they are.
FREE = {'test', 'args'}


def public_names():
  """What is public and called, by its name."""
  modules = [adaopt, logistic.bounds]
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


def id_of(row):
  value = table.label(row.value)
  return f'{table.name_of(row.public)}-{row.argument}-{value}'


def test_there_are_thousands_of_rows():
  assert len(ROWS) > 5000


@pytest.mark.parametrize(('name', 'public'), public_names().items())
def test_a_public_name_has_rows_of_each_of_its_arguments(name, public):
  rows = [row for row in ROWS if row.public is public]
  assert rows, name
  if inspect.isfunction(public):
    arguments = {row.argument.split()[0] for row in rows}
    assert not set(inspect.signature(public).parameters) - arguments - FREE


@pytest.mark.parametrize('row', ROWS, ids=id_of)
def test_a_wrong_call_is_answered_by_a_sentence(row):
  with pytest.raises((ValueError, TypeError)) as caught:
    row.call(**row.arguments)
  *_, innermost = caught.traceback
  assert PACKAGE in pathlib.Path(innermost.path).parents
  message = str(caught.value)
  for choices in row.words:
    assert any(words in message for words in choices), (choices, message)


@pytest.mark.parametrize('case', CASES, ids=lambda x: table.name_of(x.public))
def test_the_call_is_right_but_for_the_wrong_value(case):
  (case.call or case.public)(**case.valid)
