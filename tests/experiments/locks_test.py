"""Two processes in one folder, or a folder that a dead one keeps."""

import errno
import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from adaopt.experiments import locks

HOLD = """
import pathlib, sys, time
from adaopt.experiments import locks
with locks.held(pathlib.Path(sys.argv[1])):
  print('held', flush=True)
  time.sleep(60)
"""


def hold(folder):
  with locks.held(folder):
    pass


def test_a_second_holder_is_told_of_the_first(tmp_path):
  folder = tmp_path / 'runs'
  told = re.escape(f'process {os.getpid()} on {socket.gethostname()}; wait')
  with locks.held(folder), pytest.raises(ValueError, match=told):
    hold(folder)
  hold(folder)


def test_a_holder_that_was_killed_holds_nothing(tmp_path):
  process = subprocess.Popen(
    [sys.executable, '-c', HOLD, str(tmp_path)], stdout=subprocess.PIPE
  )
  with process:
    assert process.stdout.readline() == b'held\n'
    with pytest.raises(ValueError, match=f'process {process.pid} on'):
      hold(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    hold(tmp_path)


def test_where_nothing_can_be_written_the_lock_is_only_read(
  tmp_path, monkeypatch
):
  hold(tmp_path)
  opened = os.open

  def read_only(path, flags, *mode):
    if flags != os.O_RDONLY:
      raise OSError(errno.EROFS, 'read-only')
    return opened(path, flags)

  monkeypatch.setattr(os, 'open', read_only)
  with locks.held(tmp_path), pytest.raises(ValueError, match='in use by'):
    hold(tmp_path)


def test_where_no_lock_can_be_opened_there_is_none(tmp_path, monkeypatch):
  def refuse(*arguments):
    raise OSError(errno.EROFS, 'read-only')

  monkeypatch.setattr(os, 'open', refuse)
  with locks.held(tmp_path), locks.held(tmp_path):
    pass
