"""Weights that are lost on the way to the parameters."""

import csv

import numpy as np
import pytest
import scripts
from absl.testing import flagsaver
from flax import linen as nn

from adaopt.experiments import (
  models,
  padded_sequences,
  rare_class,
  weighted_losses,
)
from adaopt.experiments.datasets import base
from tests import data_files


@pytest.fixture
def small(monkeypatch):
  """A transformer that compiles quickly, and small batches."""
  network = models.Transformer(width=16, num_layers=1, num_heads=2)
  monkeypatch.setattr(padded_sequences, 'TRANSFORMER', network)
  monkeypatch.setattr(rare_class, 'FIXED_SIZES', (32, 128))
  monkeypatch.setattr(weighted_losses, 'MICRO_BATCH_SIZES', (24, 5))


def overlapping_classes(n=400):
  """Two classes of 2 features, of which the lines of weights differ."""
  rng = np.random.default_rng(0)
  label = np.arange(n) % 2
  inputs = rng.normal(size=(n, 2)) + label[:, None]
  return {'input': inputs.astype(np.float32), 'label': label.astype(np.int32)}


def test_the_kept_classes_weigh_the_same():
  kept = rare_class.rare(overlapping_classes(), positives=20)
  is_rare = kept['label'] == 1
  assert np.sum(is_rare) == 20
  assert np.sum(~is_rare) == 200
  for one in (is_rare, ~is_rare):
    np.testing.assert_allclose(np.sum(kept['weight'][one]), 110, rtol=1e-6)


@pytest.mark.slow
def test_class_weights_find_more_of_the_rare_class(small):
  data = overlapping_classes()
  rows = rare_class.train_classes(
    base.Dataset(data, data), positives=20, num_examples=6000, seeds=1
  )
  recall = {row.scheme: row.recall for row in rows}
  assert recall['adaopt, mean, norm test'] < 45
  # A threshold at the middle of N(0, I) and N(1, I) finds Φ(1/√2) = 76 %.
  # They are drawn from few, and a batch without positives has a smaller weight.
  assert 55 < recall['adaopt, weighted, norm test'] < 87
  for size in rare_class.FIXED_SIZES:
    ours, theirs = (
      recall[f'{library}, weighted, b = {size}']
      for library in ('adaopt', 'optax')
    )
    assert 55 < ours < 87
    assert abs(ours - theirs) < 1
  assert all(row.examples >= 6000 for row in rows)


@pytest.mark.slow
def test_an_outcome_counts_by_class():
  params = {
    'params': {'Dense_0': {'kernel': np.array([[0, 1.0]]), 'bias': np.zeros(2)}}
  }
  test = {
    'input': np.array([[1.0], [-1], [1], [-1], [-1], [-1]]),
    'label': np.array([1, 1, 0, 0, 0, 0]),
  }
  row = rare_class.outcome('scheme', 0, (params, 3, 30), test)
  assert row.recall == 50
  assert row.precision == 50
  assert row.balanced == 100 * (1 / 2 + 3 / 4) / 2


def random_sequences(n=30, length=20):
  tokens = np.random.default_rng(0).integers(0, 65, (n, length + 1))
  tokens = tokens.astype(np.int32)
  return {'input': tokens[:, :-1], 'label': tokens[:, 1:]}


def test_sequences_are_cut_and_padded():
  data = random_sequences()
  found = padded_sequences.cut(data)
  lengths = found['weight'].sum(1)
  assert len(set(lengths)) > 3
  assert lengths.min() >= padded_sequences.SHORTEST
  kept = found['weight'] == 1
  assert np.all(np.diff(found['weight'], axis=1) <= 0)
  for name, x in data.items():
    np.testing.assert_array_equal(found[name][kept], x[kept])
    assert np.all(found[name][~kept] == 0)


@pytest.mark.slow
def test_parameters_are_those_of_optax(small):
  rows = padded_sequences.train_tokens(
    random_sequences(), num_steps=4, batch_size=9, micro_batch_sizes=(9, 4)
  )
  by_run = {row.run: row for row in rows}
  ours = [row for row in rows if 'micro-batch' in row.run]
  assert len(ours) == 4
  assert by_run['optax'].moved == 0
  # float32 rounds to 6e-8, the parameters more coarsely than their way.
  assert max(row.moved for row in ours) < 2e-6
  assert by_run['optax, batch shuffled'].moved < 2e-6
  assert by_run['adaopt, mean of means'].moved > 1e-2


@pytest.mark.slow
def test_the_script_leaves_both_tables(small, monkeypatch, tmp_path, capsys):
  network = nn.Sequential([nn.Embed(65, 4), nn.Dense(65)])
  monkeypatch.setattr(padded_sequences, 'TRANSFORMER', network)
  data_files.write_libsvm(tmp_path / 'libsvm', 'ijcnn1', num_features=22)
  data_files.write_shakespeare(tmp_path / 'text')
  workdir = tmp_path / 'results'
  with flagsaver.as_parsed(
    data_dir=str(tmp_path),
    workdir=str(workdir),
    num_examples='200',
    positives='5',
    transformer_steps='1',
    seeds='1',
  ):
    weighted_losses.main()
  printed = capsys.readouterr().out
  for name, number in (('classes', 6), ('tokens', 8)):
    assert (workdir / f'{name}.md').read_text().strip() in printed
    with (workdir / f'{name}.csv').open() as file:
      assert len(list(csv.DictReader(file))) == number


@pytest.mark.slow
def test_the_script_names_a_missing_file(tmp_path):
  done = scripts.run(
    'weighted_losses', f'--data_dir={tmp_path}', f'--workdir={tmp_path}'
  )
  assert done.returncode == 1
  assert 'ijcnn1' in done.stderr
  assert 'Traceback' not in done.stderr
