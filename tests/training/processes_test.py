"""Two processes of four devices each make the run of one."""

import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

import adaopt
from tests.training import shared_run

pytestmark = pytest.mark.slow
PROGRAM = 'tests.training.two_processes'
ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('saved')


@pytest.fixture(scope='module')
def reports(folder):
  """What each process says of each way to hand over the data."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  processes = [
    subprocess.Popen(
      [sys.executable, '-m', PROGRAM, str(i), str(port), folder],
      cwd=ROOT,
      env=os.environ | {'PYTHONPATH': str(ROOT)},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]
  try:
    outputs = [process.communicate(timeout=600) for process in processes]
  finally:
    for process in processes:
      process.kill()
  for process, (_, errors) in zip(processes, outputs, strict=True):
    assert process.returncode == 0, errors
  return [
    dict(line.split('; ', 1) for line in out.splitlines() if '; ' in line)
    for out, _ in outputs
  ]


def check_same_run(reports, way, alone):
  first, second = (report[way] for report in reports)
  assert first == second
  *counts, loss, total = map(float, first.split('; '))
  assert tuple(counts) == alone[:3]
  # The same sums in another order, over all steps.
  np.testing.assert_allclose([loss, total], alone[3:], 1e-4)


@pytest.fixture(scope='module')
def alone():
  return shared_run.run(shared_run.new_state(), shared_run.X)


@pytest.mark.parametrize(
  'way', ['the same arrays', 'global arrays', 'fully sharded']
)
def test_both_processes_make_the_run_of_one(way, reports, alone):
  check_same_run(reports, way, alone)


@pytest.mark.parametrize(
  ('ways', 'count'),
  [
    (['a feed of the same', 'a feed of rows'], 18),
    # Of nine micro-batches and of ten.
    (['feeds of two lengths', 'rows of two lengths'], 9),
  ],
)
def test_both_processes_feed_the_run_of_one_while_both_have_more(
  ways, count, reports
):
  feed = adaopt.feed(shared_run.micro_batches()[:count])
  alone = shared_run.run(shared_run.new_state(), feed)
  for way in ways:
    check_same_run(reports, way, alone)


DATA = (
  'the 2 processes hold different data sets, and a run takes one: pass the '
  'same arrays on all, or make global arrays of their parts by '
  'jax.make_array_from_process_local_data.'
)
FEEDS = (
  'the 2 processes read different micro-batches at position 0, and a run takes '
  'one: yield the same arrays on all'
)
DIFFER = 'the 2 processes differ in {} (of process {})'


@pytest.mark.parametrize(
  ('way', 'sentences'),
  [
    ('a half each', [DATA] * 2),
    ('of two lengths', [DATA] * 2),
    ('other seeds', [DIFFER.format(f'state.seed={i}', i) for i in range(2)]),
    (
      'other parameters',
      [DIFFER.format('state.params', i) for i in range(2)],
    ),
    (
      'other budgets',
      [DIFFER.format(f'num_examples=30{i}', i) for i in range(2)],
    ),
    ('seconds', ['goodput() measures seconds, in which processes differ'] * 2),
    ('other optimizers', [DIFFER.format('optimizer', i) for i in range(2)]),
    ('feeds of other data', [FEEDS] * 2),
    ('feeds of other shapes', [FEEDS] * 2),
    (
      'a feed that fails in one',
      ['the source of the feed failed in process 1', 'the disk is gone'],
    ),
  ],
)
def test_what_differs_is_refused_on_both(way, sentences, reports):
  for report, sentence in zip(reports, sentences, strict=True):
    assert report[way].startswith(sentence)


def test_a_run_of_two_processes_goes_on_in_one(reports, folder):
  del reports  # which were made before it was saved
  check_goes_on(folder, 4)


def check_goes_on(folder, devices):
  feed = adaopt.feed(shared_run.micro_batches())
  expected = shared_run.history(shared_run.new_state(), feed)
  mesh = shared_run.mesh_of(devices)
  restored = shared_run.restore(folder, mesh, shared_run.in_parts)
  actual = shared_run.history(*restored)
  expected = expected[shared_run.STEPS :]
  assert len(actual) > 6
  np.testing.assert_array_equal(actual[:, :2], expected[:, :2])
  # Losses after the same sums in another order.
  np.testing.assert_allclose(actual[:, 2], expected[:, 2], 1e-4)


@pytest.mark.parametrize('devices', [4, 1])
def test_a_run_of_eight_devices_goes_on_on_fewer(devices, tmp_path):
  state = shared_run.new_state()
  mesh = shared_run.mesh_of(8)
  shared_run.save(tmp_path, shared_run.place(state, mesh, shared_run.in_parts))
  check_goes_on(tmp_path, devices)
