"""If these fail, an update takes for statistics what it was not passed."""

import jax.numpy as jnp
import numpy as np
import pytest

import adaopt
from adaopt._common import passing

STATISTICS = adaopt.GradientStatistics(jnp.int32(8), jnp.ones(2))


def test_statistics_are_those_of_the_keyword():
  assert passing.statistics_in({'statistics': STATISTICS}, 't') is STATISTICS
  assert passing.statistics_in({'statistics': None}, 't') is None
  assert passing.batch_size_in({'statistics': STATISTICS}, 't') == 8


@pytest.mark.parametrize(
  'remedy',
  [
    r'adaopt\.value_and_statistics\(loss_fn\)\(params, batch\)',
    r'optimizer\.update\(statistics\.mean, opt_state, params, statistics=stat',
    r'nnx\.Optimizer: optimizer\.update\(model, statistics\.mean, statistics=s',
    r'TrainState of linen.*state\.tx\.update\(.* statistics=statistics\)',
    r'adaopt\.accumulate\(optimizer, group_size=',
    'statistics=None to put a test off',
  ],
)
@pytest.mark.parametrize('read', [passing.statistics_in, passing.batch_size_in])
def test_a_missing_keyword_is_answered_by_every_remedy(read, remedy):
  with pytest.raises(ValueError, match=f'^my_transform needs .*{remedy}'):
    read({'value': 1.0}, 'my_transform')


@pytest.mark.parametrize(
  ('wrong', 'name'),
  [
    (jnp.ones(2), 'ArrayImpl'),
    (np.ones(2), 'ndarray'),
    (tuple(STATISTICS), 'tuple'),
    (STATISTICS._asdict(), 'dict'),
    (8, 'int'),
  ],
)
@pytest.mark.parametrize('read', [passing.statistics_in, passing.batch_size_in])
def test_what_are_no_statistics_is_named(read, wrong, name):
  sentence = rf'^my_transform needs .*adaopt\.GradientStatistics.* got {name}'
  with pytest.raises(ValueError, match=sentence):
    read({'statistics': wrong}, 'my_transform')


def test_none_has_no_batch_size():
  sentence = '^my_transform needs the batch size in every update, got .*=None'
  with pytest.raises(ValueError, match=sentence):
    passing.batch_size_in({'statistics': None}, 'my_transform')


def test_the_other_keywords_are_left():
  extra = {'statistics': STATISTICS, 'value': 2.0, 'key': 'k'}
  assert passing.without_statistics(extra) == {'value': 2.0, 'key': 'k'}
  assert 'statistics' in extra
