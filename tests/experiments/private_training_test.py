"""Noise that is too small for the ε that is stated, or a batch cut short."""

import csv
import math

import dp_accounting
import numpy as np
import pytest
import scripts
from absl.testing import flagsaver
from dp_accounting import rdp

from adaopt.experiments import models, private_training
from tests import data_files


def spent(sigma, rate, num_steps):
  """The ε of another accountant, which bounds it from above."""
  accountant = rdp.RdpAccountant()
  gaussian = dp_accounting.GaussianDpEvent(sigma)
  drawn = dp_accounting.PoissonSampledDpEvent(rate, gaussian)
  accountant.compose(drawn, num_steps)
  return accountant.get_epsilon(1e-5)


@pytest.mark.slow
def test_the_noise_is_enough_and_not_much_more():
  sigma = private_training.noise_multiplier(3.0, 1e-5, 0.01, 100)
  # Rényi accounting is looser by less than a half here.
  assert 3.0 < spent(sigma, 0.01, 100) < 4.5
  assert spent(1.5 * sigma, 0.01, 100) < 3.0
  assert private_training.noise_multiplier(math.inf, 1e-5, 0.01, 100) == 0


def test_examples_are_drawn_independently_and_padded():
  batches = list(private_training.poisson_batches(1000, 0.1, 400, seed=0))
  counts = np.array([drawn.sum() for _, drawn in batches])
  # Binomial of mean 100 and deviation √90: five deviations of mean and of 400.
  assert abs(np.mean(counts) - 100) < 5 * math.sqrt(90 / 400)
  assert 7.5 < np.std(counts) < 11.5
  assert {len(positions) for positions, _ in batches} == {180}
  for positions, drawn in batches[:20]:
    assert len(set(positions[drawn])) == drawn.sum()
    assert np.all(drawn[: drawn.sum()])


def test_a_batch_is_never_cut_short():
  with pytest.raises(ValueError, match='void the accounting'):
    # Every draw takes all 50, of which a batch holds 1 + 8 · 1.
    next(overflowing())


def overflowing():
  class AlwaysDrawn:
    def random(self, n):
      return np.zeros(n)

  with pytest.MonkeyPatch.context() as patched:
    patched.setattr(np.random, 'default_rng', lambda _: AlwaysDrawn())
    yield from private_training.poisson_batches(50, 0.02, 1, seed=0)


@pytest.mark.slow
def test_a_run_writes_its_table(tmp_path, monkeypatch, capsys):
  network = models.MLP(widths=(4,))
  monkeypatch.setattr(private_training, 'MODEL', network)
  data_files.write_mnist(tmp_path / 'mnist')
  workdir = tmp_path / 'results'
  with flagsaver.as_parsed(
    data_dir=str(tmp_path),
    workdir=str(workdir),
    epsilon=['8', 'inf'],
    epochs='2',
    seeds='1',
  ):
    private_training.main()
  assert (workdir / 'private.md').read_text().strip() in capsys.readouterr().out
  with (workdir / 'private.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert [row['scheme'] for row in rows] == ['ε = 8', 'ε = inf']
  assert float(rows[0]['sigma']) > 0
  assert float(rows[1]['sigma']) == float(rows[1]['clipped']) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
  ('flag', 'words'),
  [
    ('--epsilon=0', 'must be above 0'),
    ('--epochs=0', 'flag --epochs=0'),
    ('--epochs=nan', 'must be finite, got nan'),
  ],
)
def test_a_wrong_flag_is_told(flag, words, tmp_path):
  done = scripts.run(
    'private_training', flag, f'--data_dir={tmp_path}', f'--workdir={tmp_path}'
  )
  assert done.returncode == 1
  assert words in done.stderr
  assert 'Traceback' not in done.stderr
