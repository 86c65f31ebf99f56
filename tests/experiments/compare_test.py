"""A wrong config, or a comparison that loses or mixes up its results."""

import contextlib
import csv
import errno
import itertools
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import threading

import data_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorboardX
from absl.testing import flagsaver

import adaopt
from adaopt.experiments import (
  checkpoints,
  command_line,
  compare,
  datasets,
  interrupts,
  losses,
  models,
  records,
  runs,
  schemes,
  train,
)
from adaopt.experiments.configs import (
  cifar10_cnn,
  cifar10_resnet18,
  digits,
  digits_normalized,
  fashion_mnist_cnn,
  libsvm_logistic,
  mnist_cnn,
  mnist_logistic,
  shakespeare_transformer,
)

ROOT = pathlib.Path(__file__).parents[2]
NEVER = train.Interval(examples=2**30, minutes=1e9)
CONFIGS = {
  'cifar10_cnn': cifar10_cnn.get_config(),
  'cifar10_resnet18': cifar10_resnet18.get_config(),
  'cifar10_resnet18:batchnorm': cifar10_resnet18.get_config('batchnorm'),
  'digits': digits.get_config(),
  'digits_normalized': digits_normalized.get_config(),
  'fashion_mnist_cnn': fashion_mnist_cnn.get_config(),
  'libsvm_logistic': libsvm_logistic.get_config(),
  'libsvm_logistic:w8a': libsvm_logistic.get_config('w8a'),
  'mnist_cnn': mnist_cnn.get_config(),
  'mnist_logistic': mnist_logistic.get_config(),
  'shakespeare_transformer': shakespeare_transformer.get_config(),
}


@pytest.mark.parametrize('name', CONFIGS)
def test_configs_name_what_there_is(name):
  config = CONFIGS[name]
  assert config.dataset in datasets.DATASETS
  assert config.model in models.MODELS
  assert config.augmentation in runs.DRAWS
  assert len(config.schemes) > 3
  for scheme in config.schemes.values():
    schemes.make_optimizer(scheme)


def test_every_config_is_tested():
  # Those of other scripts are in frontier_test and language_model_test.
  others = {'__init__', 'common', 'frontier', 'shakespeare_lm'}
  files = (ROOT / 'experiments' / 'configs').glob('*.py')
  names = {path.stem for path in files} - others
  assert names == {name.split(':')[0] for name in CONFIGS}


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    ({'dataset': 'imagenet'}, "unknown dataset 'imagenet'"),
    ({'model': 'vgg'}, "unknown model 'vgg'; choose from 'logistic'"),
    ({'augmentation': 'mixup'}, "unknown augmentation 'mixup'"),
    ({'schemes.adadagrad.optimizer': 'lion'}, "unknown optimizer 'lion'"),
    ({'schemes.adadagrad.test': 't'}, "unknown test 't'"),
    ({'schemes.adadagrad.eta': -1.0}, 'eta must be positive'),
    (
      {'schemes.adadagrad.init_batch_size': 2000},
      'exceeds max_batch_size=1437',
    ),
    ({'schemes.adadagrad_norm.test': 'inner_product'}, 'lacks a value.*theta'),
    ({'num_examples': 0}, 'num_examples .* got 0'),
    ({'eval_interval': 0}, 'eval_interval .* got 0'),
    ({'group_size': 0}, 'group_size .* got 0'),
  ],
)
def test_a_wrong_config_is_refused_before_training(overrides, message):
  config = digits.get_config()
  config.update_from_flattened_dict(overrides)
  with pytest.raises(ValueError, match=message):
    runs.plan(config, list(config.schemes), 1)


@pytest.mark.parametrize('sized_by', [{}, {'batch_size': 8, 'ramp': (1, 2, 3)}])
def test_a_scheme_sizes_its_batches_in_one_way(sized_by):
  config = digits.get_config()
  scheme = config.schemes.adagrad_8
  del scheme.batch_size
  scheme.update(sized_by)
  with pytest.raises(ValueError, match='exactly one of test, family'):
    runs.plan(config, ['adagrad_8'], 1)


def test_a_config_that_lacks_what_a_run_needs_is_refused():
  config = digits.get_config()
  del config.model
  del config.group_size
  with pytest.raises(ValueError, match='the config lacks group_size, model;'):
    runs.plan(config, ['adagrad_8'], 1)


@pytest.mark.parametrize(
  ('returned', 'message'),
  [
    (lambda outputs: outputs.mean(), r'got the shapes \(\)'),
    (lambda outputs: (outputs.mean(), outputs), r'got the shapes \(\(\), '),
    (lambda outputs: (outputs[:1], outputs), 'an entry for each of 1437'),
    (lambda outputs: (outputs,) * 3, 'must return losses and hits'),
  ],
)
def test_a_loss_that_is_not_one_of_examples_is_refused(
  monkeypatch, returned, message
):
  loss = lambda outputs, batch: returned(outputs)
  monkeypatch.setitem(losses.LOSSES, 'own', loss)
  config = digits.get_config()
  config.loss = 'own'
  with pytest.raises(ValueError, match=message):
    runs.plan(config, ['adagrad_8'], 1)
  config.schemes.adagrad_8.optimizer = 'normalized_lr_gd'
  with pytest.raises(ValueError, match='adagrad_8, normalized_lr_gd, has a'):
    runs.plan(config, ['adagrad_8'], 1)


def test_examples_without_labels_are_refused(monkeypatch):
  part = {'input': np.zeros([8, 2]), 'target': np.zeros(8)}
  monkeypatch.setitem(
    datasets.DATASETS, 'digits', lambda _: datasets.Dataset(part, part)
  )
  with pytest.raises(ValueError, match='has no label; its examples have input'):
    runs.plan(digits.get_config(), ['adagrad_8'], 1)


def test_unknown_schemes_and_seeds_are_refused():
  with pytest.raises(ValueError, match="unknown scheme 'sgd'; choose from 'a"):
    runs.plan(digits.get_config(), ['sgd'], 1)
  with pytest.raises(ValueError, match='the nearest: adagrad_8'):
    runs.plan(digits.get_config(), ['adagrad8'], 1)
  with pytest.raises(ValueError, match=r'num_seeds .* got 0'):
    runs.plan(digits.get_config(), ['adagrad_8'], 0)


def small_digits():
  config = digits.get_config()
  config.num_examples = 3000
  config.eval_interval = 1000
  config.max_micro_batch_size = 64
  config.schemes.ramp = {
    'optimizer': 'adagrad',
    'learning_rate': 0.05,
    'ramp': (16, 400, 3000),
  }
  return config


def run_all(config, names, num_seeds, workdir):
  planned = runs.plan(config, names, num_seeds)
  table = compare.run_all(planned, config, workdir, NEVER)
  path = workdir / 'results.csv'
  lines = path.read_text().splitlines() if path.exists() else []
  return table, list(csv.DictReader(lines))


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """Two seeds of one adaptive and one growing scheme, and what they left."""
  workdir = tmp_path_factory.mktemp('runs')
  config = small_digits()
  return config, workdir, *run_all(config, ['adadagrad', 'ramp'], 2, workdir)


@pytest.mark.slow
def test_a_disk_that_is_full_or_cannot_be_written_is_reported_from(
  trained, monkeypatch, caplog
):
  config, workdir, table, _ = trained
  results_before = (workdir / 'results.md').read_bytes()

  def replace(path, target):
    raise OSError(errno.EROFS, 'read-only')

  monkeypatch.setattr(pathlib.Path, 'replace', replace)
  assert compare.report(config, workdir) == table
  assert 'printed and not saved: [Errno 30] Read-only file system' in (
    caplog.text
  )
  assert (workdir / 'results.md').read_bytes() == results_before


def test_every_run_leaves_its_files(trained):
  config, workdir, _, rows = trained
  for picture in ('learning.png', 'batch_sizes.png', 'noise.png'):
    assert (workdir / picture).read_bytes().startswith(b'\x89PNG')
  for row in rows:
    folder = workdir / row['scheme'] / f'seed_{row["seed"]}'
    settings = json.loads((folder / 'run.json').read_text())
    assert settings['scheme'] == config.schemes[row['scheme']].to_dict() | (
      {'ramp': [16, 400, 3000]} if row['scheme'] == 'ramp' else {}
    )
    (events,) = folder.glob('events.out.tfevents.*')
    assert events.stat().st_size > 1000
    steps, evaluations = records.read(folder)
    assert list(steps['step']) == list(range(1, int(row['steps']) + 1))
    assert steps['examples'][-1] == int(row['examples']) >= 3000
    assert evaluations['examples'][0] == 0
    assert evaluations['examples'][-1] == int(row['examples'])
    assert evaluations['train_loss'][-1] == float(row['train_loss'])
    assert np.all(np.diff(evaluations['seconds']) > 0)
    mean = int(row['examples']) / int(row['steps'])
    assert float(row['mean_batch_size']) == mean


def test_training_learns_and_adapts(trained):
  _, workdir, _, rows = trained
  adaptive = [row for row in rows if row['scheme'] == 'adadagrad']
  ramps = [row for row in rows if row['scheme'] == 'ramp']
  assert len(adaptive) == len(ramps) == 2
  assert all(float(row['test_accuracy']) > 0.6 for row in rows)
  assert all(int(row['final_batch_size']) > 8 for row in adaptive)
  # Micro-batches of 16 and 64, compiled for the first seed.
  assert 1 <= int(adaptive[0]['programs']) <= 2
  first, second = (
    records.read(workdir / 'ramp' / f'seed_{row["seed"]}') for row in ramps
  )
  np.testing.assert_array_equal(
    first.train['batch_size'], second.train['batch_size']
  )
  assert first.train['loss'][-1] != second.train['loss'][-1]


def test_tables_hold_every_run(trained):
  _, workdir, table, rows = trained
  assert [(row['scheme'], row['seed']) for row in rows] == [
    ('adadagrad', '0'),
    ('adadagrad', '1'),
    ('ramp', '0'),
    ('ramp', '1'),
  ]
  assert (workdir / 'results.md').read_text() == table + '\n'
  lines = table.splitlines()
  assert len({len(line) for line in lines}) == 1
  assert [line.split()[1] for line in lines[2:]] == ['adadagrad', 'ramp']
  assert '±' in lines[2]


@pytest.mark.slow
def test_what_is_done_is_not_done_again(trained):
  config, workdir, table, _ = trained
  files = [
    workdir / 'ramp' / 'seed_0' / n for n in ('metrics.jsonl', 'end.json')
  ]
  before = [path.stat().st_mtime_ns for path in files]
  assert run_all(config, ['adadagrad', 'ramp'], 2, workdir)[0] == table
  assert [path.stat().st_mtime_ns for path in files] == before


def test_a_folder_of_other_settings_is_refused(trained):
  config, workdir, _, _ = trained
  config = config.copy_and_resolve_references()
  config.schemes.adadagrad.eta = 0.7
  planned = runs.plan(config, ['adadagrad'], 1)
  with pytest.raises(ValueError, match='different settings for scheme'):
    compare.run_all(planned, config, workdir, NEVER)


def test_cells_are_mean_and_standard_deviation():
  row = {'scheme': 's', 'finished': True} | dict.fromkeys(compare.COLUMNS, 10)
  other = row | {'steps': 14}
  assert '| 12 ± 3 |' in compare.table([row, other])
  assert '±' not in compare.table([row])
  assert '| s (1 stopped) |' in compare.table([row | {'finished': False}])


def test_records_come_back_as_they_were_written(tmp_path):
  log = records.open_log(tmp_path, 0, 0)
  records.write(log, 'train', {'examples': 1, 'loss': np.float32(np.nan)})
  position = records.flush(log)
  records.write(log, 'train', {'examples': 2, 'loss': np.float32(0.5)})
  records.close(log)
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert json.loads(lines[0]) == {'kind': 'train', 'examples': 1, 'loss': None}
  curves = records.read(tmp_path)
  np.testing.assert_array_equal(curves.train['loss'], [np.nan, 0.5])
  assert curves.eval == {}
  # Resumed after the first record: the second is of a future that was lost.
  log = records.open_log(tmp_path, position, 1)
  records.write(log, 'eval', {'examples': 1, 'test_accuracy': 0.25})
  records.close(log)
  curves = records.read(tmp_path)
  assert list(curves.train['examples']) == [1]
  assert list(curves.eval['test_accuracy']) == [0.25]


def broken(seeds, monkeypatch):
  """A run of these seeds whose inputs are NaN."""
  load = datasets.DATASETS['digits']

  def load_broken(data_dir):
    train_set, test_set = load(data_dir)
    nan = np.full_like(train_set['input'], np.nan)
    return datasets.Dataset(train_set | {'input': nan}, test_set)

  monkeypatch.setitem(datasets.DATASETS, 'digits', load_broken)
  (planned,) = runs.plan(small_digits(), ['adagrad_256'], seeds)
  return planned.prepare(planned.seeds)


def test_skipped_updates_are_told_once(tmp_path, monkeypatch, caplog):
  run = broken(1, monkeypatch)
  stop = threading.Event()
  assert train.train('broken', run, small_digits(), [tmp_path], NEVER, stop)
  told = [r.getMessage() for r in caplog.records if 'not finite' in r.msg]
  (message,) = told
  assert message.startswith('broken: in 12 steps')


def test_seeds_together_stop_where_an_update_is_skipped(tmp_path, monkeypatch):
  run = broken(2, monkeypatch)
  folders = [tmp_path / 'a', tmp_path / 'b']
  for folder in folders:
    folder.mkdir()
  with pytest.raises(ValueError, match='seeds_together=False'):
    train.train(
      'broken', run, small_digits(), folders, NEVER, threading.Event()
    )


def test_a_stop_that_comes_during_an_evaluation_loses_nothing(tmp_path):
  config, stop = small_digits(), threading.Event()
  (planned,) = runs.plan(config, ['adagrad_256'], 1)
  run = planned.prepare(planned.seeds)
  calls = []

  def evaluate(params):
    calls.append(params)
    if len(calls) == 2:  # the first one is before training
      stop.set()
    return run.evaluate(params)

  interrupted = run._replace(evaluate=evaluate)
  assert not train.train('s', interrupted, config, [tmp_path], NEVER, stop)
  with checkpoints.open_folder(tmp_path / 'checkpoints') as manager:
    state, _ = checkpoints.latest(manager, run.state)
  seen = records.read(tmp_path).train['examples']
  assert len(seen) > 1
  assert seen[-1] == state.examples


def test_a_stop_before_the_first_step_trains_nothing(tmp_path, monkeypatch):
  stop = threading.Event()
  stop.set()
  monkeypatch.setattr(
    interrupts, 'requested_stop', lambda: contextlib.nullcontext(stop)
  )
  table, rows = run_all(small_digits(), ['adagrad_256'], 1, tmp_path)
  assert 'adagrad_256' not in table
  assert rows == []
  folder = tmp_path / 'adagrad_256' / 'seed_0'
  assert [path.name for path in folder.iterdir()] == ['run.json']


def the_disk_fills_up(number, monkeypatch):
  """Makes a write and all later ones fail; returns their counter."""
  count, usage = itertools.count(), shutil.disk_usage

  def filling(do):
    def write(*args):
      if next(count) >= number:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
      return do(*args)

    return write

  def room(folder):
    return usage(folder)._replace(free=2**30 * (next(count) < number))

  writer = tensorboardX.RecordWriter
  monkeypatch.setattr(os, 'fsync', filling(os.fsync))
  monkeypatch.setattr(writer, 'write', filling(writer.write))
  monkeypatch.setattr(shutil, 'disk_usage', room)
  return count


@pytest.mark.slow
def test_wherever_the_disk_fills_up_the_run_says_so_and_resumes(
  tmp_path, monkeypatch
):
  config = small_digits()
  config.num_examples = 1000
  config.schemes.adagrad_256.batch_size = 32
  (planned,) = runs.plan(config, ['adagrad_256'], 1)
  run, often = planned.prepare(planned.seeds), train.Interval(250, 1e9)

  def train_in(name):
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    stop = threading.Event()
    assert train.train('s', run, config, [folder], often, stop)
    lines = (folder / 'metrics.jsonl').read_text().splitlines()
    return [json.loads(line) | {'seconds': None} for line in lines]

  with monkeypatch.context() as patch:
    count = the_disk_fills_up(2**30, patch)
    whole = train_in('whole')
  writes = next(count)
  assert writes > 40
  for number in random.Random(0).sample(range(writes), 6):
    with monkeypatch.context() as patch:
      the_disk_fills_up(number, patch)
      with pytest.raises(OSError, match='No space left') as raised:
        train_in(f'{number}')
      assert str(tmp_path / f'{number}') in raised.value.filename
    assert train_in(f'{number}') == whole


def test_evaluation_counts_every_example_once():
  part = {'input': jnp.arange(2345.0), 'label': jnp.zeros(2345, jnp.int32)}
  of = lambda params, batch: (batch['input'] * params, batch['input'] < 1000)
  loss, hits = runs.summed(of, 2.0, part)
  np.testing.assert_allclose(loss / 2345, 2344.0, rtol=1e-6)
  np.testing.assert_allclose(hits / 2345, 1000 / 2345, rtol=1e-6)


@pytest.mark.slow
def test_normalized_steps_are_those_of_sgd_over_the_mean_residual():
  config = digits_normalized.get_config()
  fixed = {'learning_rate': 0.5, 'batch_size': 64}
  config.schemes = {
    'sgd': fixed | {'optimizer': 'sgd'},
    'normalized': fixed | {'optimizer': 'normalized_lr_gd'},
  }
  changes = []
  for planned in runs.plan(config, ['sgd', 'normalized'], 1):
    run = planned.prepare(planned.seeds)
    before = jax.tree.map(np.array, run.state.params)
    batch = adaopt.draw(run.examples, run.state.seed, jnp.arange(64))
    step = run.step_of(32)
    state, _ = step(run.state, run.examples)
    changes.append(jax.tree.map(lambda x, y: x - y, state.params, before))
  logits = np.asarray(models.MODELS['mlp']().apply(before, batch['input']))
  exponentials = np.exp(logits.astype(np.float64))
  right = exponentials[np.arange(64), batch['label']] / exponentials.sum(1)
  residual = 1 - right.mean()
  # Float32 parameters of order 1, less by one step than before.
  jax.tree.map(
    lambda sgd, normalized: np.testing.assert_allclose(
      residual * normalized, sgd, atol=1e-6
    ),
    *changes,
  )


def start(*arguments):
  return subprocess.Popen(
    [sys.executable, '-m', 'adaopt.experiments.compare', *arguments],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env={k: v for k, v in os.environ.items() if k != 'ADAOPT_DATA'},
  )


@pytest.mark.slow
def test_missing_data_are_a_sentence_and_leave_nothing(tmp_path):
  workdir = tmp_path / 'out'
  process = start(
    '--config=experiments/configs/mnist_logistic.py', f'--workdir={workdir}'
  )
  _, errors = process.communicate(timeout=120)
  assert process.returncode == 1
  assert 'Traceback' not in errors
  assert errors.startswith('MNIST needs the four files')
  assert not workdir.exists()


@pytest.mark.slow
def test_mnist_trains_from_files_with_overrides(tmp_path):
  data_files.write_mnist(tmp_path / 'data' / 'mnist', '.gz')
  process = start(
    '--config=experiments/configs/mnist_logistic.py',
    f'--workdir={tmp_path / "out"}',
    f'--data_dir={tmp_path / "data"}',
    '--schemes=norm_0p1',
    '--config.num_examples=400',
    '--config.eval_interval=100',
    '--config.schemes.norm_0p1.max_batch_size=40',
    '--config.schemes.norm_0p1.learning_rate=0.05',
  )
  output, errors = process.communicate(timeout=120)
  assert process.returncode == 0, errors
  assert '| norm_0p1 | 1 ' in output
  lines = (tmp_path / 'out' / 'results.csv').read_text().splitlines()
  (row,) = csv.DictReader(lines)
  assert int(row['final_batch_size']) == 40
  assert float(row['test_accuracy']) > 0.9


# That of ml_collections, which reads a config by it.
@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning')
def test_an_experiment_of_ones_own_is_run_from_a_file_elsewhere(
  tmp_path, monkeypatch, capsys
):
  text = (ROOT / 'experiments' / 'README.md').read_text()
  (block,) = re.findall('```python\n(.*?)```', text, re.DOTALL)
  config = tmp_path / 'points.py'
  config.write_text(block)
  rng = np.random.default_rng(0)
  x = rng.normal(size=[500, 3]).astype(np.float32)
  y = x @ np.float32([1, -2, 3]) + np.float32(0.5)
  np.savez(tmp_path / 'points.npz', x=x, y=y)
  argv = [
    'compare',
    f'--config={config}',
    f'--workdir={tmp_path / "out"}',
    f'--data_dir={tmp_path}',
    '--schemes=adaptive',
    '--config.schemes.adaptive.max_batch_size=64',
  ]
  monkeypatch.setattr(sys, 'argv', argv)
  for module, name in (
    (datasets, 'DATASETS'),
    (models, 'MODELS'),
    (losses, 'LOSSES'),
  ):
    monkeypatch.setattr(module, name, dict(getattr(module, name)))
  with flagsaver.flagsaver():
    required, optional = ['config', 'workdir'], ['data_dir', 'schemes']
    command_line.parse(compare, required, optional, argv)
    compare.main()
  assert '| adaptive | 1 ' in capsys.readouterr().out
  lines = (tmp_path / 'out' / 'results.csv').read_text().splitlines()
  (row,) = csv.DictReader(lines)
  assert int(row['final_batch_size']) <= 64
  # The line has no noise, so that it is found: every point is a hit.
  assert float(row['train_loss']) < 1e-4
  assert float(row['test_accuracy']) == 1.0
