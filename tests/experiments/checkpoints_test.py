"""A run that does not resume where it was killed, or resumes from bad data."""

import csv
import errno
import gc
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

import adaopt
from adaopt.experiments import checkpoints, records

ROOT = pathlib.Path(__file__).parents[2]
PROGRESS = {'positions': [10, 20], 'evaluated': 30, 'seconds': 1.5}


def a_state(step, width=3, dtype=jnp.float32, optimizer=None):
  optimizer = optax.chain(
    adaopt.schedule_batch_size(4), optimizer or optax.adam(0.1)
  )
  params = {
    'a': jnp.full([width], step, dtype),
    'b': jnp.zeros([], jnp.bfloat16),
  }
  state = adaopt.init_train_state(params, optimizer, seed=7)
  return state._replace(step=jnp.asarray(step, jnp.int32))


def save(manager, step):
  checkpoints.save(manager, step, a_state(step), PROGRESS)


@pytest.fixture
def manager(tmp_path):
  """Three states saved, of which the last two are kept."""
  manager = checkpoints.open_folder(tmp_path)
  for step in (1, 2, 3):
    save(manager, step)
  assert sorted(manager.all_steps()) == [2, 3]
  return manager


def damage(folder, how):
  files = [path for path in folder.rglob('*') if path.is_file()]
  assert files
  for path in files:
    content = path.read_bytes()
    path.write_bytes(how(content))


def halve(content):
  return content[: len(content) // 2]


def test_a_state_comes_back_whole(manager):
  state, progress = checkpoints.latest(manager, a_state(0))
  chex.assert_trees_all_equal(state, a_state(3))
  chex.assert_trees_all_equal_dtypes(state, a_state(3))
  assert progress == PROGRESS


def test_saving_the_same_step_again_changes_nothing(manager):
  checkpoints.save(manager, 3, a_state(3), PROGRESS | {'seconds': 9.0})
  _, progress = checkpoints.latest(manager, a_state(0))
  assert progress == PROGRESS


def test_no_checkpoint_is_none(tmp_path):
  manager = checkpoints.open_folder(tmp_path)
  assert checkpoints.latest(manager, a_state(0)) is None


# Orbax leaves tasks behind when one of them fails.
@pytest.mark.slow
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
@pytest.mark.parametrize('part', ['state', 'progress', ''])
def test_of_a_truncated_checkpoint_the_one_before_is_used(
  manager, part, caplog
):
  damage(pathlib.Path(manager.directory, '3', part), halve)
  state, _ = checkpoints.latest(
    checkpoints.open_folder(pathlib.Path(manager.directory)), a_state(0)
  )
  chex.assert_trees_all_equal(state, a_state(2))
  (warning,) = [r for r in caplog.records if 'damaged' in r.msg]
  assert f'{manager.directory}/3' in warning.getMessage()
  gc.collect()


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_after_a_damaged_checkpoint_the_steps_are_saved_anew(tmp_path, caplog):
  manager = checkpoints.open_folder(tmp_path)
  for step in (10, 20):
    save(manager, step)
  # The second time there is a damaged step 20 set aside already.
  for saved in ([12, 15, 20], [17]):
    damage(tmp_path / '20', halve)
    manager = checkpoints.open_folder(tmp_path)
    checkpoints.latest(manager, a_state(0))
    for step in saved:
      save(manager, step)
    manager = checkpoints.open_folder(tmp_path)
    state, _ = checkpoints.latest(manager, a_state(0))
    chex.assert_trees_all_equal(state, a_state(saved[-1]))
  assert (tmp_path / 'damaged_20').is_dir()
  assert f'renamed to {tmp_path}/damaged_20' in caplog.text
  gc.collect()


def test_a_checkpoint_ahead_of_its_metrics_is_passed_over(tmp_path, caplog):
  manager = checkpoints.open_folder(tmp_path / 'checkpoints')
  for step, position in (1, 10), (2, 20):
    progress = PROGRESS | {'positions': [position]}
    checkpoints.save(manager, step, a_state(step), progress)
  metrics = tmp_path / records.METRICS
  check = lambda progress: records.check_metrics(
    tmp_path, progress['positions'][0]
  )
  metrics.write_bytes(b'x' * 20)
  assert checkpoints.latest(manager, a_state(0), check)[0].step == 2
  metrics.write_bytes(b'x' * 19)
  assert checkpoints.latest(manager, a_state(0), check)[0].step == 1
  assert f'{metrics} holds 19 of the 20 bytes' in caplog.text
  metrics.unlink()
  with pytest.raises(
    ValueError, match=r'none of the checkpoints .* 0 of the 10'
  ):
    checkpoints.latest(manager, a_state(0), check)


def test_a_checkpoint_whose_values_changed_is_noticed(manager, monkeypatch):
  monkeypatch.setattr(checkpoints, '_digest', lambda state: 'another')
  with pytest.raises(ValueError, match='differ from those that were saved'):
    checkpoints.latest(manager, a_state(0))


@pytest.mark.parametrize(
  'options',
  [{'width': 4}, {'dtype': jnp.float16}, {'optimizer': optax.sgd(0.1)}],
)
def test_a_checkpoint_of_something_else_is_refused(manager, options):
  with pytest.raises(ValueError, match='none of the checkpoints') as raised:
    checkpoints.latest(manager, a_state(0, **options))
  assert 'other parameters or another optimizer' in str(raised.value)
  assert str(manager.directory) in str(raised.value)
  assert 'Delete the folder' in str(raised.value)


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
@pytest.mark.parametrize('number', range(6))
def test_without_one_of_its_files_a_checkpoint_is_whole_or_passed_over(
  manager, number
):
  newest = pathlib.Path(manager.directory, '3')
  files = sorted(path for path in newest.rglob('*') if path.is_file())
  # Of the dozen and a half, some that orbax writes for itself.
  files[number * len(files) // 6].unlink()
  manager = checkpoints.open_folder(pathlib.Path(manager.directory))
  state, _ = checkpoints.latest(manager, a_state(0))
  assert int(state.step) in (2, 3)
  chex.assert_trees_all_equal(state, a_state(int(state.step)))
  gc.collect()


def test_what_was_only_begun_is_deleted(manager):
  folder = pathlib.Path(manager.directory)
  begun = folder / '4.orbax-checkpoint-tmp'
  (begun / 'state').mkdir(parents=True)
  manager = checkpoints.open_folder(folder)
  state, _ = checkpoints.latest(manager, a_state(0))
  save(manager, 4)
  assert state.step == 3
  assert not begun.exists()
  assert sorted(manager.all_steps()) == [3, 4]


def test_a_sharded_state_comes_back_sharded_or_not(tmp_path):
  mesh = jax.make_mesh((8,), ('data',))
  sharding = jax.NamedSharding(mesh, jax.P('data'))
  whole = a_state(1, width=16)
  shard = lambda x: jax.device_put(x, sharding) if x.shape == (16,) else x
  sharded = jax.tree.map(shard, whole)
  manager = checkpoints.open_folder(tmp_path)
  checkpoints.save(manager, 1, sharded, PROGRESS)
  for like in (sharded, whole):
    state, _ = checkpoints.latest(manager, like)
    chex.assert_trees_all_equal(state, whole)
    assert state.params['a'].sharding == like.params['a'].sharding


def test_without_room_nothing_is_begun_and_the_folder_is_named(
  manager, monkeypatch
):
  usage = shutil.disk_usage(manager.directory)
  monkeypatch.setattr(
    shutil, 'disk_usage', lambda folder: usage._replace(free=2**17)
  )
  with pytest.raises(OSError, match=rf"No space left.*'{manager.directory}'"):
    save(manager, 4)
  names = {path.name for path in pathlib.Path(manager.directory).iterdir()}
  assert names == {'2', '3'}


@pytest.mark.parametrize(
  'error',
  [
    OSError(errno.EFBIG, 'of a library'),
    ValueError("RESOURCE_EXHAUSTED: writing [os_error_code='27']"),
  ],
)
def test_what_the_disk_refuses_is_an_error_of_the_system(
  manager, monkeypatch, error
):
  def fail(*args, **kwargs):
    raise error

  monkeypatch.setattr(manager, 'save', fail)
  with pytest.raises(OSError, match=rf"File too large: '{manager.directory}/4"):
    save(manager, 4)


def start(workdir, num_examples):
  return subprocess.Popen(
    [
      sys.executable,
      '-m',
      'adaopt.experiments.compare',
      '--config=experiments/configs/digits.py',
      '--schemes=adadagrad',
      f'--workdir={workdir}',
      f'--config.num_examples={num_examples}',
      '--config.schemes.adadagrad.max_batch_size=64',
      '--config.max_micro_batch_size=64',
      '--checkpoint_examples=500',
    ],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
  )


def metrics_but_seconds(folder):
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  return [
    {k: v for k, v in json.loads(line).items() if k != 'seconds'}
    for line in lines
  ]


def send_when_saved_anew(process, folder, number):
  """Sends a signal once there is a checkpoint that was not there before."""
  steps = lambda: {path.name for path in folder.glob('[0-9]*')}
  before, deadline = steps(), time.monotonic() + 120
  while not steps() - before:
    assert process.poll() is None
    assert time.monotonic() < deadline
    time.sleep(0.01)
  process.send_signal(number)
  return process.communicate(timeout=120)


@pytest.mark.slow
def test_a_run_killed_and_resumed_is_the_run_to_the_last_bit(tmp_path):
  whole, parts = tmp_path / 'whole', tmp_path / 'parts'
  num_examples = 20_000
  folder = parts / 'adadagrad' / 'seed_0' / 'checkpoints'
  killed = start(parts, num_examples)
  send_when_saved_anew(killed, folder, signal.SIGKILL)
  assert killed.returncode == -signal.SIGKILL
  # Only now, when both find compiled what the first one ran.
  undisturbed = start(whole, num_examples)
  stopped = start(parts, num_examples)
  output, errors = send_when_saved_anew(stopped, folder, signal.SIGTERM)
  assert stopped.returncode == 0, errors
  assert 'Stopped in adadagrad; the same command resumes' in output
  assert 'adadagrad (1 stopped)' in output
  (row,) = csv.DictReader((parts / 'results.csv').read_text().splitlines())
  assert row['finished'] == 'False'
  # The last evaluation is of the last state, not of the first.
  evaluated = records.read(folder.parent).eval['examples']
  assert evaluated[-1] == int(row['examples']) > 0
  for process in (start(parts, num_examples), undisturbed):
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
  run = pathlib.Path('adadagrad', 'seed_0')
  metrics = metrics_but_seconds(whole / run)
  assert len(metrics) > 300
  assert metrics_but_seconds(parts / run) == metrics
  ends = [
    checkpoints.open_folder(workdir / run / 'checkpoints')
    for workdir in (whole, parts)
  ]
  first, second = (manager.restore(manager.latest_step()) for manager in ends)
  assert len(jax.tree.leaves(first.state)) > 10
  chex.assert_trees_all_equal(first.state, second.state)
