"""If these fail, a parameter passes for a batch size, or a test is missed."""

import jax
import jax.numpy as jnp
import optax
import pytest

import adaopt
from adaopt._common import fields

PARAMS = {'batch_size': jnp.ones(2), 'test_due': jnp.ones(2)}


def _adapt(**options):
  sizes = dict(init_batch_size=8, max_batch_size=64)
  return adaopt.adapt_batch_size(adaopt.norm_test(0.5), **sizes | options)


def _schedule(batch_size):
  return adaopt.schedule_batch_size(batch_size)


@pytest.mark.parametrize(
  'wrap',
  [
    lambda t: t,
    lambda t: optax.chain(optax.adam(0.1), optax.chain(t)),
    lambda t: optax.masked(t, {'batch_size': True, 'test_due': False}),
    lambda t: optax.inject_hyperparams(
      lambda rate: optax.chain(t, optax.sgd(rate))
    )(rate=0.1),
    lambda t: adaopt.accumulate(t, group_size=2),
  ],
  ids=['alone', 'chain', 'masked', 'injected', 'accumulate'],
)
def test_a_field_is_found_inside_wrappers_and_no_parameter_of_its_name(wrap):
  # Adam's moments have entries of the names of the fields.
  state = wrap(_adapt()).init(PARAMS)
  assert fields.batch_size_of(state) == 8
  assert len(fields.find_all(state, 'batch_size')) == 1
  assert jnp.isnan(fields.find(state, 'required'))
  assert fields.is_test_due(state)


def test_a_field_that_is_not_there_is_the_default():
  state = optax.adam(0.1).init(PARAMS)
  assert fields.find_all(state, 'batch_size') == []
  assert fields.find(state, 'batch_size') is None
  assert fields.find(state, 'batch_size', 3) == 3


@pytest.mark.parametrize(
  ('transforms', 'count'),
  [
    ([optax.adam(0.1)], 0),
    ([_adapt(), _adapt()], 2),
    ([_adapt(), _schedule(8), optax.sgd(0.1)], 2),
  ],
)
def test_an_optimizer_holds_one_batch_size(transforms, count):
  state = optax.chain(*transforms).init(PARAMS)
  sentence = rf'holds {count} batch sizes instead of one; .* adapt_batch_size'
  with pytest.raises(ValueError, match=sentence):
    fields.batch_size_of(state)


@pytest.mark.parametrize(
  ('transforms', 'expected'),
  [
    ([_schedule(8)], None),
    ([_adapt()], True),
    ([_adapt(init_batch_size=64)], False),
    ([_adapt(init_batch_size=64), _adapt()], True),
    ([_adapt(init_batch_size=64), _schedule(8)], False),
  ],
)
def test_a_test_is_due_where_one_of_them_is(transforms, expected):
  state = optax.chain(*transforms).init(PARAMS)
  due = fields.is_test_due(state)
  if expected is None:
    assert due is None
    return
  assert due.shape == ()
  assert bool(due) == expected
  assert bool(jax.jit(fields.is_test_due)(state)) == expected


def test_states_of_a_type_are_found_at_any_depth():
  adam = optax.adam(0.1)
  state = optax.chain(adam, optax.masked(adam, True)).init(PARAMS)
  found = fields.states_of(state, optax.ScaleByAdamState)
  assert len(found) == 2
  assert all(isinstance(one, optax.ScaleByAdamState) for one in found)
  assert fields.states_of(state, optax.MultiStepsState) == []
