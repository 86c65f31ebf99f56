"""If these fail, a moving average forgets, doubles or hides its noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adaopt

NAN, INF = float('nan'), float('inf')

# ‖ḡ‖² = 25, ‖ḡ‖₁ = 7, v = 40, ‖σ‖₁ = 8, b = 8.
MEAN = {'w': jnp.array([3.0, 0.0]), 'b': jnp.array(-4.0)}
STATISTICS = adaopt.GradientStatistics(
  jnp.int32(8),
  MEAN,
  variance={'w': jnp.array(4.0), 'b': jnp.array(36.0)},
  coordinate_variance={'w': jnp.array([4.0, 0.0]), 'b': jnp.array(36.0)},
)


def _scalar(mean, variance, batch_size=4):
  """Statistics of one parameter, whose tensor is its coordinate."""
  return adaopt.GradientStatistics(
    jnp.int32(batch_size),
    jnp.float32(mean),
    variance=jnp.float32(variance),
    coordinate_variance=jnp.float32(variance),
  )


def _requirements(criterion, history, **extra_args):
  """What is required after each of the statistics."""
  state = criterion.init(jnp.zeros([]))
  found = []
  for stats in history:
    required, state = criterion.update(stats, state, **extra_args)
    assert required.shape == ()
    assert required.dtype == jnp.float32
    found.append(float(required))
  return found


@pytest.mark.parametrize(
  ('criterion', 'expected'),
  [
    # 40 / (25 − 40 / 8)
    (adaopt.gradient_noise_scale(), 2.0),
    (adaopt.debiased_norm_test(0.5), 8.0),
    # 40 / (0.25 · 0.9 · 25): what is left of ‖ḡ‖², 20, is below its floor.
    (adaopt.debiased_norm_test(0.5, floor=0.9), 64 / 9),
    # 0.3 · 40 / 1.5
    (adaopt.criteria.cabs(0.3), 8.0),
    # 8² / (0.36 · 7²)
    (adaopt.criteria.sign_noise_scale(0.6), 64 / (0.36 * 49)),
  ],
  ids=['noise scale', 'debiased', 'floor', 'cabs', 'sign'],
)
def test_requirements_equal_those_computed_by_hand(criterion, expected):
  required, state = criterion.update(
    STATISTICS, criterion.init(MEAN), value=jnp.float32(1.5)
  )
  np.testing.assert_allclose(required, expected, 1e-6)
  # The first step is all there is; the same again changes no average.
  again, _ = criterion.update(STATISTICS, state, value=jnp.float32(1.5))
  np.testing.assert_allclose(again, expected, 1e-6)


MEASURES = {
  'debiased': (
    lambda decay: adaopt.debiased_norm_test(0.5, decay=decay, floor=0.1),
    lambda m, v, b, value: (4 * v, m - v / b, 0.1 * m),
  ),
  'noise scale': (
    lambda decay: adaopt.gradient_noise_scale(decay=decay),
    lambda m, v, b, value: (v, m - v / b, 0.01 * m),
  ),
  'cabs': (
    lambda decay: adaopt.criteria.cabs(0.2, decay=decay),
    lambda m, v, b, value: (0.2 * v, value, 0),
  ),
  'sign': (
    lambda decay: adaopt.criteria.sign_noise_scale(0.5, decay=decay),
    lambda m, v, b, value: (v, 0.25 * m, 0),
  ),
}


@pytest.mark.parametrize('decay', [0.0, 0.5, 0.95])
@pytest.mark.parametrize('name', MEASURES)
def test_noise_and_signal_are_averaged_apart_with_weights_that_add_up(
  name, decay
):
  build, measure = MEASURES[name]
  rng = np.random.default_rng(0)
  sizes = [4, 4, 16, 7, 300]
  means, variances = rng.normal(size=5), rng.uniform(1, 9, size=5)
  values = rng.uniform(1, 2, size=5)
  criterion = build(decay)
  state, found = criterion.init(jnp.zeros([])), []
  for step in zip(means, variances, sizes, values, strict=True):
    mean, variance, b, value = step
    required, state = criterion.update(
      _scalar(mean, variance, b), state, value=jnp.float32(value)
    )
    found.append(required)
  parts = np.array(
    [
      measure(mean**2, variance, b, value)
      for mean, variance, b, value in zip(
        means, variances, sizes, values, strict=True
      )
    ]
  )
  for t, required in enumerate(found, start=1):
    weights = float(decay) ** np.arange(t - 1, -1, -1)
    noise, signal, floor = weights @ parts[:t] / weights.sum()
    # Float32 differences of numbers of one size: a few ulps.
    np.testing.assert_allclose(required, noise / max(signal, floor), 1e-5)


@pytest.mark.parametrize('eta', [0.1, 0.5, 2.0])
def test_the_norm_test_is_the_noise_scale_over_eta_squared(eta):
  history = [_scalar(m, v) for m, v in ((1.0, 1.0), (0.1, 3.0), (2.0, 0.5))]
  np.testing.assert_allclose(
    _requirements(adaopt.debiased_norm_test(eta), history),
    np.array(_requirements(adaopt.gradient_noise_scale(), history)) / eta**2,
    rtol=1e-6,
  )


def test_pure_noise_asks_for_more_than_the_plug_in_test_does():
  # ‖ḡ‖² = v / b to the digit: no signal at all.
  stats = _scalar(1.0, 4.0)
  assert adaopt.norm_test(0.5)(stats) == 16.0  # b / η²
  required = _requirements(adaopt.debiased_norm_test(0.5, floor=0.01), [stats])
  np.testing.assert_allclose(required, [1600.0], 1e-6)  # b / (η² floor)


@pytest.mark.parametrize(
  'criterion',
  [
    adaopt.debiased_norm_test(0.5),
    adaopt.gradient_noise_scale(),
    adaopt.criteria.sign_noise_scale(0.5),
  ],
  ids=['debiased', 'noise scale', 'sign'],
)
@pytest.mark.parametrize(
  ('mean', 'variance', 'expected'),
  [
    (0.0, 0.0, NAN),
    (0.0, 2.0, INF),
    (2.0, 0.0, 0.0),
    (2.0, NAN, NAN),
    (2.0, INF, NAN),
    (NAN, 2.0, NAN),
    (INF, 2.0, NAN),
    (1e30, 2.0, NAN),
  ],
)
def test_degenerate_statistics(criterion, mean, variance, expected):
  (required,) = _requirements(criterion, [_scalar(mean, variance)])
  np.testing.assert_array_equal(required, expected)


@pytest.mark.parametrize(
  ('variance', 'value', 'expected'),
  [
    (2.0, 0.0, INF),
    (2.0, -1.0, INF),
    (0.0, 0.0, NAN),
    (0.0, 1.0, 0.0),
    (2.0, NAN, NAN),
    (2.0, INF, NAN),
  ],
)
def test_cabs_at_losses_that_are_not_positive_or_not_finite(
  variance, value, expected
):
  (required,) = _requirements(
    adaopt.criteria.cabs(1.0),
    [_scalar(1.0, variance)],
    value=jnp.float32(value),
  )
  np.testing.assert_array_equal(required, expected)


def test_cabs_follows_noise_and_loss_both_ways_within_its_bounds():
  transform = adaopt.adapt_batch_size(
    adaopt.criteria.cabs(0.5, decay=0.0),
    init_batch_size=16,
    max_batch_size=2048,
    policy=adaopt.follow,
  )
  updates = jnp.ones([])
  state = transform.init(updates)
  sizes = []
  for variance, loss in ((80, 1), (400, 2), (400, 1e-3), (30, 1), (99, 1)):
    _, state = transform.update(
      updates,
      state,
      statistics=_scalar(1.0, variance),
      value=jnp.float32(loss),
    )
    sizes.append(int(state.batch_size))
  assert sizes == [40, 100, 2048, 16, 50]


@pytest.mark.parametrize('name', MEASURES)
@pytest.mark.parametrize(
  ('mean', 'variance', 'value'),
  [(NAN, 3.0, 1.0), (1.0, INF, 1.0), (1e30, 1e30, INF)],
  ids=['gradient', 'variance', 'overflow'],
)
def test_a_step_that_is_not_finite_leaves_averages_and_size(
  name, mean, variance, value
):
  build, _ = MEASURES[name]
  transform = adaopt.adapt_batch_size(
    build(0.9), init_batch_size=8, max_batch_size=512
  )
  updates = jnp.ones([])
  _, state = transform.update(
    updates,
    transform.init(updates),
    statistics=_scalar(1.0, 3.0),
    value=jnp.float32(1.0),
  )
  _, after = transform.update(
    updates,
    state,
    statistics=_scalar(mean, variance),
    value=jnp.float32(value),
  )
  assert after.batch_size == state.batch_size
  jax.tree.map(
    np.testing.assert_array_equal, after.criterion_state, state.criterion_state
  )


@pytest.mark.parametrize('scale', [-(2.0**-12), 2.0**20])
def test_the_scale_of_the_loss_changes_no_noise_scale(scale):
  for criterion in (
    adaopt.debiased_norm_test(0.5),
    adaopt.gradient_noise_scale(),
    adaopt.criteria.sign_noise_scale(0.5),
  ):
    history = [(1.0, 1.0), (0.1, 3.0), (2.0, 0.5)]
    assert _requirements(
      criterion, [_scalar(scale * m, scale**2 * v) for m, v in history]
    ) == _requirements(criterion, [_scalar(m, v) for m, v in history])


def test_tolerances_may_be_traced_and_batched():
  def require(eta):
    criterion = adaopt.debiased_norm_test(eta, decay=eta / 2, floor=eta / 4)
    return criterion.update(STATISTICS, criterion.init(MEAN))[0]

  required = jax.jit(jax.vmap(require))(jnp.array([0.1, 0.5, 1.0]))
  np.testing.assert_allclose(required, [200.0, 8.0, 2.0], 1e-6)


NO_VARIANCE = STATISTICS._replace(variance=None, coordinate_variance=None)


@pytest.mark.parametrize(
  ('criterion', 'stats', 'message'),
  [
    (
      adaopt.criteria.cabs(0.1),
      STATISTICS,
      'cabs needs the loss; pass value= to optimizer.update',
    ),
    (
      adaopt.debiased_norm_test(0.1),
      NO_VARIANCE,
      r'debiased_norm_test needs statistics\.variance, which is None; value_',
    ),
    (
      adaopt.gradient_noise_scale(),
      NO_VARIANCE,
      r'gradient_noise_scale needs statistics\.variance, which is None; value_',
    ),
    (
      adaopt.criteria.sign_noise_scale(0.1),
      STATISTICS._replace(coordinate_variance=None),
      r'sign_noise_scale needs statistics\.coordinate_variance, which is None; '
      'value_and_statistics computes it unless only=',
    ),
  ],
  ids=['cabs', 'debiased', 'noise scale', 'sign'],
)
def test_what_is_missing_is_named_with_the_remedy(criterion, stats, message):
  with pytest.raises(ValueError, match=message):
    criterion.update(stats, criterion.init(MEAN))


def test_cabs_names_a_missing_variance_too():
  criterion = adaopt.criteria.cabs(0.1)
  with pytest.raises(ValueError, match=r'cabs needs statistics\.variance, whi'):
    criterion.update(NO_VARIANCE, criterion.init(MEAN), value=jnp.ones([]))


@pytest.mark.parametrize(
  ('build', 'message'),
  [
    (lambda: adaopt.debiased_norm_test(0.0), 'eta must be positive .* got 0'),
    (
      lambda: adaopt.criteria.cabs(-1.0),
      'learning_rate must be positive .* got -1',
    ),
    (
      lambda: adaopt.criteria.sign_noise_scale(NAN),
      'theta must be positive .* got nan',
    ),
    (
      lambda: adaopt.criteria.cabs(0.1, decay=1.0),
      r'decay must be below 1, got 1\.0',
    ),
    (
      lambda: adaopt.criteria.cabs(0.1, decay=-0.1),
      'decay must be .* at least 0',
    ),
    (lambda: adaopt.gradient_noise_scale(floor=0), 'floor must be positive'),
    (
      lambda: adaopt.gradient_noise_scale(floor=1.5),
      r'floor must be at most 1, got 1\.5',
    ),
  ],
)
def test_a_constant_out_of_range_is_refused(build, message):
  with pytest.raises(ValueError, match=message):
    build()
