"""Results that a kill loses, or that are computed twice."""

import pytest

from adaopt.experiments import journal


def fail():
  pytest.fail('computed again')


def test_what_is_in_the_journal_is_not_computed_again(tmp_path):
  path = tmp_path / 'folder' / 'results.jsonl'
  assert journal.remembering(path, '{}')('a', lambda: [1]) == [1]
  once = journal.remembering(path, '{}')
  assert once('a', fail) == [1]
  assert once('b', lambda: {'x': 3}) == {'x': 3}
  assert journal.remembering(path, '{}')('b', fail) == {'x': 3}


@pytest.mark.parametrize('cut', range(1, 12))
def test_a_line_that_was_cut_short_is_computed_again(tmp_path, cut):
  path = tmp_path / 'results.jsonl'
  once = journal.remembering(path, '{}')
  assert [once(name, lambda: 1.5) for name in 'ab'] == [1.5, 1.5]
  path.write_bytes(path.read_bytes()[:-cut])
  once = journal.remembering(path, '{}')
  assert once('a', fail) == 1.5
  assert once('b', lambda: 2.5) == 2.5


def test_a_result_that_fails_leaves_the_journal_as_it_was(tmp_path):
  path = tmp_path / 'results.jsonl'
  once = journal.remembering(path, '{}')
  once('a', lambda: 1)
  before = path.read_bytes()
  with pytest.raises(ZeroDivisionError):
    once('b', lambda: 1 / 0)
  with pytest.raises(TypeError):
    journal.remembering(path, '{}')('b', object)
  assert path.read_bytes() == before


def test_other_settings_and_damage_are_named(tmp_path):
  path = tmp_path / 'results.jsonl'
  journal.remembering(path, '{}')('a', lambda: 1)
  with pytest.raises(ValueError, match='other settings'):
    journal.remembering(path, '{"seed": 1}')
  path.write_text('{}\n["a", 1]\n?\n')
  with pytest.raises(ValueError, match=r'results.jsonl, line 3, is damaged'):
    journal.remembering(path, '{}')
