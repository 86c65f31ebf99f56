"""A file that a kill or a full disk leaves in pieces."""

import errno
import json
import os

import ml_collections
import pytest

from adaopt.experiments import files, records

SETTINGS = ml_collections.ConfigDict({'seed': 1})


def _full(descriptor):
  raise OSError(errno.ENOSPC, 'no room')


def test_a_full_disk_leaves_the_file_as_it_was_and_is_named(
  tmp_path, monkeypatch
):
  path = tmp_path / 'end.json'
  files.write(path, 'α')
  monkeypatch.setattr(os, 'fsync', _full)
  with pytest.raises(OSError, match=r'No space left on device.*end\.json'):
    files.write(path, 'a longer text')
  assert path.read_text(encoding='utf-8') == 'α'
  assert list(tmp_path.iterdir()) == [path]


DAMAGED = [
  b'',
  b'{"seed": ',
  b'\0\0',
  b'\xff',
  b'[1]',
  b'3',
  b'null',
  b'"a text"',
]


@pytest.mark.parametrize('content', DAMAGED)
def test_damaged_settings_and_ends_are_named(tmp_path, content):
  for name, read in (
    (records.RUN, lambda: records.check(tmp_path, SETTINGS)),
    (records.END, lambda: records.read_end(tmp_path)),
  ):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf'{name} is damaged \(.*; delete it'):
      read()
    (tmp_path / name).unlink()
    read()


def test_the_settings_of_a_run_are_written_once(tmp_path):
  records.claim(tmp_path, SETTINGS)
  path = tmp_path / records.RUN
  before = path.stat()
  records.check(tmp_path, SETTINGS)
  records.claim(tmp_path, SETTINGS)
  after = path.stat()
  assert (before.st_ino, before.st_mtime_ns) == (
    after.st_ino,
    after.st_mtime_ns,
  )
  assert json.loads(path.read_text()) == {'seed': 1}


@pytest.mark.parametrize(
  'content',
  [
    b'{}',
    b'{"finished": true}',
    b'{"finished": 1, "seconds": 2.0, "programs": 3}',
    b'{"finished": true, "seconds": "a", "programs": 3}',
    b'{"finished": true, "seconds": 2.0, "programs": null}',
    b'{"finished": true, "seconds": 2.0, "programs": 3, "more": 4}',
  ],
)
def test_an_end_of_another_form_is_named(tmp_path, content):
  (tmp_path / records.END).write_bytes(content)
  with pytest.raises(ValueError, match=r'end\.json is damaged \(.*; delete it'):
    records.read_end(tmp_path)


def test_a_line_of_metrics_that_was_cut_short_does_not_count(tmp_path):
  path = tmp_path / records.METRICS
  line = b'{"kind": "train", "examples": 8}\n'
  for rest in b'{"ki', b'{"kind": "train"}', b'\0\0':
    path.write_bytes(line + rest)
    assert records.read(tmp_path).train['examples'] == [8]


@pytest.mark.parametrize(
  'damage', [b'{"ki', b'[]', b'3', b'{}', b'{"kind": "other"}', b'\xff']
)
def test_a_damaged_line_of_metrics_is_named(tmp_path, damage):
  path = tmp_path / records.METRICS
  path.write_bytes(b'{"kind": "train", "examples": 8}\n' + damage + b'\n')
  with pytest.raises(ValueError, match=r'metrics\.jsonl, line 2, is damaged'):
    records.read(tmp_path)
