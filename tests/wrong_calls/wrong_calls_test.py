"""If these fail, a mistake meets a traceback, or passes and counts."""

import pathlib

import pytest

import adaopt
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


def id_of(row):
  value = table.label(row.wrong.value)
  return f'{table.name_of(row.public)}-{row.argument}-{value}'


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
