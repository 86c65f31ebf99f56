"""A picture that cannot be saved, found out only after the work is done."""

import pytest

from experiments.plots import ratios


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
