"""If these fail, a report says what was not measured."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import adaopt
from adaopt import noise

PARAMS = {'dense': {'kernel': jnp.ones([2, 3]), 'bias': jnp.ones(3)}}


def _measured(instrument, params, variances=(30.0, 42.0, 36.0)):
  """A state after some steps of ḡ = 1 and such v of every tensor."""
  state = instrument.init(params)
  ones = jax.tree.map(jnp.ones_like, params)
  for v in variances:
    statistics = adaopt.GradientStatistics(
      jnp.int32(12), ones, jax.tree.map(lambda p, v=v: jnp.float32(v), params)
    )
    _, state = instrument.update(ones, state, params, statistics=statistics)
  return state


def _report(noise_scale=500.0, error=20.0, low=462.0, high=544.0, **fields):
  row = noise.NoiseRow('total', noise_scale, error, low, high, 100.0, 0.2)
  defaults = dict(
    batch_size=128, examples=64_000, effective_steps=300.0, tensors=()
  )
  return noise.NoiseReport(**defaults | fields, total=row)


def test_rows_are_named_by_the_paths_of_tensors():
  state = _measured(adaopt.noise_scale(half_life=1e4), PARAMS)
  report = adaopt.noise_report(state, PARAMS)
  names = [row.name for row in report.tensors]
  assert names == ['dense/bias', 'dense/kernel']
  assert (report.batch_size, report.examples) == (12, 36)
  # v = 36: the bias has ‖∇F‖² = 3 − 3, and the kernel 6 − 3.
  np.testing.assert_allclose(report.tensors[1].noise_scale, 12, rtol=1e-3)
  assert math.isinf(report.tensors[0].high)
  table = adaopt.noise_table(report).splitlines()
  assert len(table) == 5
  assert len({line.count('|') for line in table}) == 1
  assert ' or more ' in table[3]
  shapes = jax.eval_shape(lambda: PARAMS)
  assert adaopt.noise_report(state, shapes) == report


def test_the_state_is_found_in_any_optimizer():
  chain = lambda: optax.chain(
    optax.clip(1.0),
    optax.inject_hyperparams(adaopt.noise_scale)(half_life=1e4),
    optax.adam(1e-3),
  )
  alone = _measured(adaopt.noise_scale(half_life=1e4), PARAMS)
  expected = adaopt.noise_report(alone, PARAMS)
  found = adaopt.noise_report(_measured(chain(), PARAMS), PARAMS)
  # The half-life is a float32 number in one of them.
  np.testing.assert_allclose(found.total[1:], expected.total[1:], rtol=1e-5)


def test_the_state_is_found_in_an_optimizer_of_nnx():
  model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
  transform = optax.chain(adaopt.noise_scale(half_life=1e4), optax.sgd(0.1))
  optimizer = nnx.Optimizer(model, transform, wrt=nnx.Param)
  ones = jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param))
  for v in (30.0, 42.0):
    variance = jax.tree.map(lambda p, v=v: jnp.float32(v), ones)
    statistics = adaopt.GradientStatistics(jnp.int32(12), ones, variance)
    optimizer.update(model, ones, statistics=statistics)
  params = nnx.as_pure(nnx.state(model, nnx.Param))
  report = adaopt.noise_report(optimizer.opt_state, params)
  assert [row.name for row in report.tensors] == ['bias', 'kernel']
  assert report.examples == 24


def test_states_and_parameters_that_do_not_fit_are_told():
  state = adaopt.noise_scale(half_life=1e4).init(PARAMS)
  with pytest.raises(ValueError, match='states of 0 noise_scale'):
    adaopt.noise_report(optax.sgd(0.1).init(PARAMS), PARAMS)
  with pytest.raises(ValueError, match='states of 2 noise_scale'):
    adaopt.noise_report((state, state), PARAMS)
  with pytest.raises(ValueError, match='1 parameters to name the 2 tensors'):
    adaopt.noise_report(state, jnp.ones(3))
  with pytest.raises(ValueError, match='batch_size must be an integer'):
    adaopt.noise_report(state, PARAMS, batch_size=0)


def test_before_any_step_there_is_a_report_and_no_advice():
  state = adaopt.noise_scale(half_life=1e4).init(PARAMS)
  report = adaopt.noise_report(state, PARAMS)
  assert 'unknown' in adaopt.noise_table(report)
  assert adaopt.noise_advice(report).startswith(
    'Not enough evidence: 0.0 effective steps of the 10'
  )


def test_flags_against_nan_and_infinity_stop_no_report():
  instrument = adaopt.noise_scale(half_life=1e4)
  with jax.debug_nans(True), jax.debug_infs(True):
    fresh = adaopt.noise_report(instrument.init(PARAMS), PARAMS)
    state = jax.jit(lambda: _measured(instrument, PARAMS))()
    found = jax.jit(noise.noise_estimates)(state)
    adaopt.noise_advice(adaopt.noise_report(state, PARAMS))
  assert 'unknown' in adaopt.noise_table(fresh)
  expected = noise.noise_estimates(state)
  finite = np.isfinite(expected.high)
  np.testing.assert_allclose(found.high[finite], expected.high[finite], 1e-5)
  assert np.all(found.high[~finite] > 1e38)


@pytest.mark.parametrize(
  ('report', 'said'),
  [
    (
      _report(),
      ['take 512, and 2.48 times the learning', '60 % fewer', '61 % more'],
    ),
    (_report(batch_size=512), ['A batch of 512 is near it: keep it.']),
    (
      _report(batch_size=4096),
      ['is above it: take 512, and 0.568 times', '76 % more', '78 % fewer'],
    ),
    (
      _report(noise_scale=0.01, low=0.009, high=0.011, batch_size=12),
      ['take 1, and'],
    ),
    (_report(low=100.0), ['A batch of 128 is near it']),
    (
      _report(noise_scale=math.inf, error=math.inf, high=math.inf),
      ['Not enough evidence for an', '462 or more', 'A batch of 256 is below'],
    ),
    (
      _report(noise_scale=math.inf, error=math.inf, low=150.0, high=math.inf),
      ['150 or more', 'larger batches.'],
    ),
    (_report(effective_steps=9.0), ['9.0 effective steps of the 10']),
    (
      _report(0.0, math.nan, math.nan, math.nan),
      ['Not enough evidence: the gradients had no noise.'],
    ),
    (
      _report(0.0, -1.0, -1.0, -1.0),
      ['Not enough evidence: the gradients had no noise.'],
    ),
  ],
)
def test_advice(report, said):
  text = adaopt.noise_advice(report)
  for words in said:
    assert words in text


@settings(max_examples=50, deadline=None)
@given(
  b=st.integers(1, 2**20),
  scale=st.floats(1e-3, 1e9),
  width=st.floats(0.0, 0.9),
)
def test_advised_sizes_are_beyond_b_only_where_the_interval_is(b, scale, width):
  low, high = scale * (1 - width), scale * (1 + width)
  report = _report(scale, width * scale / 2, low, high, batch_size=b)
  text = adaopt.noise_advice(report)
  if 'is below it' in text:
    assert low > b
  elif 'is above it' in text:
    assert high < b
  else:
    assert 'keep it' in text
