"""A config that lies, or a run that leaves no trace."""

import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import data_files
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import datasets, models, results, runs, schemes, train
from experiments.configs import digits, mnist_cnn, mnist_logistic

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize('config', [digits, mnist_logistic, mnist_cnn])
def test_configs_name_what_there_is(config):
  config = config.get_config()
  assert config.dataset in datasets.DATASETS
  assert config.model in models.MODELS
  for scheme in config.schemes.values():
    schemes.make_optimizer(scheme)


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    ({'dataset': 'imagenet'}, "unknown dataset 'imagenet'"),
    ({'model': 'vgg'}, "unknown model 'vgg'; there are 'logistic'"),
    ({'schemes.adadagrad.optimizer': 'adam'}, "unknown optimizer 'adam'"),
    ({'schemes.adadagrad.test': 't'}, "unknown test 't'"),
    ({'schemes.adadagrad.eta': -1.0}, 'eta must be positive'),
    ({'schemes.adadagrad.init_batch_size': 2000}, 'exceeds max_value=1437'),
    (
      {
        'schemes.adadagrad.test': 'inner_product',
        'schemes.adadagrad.theta': -1.0,
      },
      'theta must be',
    ),
    ({'num_examples': 0}, 'num_examples .* got 0'),
    ({'eval_interval': 0}, 'eval_interval .* got 0'),
    ({'num_seeds': 0}, 'num_seeds .* got 0'),
  ],
)
def test_a_wrong_config_is_refused_before_training(overrides, message):
  config = digits.get_config()
  config.update_from_flattened_dict(overrides)
  with pytest.raises(ValueError, match=message):
    runs.plan(config)


def test_a_scheme_that_lacks_a_tolerance_is_refused():
  config = digits.get_config()
  del config.schemes.adadagrad.eta
  with pytest.raises(ValueError, match=r'lacks a value.*eta'):
    runs.plan(config)


def small_digits(**schemes_kept):
  config = digits.get_config()
  config.num_examples = 3000
  config.eval_interval = 1000
  config.max_micro_batch_size = 64
  for name in list(config.schemes):
    if name not in schemes_kept:
      del config.schemes[name]
  return config


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """Two seeds of one adaptive and one fixed scheme, and what they left."""
  workdir = tmp_path_factory.mktemp('runs')
  config = small_digits(adadagrad=1, adagrad_256=1)
  config.num_seeds = 2
  return config, workdir, train.run_all(runs.plan(config), config, workdir)


def test_every_run_leaves_its_files(trained):
  config, workdir, rows = trained
  assert json.loads((workdir / 'config.json').read_text()) == config.to_dict()
  assert (workdir / 'curves.png').read_bytes().startswith(b'\x89PNG')
  for row in rows:
    folder = workdir / row.scheme / f'seed_{row.seed}'
    (events,) = folder.glob('events.out.tfevents.*')
    assert events.stat().st_size > 1000
    lines = (folder / 'metrics.jsonl').read_text().splitlines()
    records = [json.loads(line) for line in lines]
    steps = [r for r in records if r['kind'] == 'train']
    evaluations = [r for r in records if r['kind'] == 'eval']
    assert len(steps) == row.steps == steps[-1]['step']
    assert steps[-1]['examples'] == row.examples >= 3000
    assert evaluations[0]['examples'] == 0
    assert evaluations[-1]['examples'] == row.examples
    assert evaluations[-1]['train_loss'] == row.train_loss
    assert row.mean_batch_size == row.examples / row.steps


def test_training_learns_and_adapts(trained):
  _, _, rows = trained
  adaptive = [row for row in rows if row.scheme == 'adadagrad']
  fixed = [row for row in rows if row.scheme == 'adagrad_256']
  assert all(row.test_accuracy > 0.6 for row in rows)
  assert all(row.final_batch_size > 8 for row in adaptive)
  assert all(row.final_batch_size == 256 for row in fixed)
  # Micro-batches of 16 and 64.
  assert all(1 <= row.programs <= 2 for row in adaptive)
  assert all(row.programs == 1 for row in fixed)


def test_tables_hold_every_run(trained):
  _, workdir, rows = trained
  saved = csv.DictReader((workdir / 'results.csv').read_text().splitlines())
  assert [row['steps'] for row in saved] == [str(row.steps) for row in rows]
  lines = (workdir / 'results.md').read_text().splitlines()
  assert len({len(line) for line in lines}) == 1
  assert [line.split()[1] for line in lines[2:]] == ['adadagrad', 'adagrad_256']
  assert '±' in lines[2]


def test_cells_are_mean_and_standard_deviation():
  row = results.Result('s', 0, 10, 100, 10.0, 20, 0.5, 0.9, 1.0, 3)
  other = row._replace(seed=1, steps=14)
  assert '| 12 ± 3 |' in results.table([row, other])
  assert '±' not in results.table([row])


def test_numbers_that_are_not_finite_are_null_in_json(tmp_path):
  writer = results.open_writer(tmp_path)
  results.write(writer, 'train', {'examples': 1, 'loss': np.float32(np.nan)})
  results.close(writer)
  (line,) = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert json.loads(line) == {'kind': 'train', 'examples': 1, 'loss': None}


def test_skipped_updates_are_told_once(trained, caplog):
  config = small_digits(adagrad_256=1)
  run = runs.plan(config)[0].prepare()
  images = jnp.full_like(run.examples['input'], jnp.nan)
  run = run._replace(examples=run.examples | {'input': images})
  _, workdir, _ = trained
  train.train('broken', run, config, workdir / 'broken', threading.Event())
  told = [r.getMessage() for r in caplog.records if 'not finite' in r.msg]
  (message,) = told
  assert message.startswith('broken: in 12 steps')


def run_main(*arguments, **options):
  return subprocess.Popen(
    [sys.executable, '-m', 'experiments.main', *arguments],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env={k: v for k, v in os.environ.items() if k != 'ADAOPT_DATA'},
    **options,
  )


def test_missing_data_are_a_sentence_and_leave_nothing(tmp_path):
  workdir = tmp_path / 'out'
  process = run_main(
    '--config=experiments/configs/mnist_logistic.py', f'--workdir={workdir}'
  )
  _, errors = process.communicate(timeout=120)
  assert process.returncode == 1
  assert 'Traceback' not in errors
  assert errors.startswith('MNIST needs the four files')
  assert not workdir.exists()


def test_mnist_trains_from_files_with_overrides(tmp_path):
  data_files.write_mnist(tmp_path / 'data' / 'mnist', '.gz')
  process = run_main(
    '--config=experiments/configs/mnist_logistic.py',
    f'--workdir={tmp_path / "out"}',
    f'--data_dir={tmp_path / "data"}',
    '--config.num_examples=400',
    '--config.eval_interval=100',
    '--config.schemes.adadagrad.max_batch_size=40',
    '--config.schemes.adadagrad.learning_rate=0.05',
  )
  output, errors = process.communicate(timeout=120)
  assert process.returncode == 0, errors
  assert '| adadagrad | 1 ' in output
  lines = (tmp_path / 'out' / 'results.csv').read_text().splitlines()
  (row,) = csv.DictReader(lines)
  assert int(row['final_batch_size']) == 40
  assert float(row['test_accuracy']) > 0.9


def test_ctrl_c_ends_with_what_there_is(tmp_path):
  process = run_main(
    '--config=experiments/configs/digits.py',
    f'--workdir={tmp_path}',
    '--config.num_examples=100_000_000',
  )
  metrics = tmp_path / 'adadagrad' / 'seed_0' / 'metrics.jsonl'
  deadline = time.monotonic() + 120
  while time.monotonic() < deadline and process.poll() is None:
    if metrics.exists() and '"train"' in metrics.read_text():
      break
    time.sleep(0.1)
  process.send_signal(signal.SIGINT)
  output, errors = process.communicate(timeout=60)
  assert process.returncode == 0, errors
  assert 'Traceback' not in errors
  assert f'Stopped in adadagrad; what there is lies in {tmp_path}' in output
  assert (tmp_path / 'curves.png').exists()
  assert (tmp_path / 'results.csv').exists()
  records = [json.loads(line) for line in metrics.read_text().splitlines()]
  # The last evaluation is of the last state, not of the first.
  assert records[-1]['kind'] == 'eval'
  assert records[-1]['examples'] > 0
