"""A file that a kill or a full disk leaves in pieces."""

import errno
import json
import os

import ml_collections
import pytest

from experiments import files, records

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


@pytest.mark.parametrize('content', [b'', b'{"seed": ', b'\0\0', b'\xff'])
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
