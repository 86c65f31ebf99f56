"""Signal to noise by coordinate, and TIC, against float64 and closed forms.

A failure here means training that is stopped too early, or never.
"""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

import adaopt
from adaopt import noise

NAN, INF = float('nan'), float('inf')
MOST = np.finfo(np.float32).max


def _tree(x):
  """Coordinates [5] as a tree of two tensors."""
  return {'a': x[:3].reshape(1, 3), 'b': x[3:]}


def _statistics(rows):
  rows = np.asarray(rows, float)
  of = lambda x: jax.tree.map(jnp.float32, _tree(x))
  return adaopt.GradientStatistics(
    jnp.int32(len(rows)),
    mean=of(oracles.mean(rows)),
    coordinate_variance=of(oracles.coordinate_variances(rows)),
  )


def _rows(b=7, seed=0):
  return np.random.default_rng(seed).normal(0.5, 1, size=(b, 5))


MEASURES = {
  noise.gradient_snr: lambda r, b: np.mean(r),
  noise.debiased_gradient_snr: lambda r, b: np.mean(r) - 1 / b,
  noise.stopping_evidence: lambda r, b: 1 - b * np.mean(r),
}


@pytest.mark.parametrize('measure', MEASURES)
def test_a_measure_is_that_of_gradients_of_examples(measure):
  rows = _rows()
  found = jax.jit(measure)(_statistics(rows))
  r = oracles.mean(rows) ** 2 / oracles.coordinate_variances(rows)
  expected = MEASURES[measure]
  close = lambda x, r: np.testing.assert_allclose(
    x, expected(r, len(rows)), rtol=1e-5
  )
  close(found.total, r)
  close(found.tensors['a'], r[:3])
  close(found.tensors['b'], r[3:])


@pytest.mark.parametrize(
  ('mean', 'variance', 'snr'),
  [
    ([1.0, 2.0], [4.0, 4.0], 0.625),
    ([1.0, 0.0], [4.0, 0.0], 0.25),
    ([1.0, NAN], [4.0, 1.0], 0.25),
    ([1.0, 1.0], [4.0, NAN], 0.25),
    ([1.0, 1.0], [4.0, 0.0], INF),
    ([0.0, 0.0], [4.0, 2.0], 0.0),
    ([0.0, 0.0], [0.0, 0.0], NAN),
  ],
  ids=[
    'both',
    'a dead coordinate does not count',
    'nor one without a gradient',
    'nor one without a variance',
    'signal without noise',
    'no signal',
    'no evidence',
  ],
)
def test_division_by_zero_has_a_meaning(mean, variance, snr):
  statistics = adaopt.GradientStatistics(
    jnp.int32(4),
    mean=jnp.float32(mean),
    coordinate_variance=jnp.float32(variance),
  )
  for measure, expected in (
    (noise.gradient_snr, snr),
    (noise.debiased_gradient_snr, snr - 0.25),
    (noise.stopping_evidence, 1 - 4 * snr),
  ):
    np.testing.assert_allclose(measure(statistics).total, expected, rtol=1e-6)


def test_under_debug_flags_nothing_is_nan_or_infinite():
  statistics = lambda mean: adaopt.GradientStatistics(
    jnp.int32(4), jnp.float32(mean), coordinate_variance=jnp.zeros(2)
  )
  with jax.debug_nans(True), jax.debug_infs(True):
    for measure in MEASURES:
      assert jax.jit(measure)(statistics([0.0, 0.0])).total == -1
    largest = np.finfo(np.float32).max
    assert noise.gradient_snr(statistics([1.0, 0.0])).total == largest
    assert noise.stopping_evidence(statistics([1.0, 0.0])).total == -largest
    instrument = noise.average_of(noise.gradient_snr, half_life=8)
    state = instrument.init(jnp.zeros(2))
    for mean in ([0.0, 0.0], [1.0, 0.0]):
      _, state = instrument.update(0.0, state, statistics=statistics(mean))
    assert state.weight.total == 0


@pytest.mark.slow
def test_without_signal_the_expectations_are_those_of_gaussians():
  b, trials = 8, 2000
  rows = np.random.default_rng(0).normal(size=(trials, b, 5))
  statistics = adaopt.GradientStatistics(
    jnp.full(trials, b, jnp.int32),
    mean=jnp.float32(rows.mean(1)),
    coordinate_variance=jnp.float32(rows.var(1, ddof=1)),
  )
  # b ḡ² / V is the square of a t variable of b − 1 = 7 degrees: mean 7 / 5 and
  # standard deviation 1.4 √(2 · 6 / 3); four errors of 10 000 of them.
  atol = 4 * 2.8 / np.sqrt(5 * trials)
  found = jax.vmap(noise.stopping_evidence)(statistics).total
  np.testing.assert_allclose(np.mean(found), 1 - 7 / 5, atol=atol)
  found = jax.vmap(noise.debiased_gradient_snr)(statistics).total
  np.testing.assert_allclose(np.mean(found), 0.4 / b, atol=atol / b)


@pytest.mark.slow
def test_with_a_signal_the_debiased_ratio_is_larger_by_what_is_told():
  b, trials, signal = 23, 2000, 0.7
  rows = np.random.default_rng(1).normal(signal, 1, size=(trials, b, 1))
  statistics = adaopt.GradientStatistics(
    jnp.full(trials, b, jnp.int32),
    mean=jnp.float32(rows.mean(1)),
    coordinate_variance=jnp.float32(rows.var(1, ddof=1)),
  )
  found = jax.vmap(noise.debiased_gradient_snr)(statistics).total
  excess = 1 + 2 / (b - 3)
  expected = excess * (signal**2 + 1 / b) - 1 / b
  error = np.std(found) / np.sqrt(trials)
  np.testing.assert_allclose(np.mean(found), expected, atol=4 * error)


@pytest.mark.slow
@hypothesis.settings(deadline=None, max_examples=25)
@hypothesis.given(st.integers(0, 10**6), st.floats(1e-6, 1e6))
def test_the_measures_do_not_depend_on_the_scale_of_the_loss(seed, scale):
  rows = _rows(seed=seed)
  for measure in MEASURES:
    # Also of a coordinate alone: the units of parameters do not matter.
    units = scale ** np.linspace(0, 1, 5)
    np.testing.assert_allclose(
      measure(_statistics(units * rows)).total,
      measure(_statistics(rows)).total,
      rtol=1e-4,
      atol=1e-6,
    )


def _quadratic(hessian):
  """A loss ½ (p − x)ᵀ H (p − x), whose gradients are H (p − x)."""

  def loss_fn(params, batch):
    steps = params[None] - batch
    return jnp.mean(jnp.sum(steps * (steps @ hessian), -1)) / 2

  return loss_fn


@pytest.mark.slow
@pytest.mark.parametrize('damping', [0.0, 0.5])
def test_tic_at_the_minimum_of_a_quadratic(damping):
  rng = np.random.default_rng(0)
  h = np.array([0.5, 1.0, 2.0, 4.0, 8.0])
  batch = rng.normal(size=(50, 5))
  params = batch.mean(0)
  loss_fn = _quadratic(jnp.diag(jnp.float32(h)))
  params, batch = jnp.float32(params), jnp.float32(batch)
  _, statistics = adaopt.value_and_statistics(loss_fn)(params, batch)
  curvature = noise.hessian_diagonal(
    lambda p: loss_fn(p, batch), params, jax.random.key(0)
  )
  # Probes are exact for a diagonal Hessian.
  np.testing.assert_allclose(curvature, h, rtol=1e-6)
  c = np.mean((h * (np.asarray(params) - np.asarray(batch))) ** 2, 0)
  close = lambda found, expected: np.testing.assert_allclose(
    found.total, expected, rtol=1e-5
  )
  close(
    noise.tic_diagonal(statistics, curvature, damping=damping),
    np.sum(c / (h + damping)),
  )
  close(
    noise.tic_trace(statistics, curvature, damping=damping),
    np.sum(c) / np.sum(h + damping),
  )


def test_tic_of_every_tensor():
  rows = _rows()
  h = np.arange(1.0, 6.0)
  c = np.mean(rows**2, 0)
  statistics, curvature = _statistics(rows), _tree(jnp.float32(h))
  trace = noise.tic_trace(statistics, curvature)
  diagonal = noise.tic_diagonal(statistics, curvature)
  for name, part in (('a', np.s_[:3]), ('b', np.s_[3:])):
    np.testing.assert_allclose(
      trace.tensors[name], c[part].sum() / h[part].sum(), rtol=1e-5
    )
    np.testing.assert_allclose(
      diagonal.tensors[name], (c[part] / h[part]).sum(), rtol=1e-5
    )


@pytest.mark.slow
def test_tic_estimates_the_generalisation_gap_of_a_linear_model():
  # Of least squares: E gap = tr(H⁻¹ C) / n, H = E x xᵀ, by simulation.
  rng = np.random.default_rng(0)
  n, trials, scales = 200, 400, np.array([0.5, 1.0, 2.0])
  x = scales * rng.normal(size=(trials, n, 3))
  errors = rng.normal(size=(trials, n)) * (1 + (x[..., 0] > 0))
  w = np.stack(
    [np.linalg.lstsq(*pair)[0] for pair in zip(x, errors, strict=True)]
  )
  residuals = errors - np.einsum('tnk,tk->tn', x, w)
  # The true loss at w, of which the weights are 0 and E error² = 2.5.
  gaps = (2.5 + w**2 @ scales**2 - np.mean(residuals**2, 1)) / 2
  g = -residuals[..., None] * x
  statistics = adaopt.GradientStatistics(
    jnp.full(trials, n, jnp.int32),
    mean=jnp.float32(g.mean(1)),
    coordinate_variance=jnp.float32(g.var(1, ddof=1)),
  )
  curvature = jnp.float32(np.mean(x**2, 1))
  found = jax.vmap(noise.tic_diagonal)(statistics, curvature).total / n
  error = np.std(gaps) / np.sqrt(trials)
  np.testing.assert_allclose(np.mean(found), np.mean(gaps), atol=3 * error)
  assert error < np.mean(gaps) / 2


@pytest.mark.parametrize(
  ('mean', 'curvature', 'trace', 'diagonal'),
  [
    ([2.0, 0.0], [1.0, -0.5], 8.0, 4.0),
    ([2.0, 2.0], [1.0, 0.0], 8.0, INF),
    ([2.0, 2.0], [1.0, -3.0], INF, INF),
    ([0.0, 0.0], [0.0, 0.0], NAN, 0.0),
  ],
)
def test_curvature_that_is_not_above_zero(mean, curvature, trace, diagonal):
  statistics = adaopt.GradientStatistics(
    jnp.int32(4), jnp.float32(mean), coordinate_variance=jnp.zeros(2)
  )
  curvature = jnp.float32(curvature)
  np.testing.assert_allclose(
    noise.tic_trace(statistics, curvature).total, trace
  )
  found = noise.tic_diagonal(statistics, curvature).total
  np.testing.assert_allclose(found, diagonal)


@pytest.mark.slow
@pytest.mark.parametrize('flag', [jax.debug_nans, jax.debug_infs])
@pytest.mark.parametrize(
  ('mean', 'variance', 'curvature', 'trace', 'diagonal'),
  [
    ([1.0, 1.0], [-1.0, 1.0], [1.0, 1.0], -1, -1),
    ([1.0, 1.0], [-1.0, -1.0], [1.0, 0.0], -1, -1),
    ([2.0, 2.0], [0.0, 0.0], [0.0, 0.0], MOST, MOST),
    ([2.0, 2.0], [0.0, 0.0], [1.0, 0.0], 8, MOST),
    ([2.0, 0.0], [0.0, 0.0], [1.0, 0.0], 4, 4),
  ],
)
def test_tic_of_what_has_no_number_under_a_debugging_flag(
  flag, mean, variance, curvature, trace, diagonal
):
  tree = lambda x: {'a': jnp.float32(x[:1]), 'b': jnp.float32(x[1])}
  statistics = adaopt.GradientStatistics(
    jnp.int32(4), tree(mean), coordinate_variance=tree(variance)
  )
  together = adaopt.GradientStatistics(
    jnp.int32(4), jnp.float32(mean), coordinate_variance=jnp.float32(variance)
  )
  with flag(True):
    for run in (lambda f: f, jax.jit):
      for args in (
        (statistics, tree(curvature)),
        (together, jnp.float32(curvature)),
      ):
        assert run(noise.tic_trace)(*args).total == trace
        assert run(noise.tic_diagonal)(*args).total == diagonal


def test_parameters_may_be_numbers_of_python():
  loss = lambda p: p['a'] ** 2 + 3 * p['b'] ** 2
  found = noise.hessian_diagonal(loss, {'a': 1.0, 'b': 2.0}, jax.random.key(0))
  assert found == {'a': 2.0, 'b': 6.0}


@pytest.mark.slow
def test_probes_are_unbiased_with_the_variance_told():
  rng = np.random.default_rng(0)
  hessian = rng.normal(size=(4, 4))
  hessian = hessian + hessian.T
  matrix = jnp.float32(hessian)
  loss = lambda p: (
    0.5
    * jnp.concatenate([p['a'], p['b']])
    @ matrix
    @ jnp.concatenate([p['a'], p['b']])
  )
  params = {'a': jnp.ones(1), 'b': jnp.zeros(3)}
  one = jax.jit(lambda key: noise.hessian_diagonal(loss, params, key))
  keys = jax.random.split(jax.random.key(0), 2000)
  found = jax.vmap(one)(keys)
  found = np.concatenate([found['a'], found['b']], 1)
  off = hessian - np.diag(np.diag(hessian))
  variance = np.sum(off**2, 1)
  error = np.sqrt(variance / len(keys))
  np.testing.assert_allclose(
    found.mean(0) - np.diag(hessian), 0, atol=4 * error.max()
  )
  np.testing.assert_allclose(found.var(0), variance, rtol=0.15)
  several = noise.hessian_diagonal(
    loss, params, jax.random.key(1), num_probes=500
  )
  np.testing.assert_allclose(
    np.concatenate([several['a'], several['b']]),
    np.diag(hessian),
    atol=5 * np.sqrt(variance.max() / 500),
  )


@pytest.mark.slow
def test_a_chain_measures_in_every_step_until_it_says_to_stop():
  optimizer = optax.chain(
    adaopt.schedule_batch_size(64),
    noise.average_of(noise.stopping_evidence, half_life=64),
    optax.sgd(0.1),
  )
  data = jax.random.normal(jax.random.key(0), [64, 20]) + 3
  found = []
  for state, _ in adaopt.fit(
    lambda params, batch: jnp.mean(jnp.sum((params - batch) ** 2, -1)),
    optimizer,
    jnp.zeros([1, 20]),
    data,
    num_examples=64 * 40,
  ):
    average = optax.tree.get(state.opt_state, 'average')
    found.append(float(average.total))
  # 1 − 64 · 9, as every coordinate is at 3 ± 1; and 1 at the minimum.
  assert -700 < found[0] < -500
  np.testing.assert_allclose(found[-1], 1, atol=0.01)
  assert sorted(found) == found
  np.testing.assert_allclose(average.tensors, average.total)


def test_averages_are_those_of_numpy_and_leave_out_what_is_missing():
  half_life, sizes = 50, [8, 16, 8, 32]
  rows = [_rows(b, seed) for seed, b in enumerate(sizes)]
  instrument = noise.average_of(
    lambda s: (noise.gradient_snr(s).total, jnp.float32(s.batch_size)),
    half_life=half_life,
  )
  step = jax.jit(
    lambda s, state: instrument.update(s.mean, state, statistics=s)[1]
  )
  state = instrument.init(_statistics(rows[0]).mean)
  assert np.all(np.isnan(state.average))
  for i, row in enumerate(rows):
    statistics = _statistics(row)
    if i == 2:
      nothing = jax.tree.map(jnp.zeros_like, statistics.mean)
      statistics = statistics._replace(
        mean=nothing, coordinate_variance=nothing
      )
    state = step(statistics, state)
  snr = np.array(
    [
      np.mean(oracles.mean(r) ** 2 / oracles.coordinate_variances(r))
      for r in rows
    ]
  )

  def averaged(values, sizes):
    entering = 1 - 2.0 ** (-np.array(sizes) / half_life)
    after = np.append(np.cumprod(1 - entering[::-1])[::-1][1:], 1.0)
    return np.sum(entering * after * values) / np.sum(entering * after)

  kept = [0, 1, 3]
  np.testing.assert_allclose(
    state.average,
    [averaged(snr[kept], np.array(sizes)[kept]), averaged(sizes, sizes)],
    rtol=1e-5,
  )
  before = state
  _, state = instrument.update(0.0, state, statistics=None)
  assert state == before


def test_a_filter_restricts_what_is_measured():
  statistics = _statistics(_rows())
  only_b = adaopt.of_tensors(
    lambda s: noise.gradient_snr(s).total, lambda path: path == 'b'
  )
  np.testing.assert_allclose(
    only_b(statistics), noise.gradient_snr(statistics).tensors['b'], rtol=1e-6
  )


def test_wrong_calls_are_told():
  statistics = _statistics(_rows())
  no_variance = statistics._replace(coordinate_variance=None)
  for measure in MEASURES:
    with pytest.raises(ValueError, match=rf'{measure.__name__} needs stat'):
      measure(no_variance)
  with pytest.raises(ValueError, match='curvature must be like the param'):
    noise.tic_trace(statistics, jnp.ones(5))
  with pytest.raises(ValueError, match=r'must be real, got complex64\[2\]'):
    noise.hessian_diagonal(
      lambda p: jnp.sum(jnp.abs(p)), jnp.ones(2, complex), jax.random.key(0)
    )
  with pytest.raises(ValueError, match='measure must return real numbers'):
    noise.average_of(lambda s: s.mean, half_life=10).init(jnp.ones(2))
