"""Two processes of four devices each make the run of one."""

import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.training import shared_run

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope='module')
def reports():
  """What each process says of each way to hand over the data."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  processes = [
    subprocess.Popen(
      [sys.executable, '-m', 'tests.training.two_processes', str(i), str(port)],
      cwd=ROOT,
      env=os.environ | {'PYTHONPATH': str(ROOT)},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]
  try:
    outputs = [process.communicate(timeout=300) for process in processes]
  finally:
    for process in processes:
      process.kill()
  for process, (_, errors) in zip(processes, outputs, strict=True):
    assert process.returncode == 0, errors
  return [
    dict(line.split('; ', 1) for line in out.splitlines() if '; ' in line)
    for out, _ in outputs
  ]


@pytest.fixture(scope='module')
def alone():
  return shared_run.run(shared_run.new_state(), shared_run.X)


@pytest.mark.parametrize(
  'way', ['the same arrays', 'global arrays', 'fully sharded']
)
def test_both_processes_make_the_run_of_one(way, reports, alone):
  first, second = (report[way] for report in reports)
  assert first == second
  steps, size, *numbers = map(float, first.split('; '))
  assert (steps, size) == alone[:2]
  # The same sums in another order, over all steps.
  np.testing.assert_allclose(numbers, alone[2:], 1e-4)


@pytest.mark.parametrize('way', ['a half each', 'of two lengths'])
def test_different_data_are_refused(way, reports):
  for report in reports:
    assert report[way].startswith(
      'the 2 processes hold different data sets, and a run takes one: pass the '
      'same arrays on all, or make global arrays of their parts by '
      'jax.make_array_from_process_local_data.'
    )
