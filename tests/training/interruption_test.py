"""Ctrl-C that loses the last state, or leaves one that cannot be resumed."""

import pathlib
import re
import subprocess
import sys

import pytest

PROGRAM = pathlib.Path(__file__).with_name('interrupted_runs.py')


@pytest.mark.slow
@pytest.mark.parametrize('driver', ['traced', 'dispatched'])
def test_a_run_interrupted_anywhere_resumes_to_the_last_bit(driver):
  done = subprocess.run(
    [sys.executable, PROGRAM, driver, '20'],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  counts = re.search(r'interrupted (\d+), differ (\d+)', done.stdout)
  interrupted, differ = map(int, counts.groups())
  # A signal may come when a run on a busy machine is over.
  assert interrupted >= 10
  assert differ == 0
