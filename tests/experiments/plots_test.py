"""A picture that cannot be saved, noticed only after the work is done."""

import numpy as np
import pytest

from adaopt.experiments import records
from adaopt.experiments.plots import comparison, ratios


@pytest.mark.parametrize('name', ['a.svg', 'a.b.PNG'])
def test_a_picture_that_can_be_saved_passes(tmp_path, name):
  ratios.check_path(tmp_path / name)
  ratios.save({'net': {'v': 1.1, 'w': 2.0}}, tmp_path / name)
  assert (tmp_path / name).stat().st_size


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('none/a.svg', r'^the folder of .*none/a\.svg does not exist'),
    ('a.svgg', r'a\.svgg has no known format; .* png, .* svg,'),
    ('a', 'a has no known format'),
  ],
)
def test_a_picture_that_cannot_be_saved_is_told(tmp_path, name, message):
  with pytest.raises(ValueError, match=message):
    ratios.check_path(tmp_path / name)


@pytest.mark.slow
@pytest.mark.parametrize('noise', [[np.nan, np.nan], [3.0, np.nan]])
def test_runs_whose_noise_was_hardly_measured_are_drawn(tmp_path, noise):
  run = records.Curves(
    train={
      'examples': np.array([8, 16]),
      'batch_size': np.array([8, 8]),
      'variance': np.array(noise),
      'squared_norm': np.array(noise),
    },
    eval={
      'examples': np.array([0, 16]),
      'train_loss': np.array([2.0, 1.0]),
      'test_accuracy': np.array([0.1, 0.5]),
    },
  )
  comparison.save({'fixed': [run]}, tmp_path)
  assert {path.name for path in tmp_path.iterdir()} == set(
    comparison.COMPARISON
  )
