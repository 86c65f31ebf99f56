"""A language model on a mesh that pads wrongly, or resumes as another run."""

import os
import socket
import subprocess
import sys
import threading

import chex
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from adaopt.experiments import checkpoints, records
from adaopt.experiments.configs import shakespeare_lm
from adaopt.experiments.language_model import layouts, runs, speeches, training
from tests import scripts

TEXT = np.array([1, 2, 0, 0, 3, 0, 4, 5, 6, 7, 8, 0, 0, 9])
"""Speeches of 4, 9 and 1 tokens."""

SMALL = {
  'length': 16,
  'micro_batch_size': 16,
  'num_tokens': 4000,
  'eval_interval': 1400,
  'half_life': 50,
  'model.width': 32,
  'model.num_layers': 2,
  'model.num_heads': 2,
  'optimizer.learning_rate': 1e-2,
  'optimizer.warmup_examples': 50,
  'optimizer.init_batch_size': 4,
}


def test_a_text_is_cut_behind_blank_lines_and_at_the_length():
  pieces = speeches.cut(TEXT, 5)
  np.testing.assert_array_equal(pieces, [[0, 4], [4, 9], [9, 13], [13, 14]])


def test_every_token_is_predicted_once_from_the_one_before():
  (batch,) = speeches.batches(TEXT, 5, 6)
  counted = batch['weight'] > 0
  np.testing.assert_array_equal(batch['label'][counted], TEXT)
  np.testing.assert_array_equal(batch['input'][counted], [0, *TEXT[:-1]])
  assert [len(x) for x in batch.values()] == [6, 6, 6]
  for name in ('input', 'label'):
    assert not np.any(batch[name][~counted])


def test_a_stream_has_every_sequence_once_an_epoch_in_new_orders():
  stream = speeches.stream(TEXT, 5, seed=0)
  epochs = [[stream[i + 4 * e]['label'][0] for i in range(4)] for e in range(9)]
  firsts = sorted(TEXT[speeches.cut(TEXT, 5)[:, 0]])
  assert all(sorted(epoch) == firsts for epoch in epochs)
  assert len(set(map(tuple, epochs))) > 1


def test_arrays_are_taken_apart_along_the_longest_axis_that_devices_divide():
  mesh = layouts.mesh_of_all()
  spec = lambda *shape: tuple(layouts.fully_sharded(mesh, np.zeros(shape)).spec)
  assert spec(4, 128, 512) == (None, None, 'data')
  assert spec(65, 128) == (None, 'data')
  assert spec(512, 512) == ('data',)
  assert spec(65, 129) == ()
  assert spec(128) == ()


def written(folder):
  """A text of 65 characters in speeches, most of them a few letters."""
  rng = np.random.default_rng(0)
  every = '\n'.join(map(chr, range(60, 124)))
  lines = [
    ''.join(rng.choice(list('abcd'), rng.integers(1, 40))) for _ in range(200)
  ]
  folder.mkdir()
  (folder / 'tinyshakespeare.txt').write_text('\n\n'.join([every, *lines]))
  return folder.parent


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  return written(tmp_path_factory.mktemp('data') / 'text')


@pytest.fixture(scope='module')
def config():
  found = shakespeare_lm.get_config()
  found.update_from_flattened_dict(SMALL)
  return found


@pytest.fixture(scope='module')
def run(config, data_dir):
  return runs.prepare(config, str(data_dir))


@pytest.fixture(scope='module')
def beginning(run):
  """Where its feed stands before it is read."""
  return run.feed.get_state()


def train(run, beginning, config, folder, stop_after=None):
  """Trains from the last checkpoint; asks to stop after a number of steps."""
  run.feed.set_state(beginning)
  stop, steps = threading.Event(), 0

  def move(*args):
    nonlocal steps
    steps += 1
    if steps == stop_after:
      stop.set()
    return run.move(*args)

  return training.train(run._replace(move=move), config, folder, stop)


@pytest.fixture(scope='module')
def whole(run, beginning, config, tmp_path_factory):
  """The folder of a run that was never stopped."""
  folder = tmp_path_factory.mktemp('whole')
  assert train(run, beginning, config, folder)
  return folder


def last_of(folder, run):
  """The state that a run ended in."""
  with checkpoints.open_folder(folder / 'checkpoints') as manager:
    state, _ = checkpoints.latest(manager, run.state)
  return state


@pytest.mark.slow
def test_a_run_learns_with_its_budget_in_tokens(whole, config):
  curves = records.read(whole)
  sizes, tokens = curves.train['batch_size'], curves.train['tokens']
  assert tokens[-2] < config.num_tokens <= tokens[-1]
  padded = 16 * curves.train['examples'][-1]
  assert tokens[-1] < 0.9 * padded
  assert sizes[0] == 4 < sizes[-1]
  assert len(curves.eval['tokens']) == 3
  # Nearly all is noise of four letters, log 4 = 1.39 nats a token.
  last = {name: column[-1] for name, column in curves.eval.items()}
  assert last['average_test_loss'] < last['test_loss'] < 1.7


@pytest.mark.slow
def test_a_run_that_was_stopped_resumes_to_the_last_bit(
  whole, run, beginning, config, tmp_path
):
  assert not train(run, beginning, config, tmp_path, stop_after=4)
  assert not train(run, beginning, config, tmp_path, stop_after=2)
  assert train(run, beginning, config, tmp_path)
  metrics = [
    (folder / records.METRICS).read_text() for folder in (tmp_path, whole)
  ]
  assert metrics[0] == metrics[1]
  chex.assert_trees_all_equal(last_of(tmp_path, run), last_of(whole, run))


def start(process, port, workdir, data_dir):
  """One of two processes of four devices each."""
  arguments = [
    '--distributed',
    f'--coordinator=localhost:{port}',
    '--num_processes=2',
    f'--process_id={process}',
    '--config=experiments/configs/shakespeare_lm.py',
    *(f'--config.{name}={value}' for name, value in SMALL.items()),
    f'--workdir={workdir}',
    f'--data_dir={data_dir}',
  ]
  return subprocess.Popen(
    [sys.executable, '-m', 'adaopt.experiments.language_model', *arguments],
    cwd=scripts.ROOT,
    env=os.environ | {'JAX_NUM_CPU_DEVICES': '4', 'JAX_PLATFORMS': 'cpu'},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


@pytest.mark.slow
def test_two_processes_resume_the_run_of_one(
  whole, run, beginning, config, data_dir, tmp_path
):
  records.claim(tmp_path, config)
  assert not train(run, beginning, config, tmp_path, stop_after=4)
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  processes = [start(i, port, tmp_path, data_dir) for i in range(2)]
  try:
    outputs = [process.communicate(timeout=900) for process in processes]
  finally:
    for process in processes:
      process.kill()
  for process, (out, errors) in zip(processes, outputs, strict=True):
    assert process.returncode == 0, errors
    assert 'nats a token' in out
  ours, theirs = records.read(tmp_path), records.read(whole)
  for name in ('batch_size', 'tokens'):
    np.testing.assert_array_equal(ours.train[name], theirs.train[name])
  # Devices of two processes add up in another order, and bfloat16 has 8 bits,
  # of which 60 steps make a hundredth.
  losses = [run.train['loss'] for run in (ours, theirs)]
  np.testing.assert_allclose(*(x[:8] for x in losses), 2e-3)
  np.testing.assert_allclose(*losses, 5e-2)
  averages = [run.eval['average_test_loss'] for run in (ours, theirs)]
  np.testing.assert_allclose(*averages, 1e-2)


def test_weight_decay_holds_for_matrices_by_name(run):
  decayed = runs.is_decayed(run.state.train.params)
  layers = decayed['ScanCheckpointBlock_0']
  assert layers['Dense_0'] == {'kernel': True, 'bias': False}
  assert layers['LayerNorm_0'] == {'scale': False, 'bias': False}
  assert decayed['Embed_0'] == {'embedding': True}


def test_an_average_is_the_mean_until_that_forgets_no_faster(run):
  full = lambda x: jax.tree.map(
    lambda y: jnp.full_like(y, x), run.state.average
  )
  # Ten examples are all that there were; fifty are a half-life.
  whole = run.move(full(1.0), full(3.0), *np.float32([10, 10]))
  half = run.move(full(1.0), full(3.0), *np.float32([50, 1e6]))
  chex.assert_trees_all_close((whole, half), (full(3.0), full(2.0)))


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    ({'layout': 'sharded'}, "unknown layout 'sharded'"),
    ({'half_life': 0}, 'half_life must be'),
    ({'micro_batch_size': 12}, 'which 8 devices cannot share'),
  ],
)
def test_a_config_that_cannot_run_is_a_sentence(
  config, data_dir, change, words
):
  changed = config.copy_and_resolve_references()
  changed.update(change)
  with pytest.raises(ValueError, match=words):
    runs.prepare(changed, str(data_dir))


def test_a_config_of_another_script_is_refused():
  with pytest.raises(ValueError, match='config lacks eval_interval, eval_s'):
    runs.prepare(ml_collections.ConfigDict({'layout': 'replicated'}), None)
