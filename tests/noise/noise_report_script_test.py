"""A report of a run that is written without its numbers."""

import functools
import json

import jax
import numpy as np
import optax
import pytest

import adaopt
from adaopt import noise
from adaopt.experiments import noise_report
from adaopt.experiments.plots import noise as noise_plots

PARAMS = {'w': np.float32([[0.5, -0.2], [0.1, 0.3], [0.2, 0.4]])}


def _loss(params, batch):
  return optax.softmax_cross_entropy_with_integer_labels(
    batch['input'] @ params['w'], batch['label']
  ).mean()


@pytest.fixture
def dataset(monkeypatch):
  monkeypatch.setattr(noise_report, 'CHUNK', 25)
  rng = np.random.default_rng(0)
  x = rng.normal(size=(100, 3)).astype(np.float32)
  label = (x[:, 0] + rng.normal(size=100) > 0).astype(np.int32)
  return jax.device_put({'input': x, 'label': label})


@pytest.mark.slow
def test_the_whole_data_set_is_measured_in_chunks_exactly(dataset):
  found = noise_report.exact(noise_report.whole(_loss, PARAMS, dataset))
  one = jax.vmap(jax.grad(_loss), (None, 0))(
    PARAMS, jax.tree.map(lambda x: x[:, None], dataset)
  )['w']
  one = np.asarray(one)
  mean = np.mean(one, 0, dtype=float)
  v = np.sum((one - mean) ** 2) / len(one)
  # Sums of 100 float32 numbers.
  np.testing.assert_allclose(found, [[v, np.sum(mean**2)]] * 2, rtol=1e-4)


@pytest.mark.slow
def test_the_instrument_at_held_parameters_agrees_with_the_data_set(dataset):
  report, alone, snr = noise_report.hold(_loss, PARAMS, dataset, num_steps=20)
  assert report.examples == 20 * noise_report.BATCH_SIZE
  assert alone.shape == (20,)
  statistics = noise_report.whole(_loss, PARAMS, dataset)
  truth = np.asarray(noise_report.exact(statistics))
  error = report.total.noise_scale - truth[0, 0] / truth[0, 1]
  assert abs(error) < 4 * report.total.standard_error
  lines = noise_report.table(report, truth).splitlines()
  assert [line.split()[1] for line in lines[2:]] == ['total', 'w']
  expected = noise.gradient_snr(statistics).total
  # 20 batches of 128 draws: r_k within about 2 √(r_k / 2560) of each of 6.
  np.testing.assert_allclose(snr.total, expected, atol=0.1 * expected**0.5)
  lines = noise_report.snr_table(report, snr, statistics).splitlines()
  assert [line.split()[1] for line in lines[2:]] == ['total', 'w']


@pytest.mark.slow
def test_the_statistics_of_the_whole_data_set_are_those_of_one_batch(dataset):
  found = noise_report.whole(_loss, PARAMS, dataset)
  _, expected = adaopt.value_and_statistics(_loss)(PARAMS, dataset)
  assert found.batch_size == 100
  # Differences of sums of 100 float32 numbers.
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4)
  close(found.mean['w'], expected.mean['w'], atol=1e-6)
  close(found.coordinate_variance['w'], expected.coordinate_variance['w'])


def test_records_and_pictures_of_what_is_known_and_what_is_not(tmp_path):
  instrument = adaopt.noise_scale(half_life=100)
  fresh = adaopt.noise_report(instrument.init(PARAMS), PARAMS)
  row = noise.NoiseRow('total', np.inf, np.inf, 30.0, np.inf, 1.0, -0.1)
  unbounded = fresh._replace(
    total=row, tensors=(row._replace(name='w'),), examples=200
  )
  known = row._replace(noise_scale=60.0, standard_error=9.0, high=90.0)
  bounded = unbounded._replace(total=known, examples=400)
  assert noise_report.record_of(bounded) == {
    'examples': 400,
    'batch_size': 0,
    'total/noise_scale': 60.0,
    'total/standard_error': 9.0,
    'total/low': 30.0,
    'w/noise_scale': np.inf,
    'w/standard_error': np.inf,
    'w/low': 30.0,
  }
  path = tmp_path / 'noise.png'
  reports = [unbounded, bounded]
  noise_plots.save(reports, {'total': np.array([55.0, 58.0])}, path)
  assert path.stat().st_size
  log = noise_report.records.open_log(tmp_path, 0, 0)
  for report in reports:
    noise_report.records.write(log, 'train', noise_report.record_of(report))
  noise_report.records.flush(log)
  noise_report.records.close(log)
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert json.loads(lines[0])['total/noise_scale'] is None
  assert json.loads(lines[1])['total/noise_scale'] == 60.0
