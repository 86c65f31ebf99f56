"""If these fail, prompts are sampled too often, or too many of them once."""

import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adaopt
from adaopt import noise

_two_level = jax.jit(noise.two_level)


def _gradients(groups, members, between=2.0, within=1.0, dim=3, seed=0):
  """g_ki of components dim · between² and dim · within², [K, m, dim]."""
  rng = np.random.default_rng(seed)
  of_groups = between * rng.normal(size=(groups, 1, dim))
  return 1.0 + of_groups + within * rng.normal(size=(groups, members, dim))


def _oracle(g):
  """σ_b², σ_w² and the variance of the mean, in float64."""
  groups, members, _ = g.shape
  means, center = g.mean(1), g.mean((0, 1))
  msb = members * np.sum((means - center) ** 2) / (groups - 1)
  msw = np.sum((g - means[:, None]) ** 2) / (groups * (members - 1))
  return np.array([(msb - msw) / members, msw, msb / (groups * members)])


@hypothesis.settings(deadline=None, max_examples=20)
@hypothesis.given(
  st.sampled_from([(3, 2), (6, 5)]), st.floats(0, 3), st.integers(0, 99)
)
def test_components_and_errors_are_those_of_numpy(shape, between, seed):
  groups, members = shape
  g = _gradients(groups, members, between, seed=seed)
  found = _two_level(
    {'a': jnp.float32(g[..., :2]), 'b': jnp.float32(g[..., 2])}
  )
  scale = np.sum(g.var((0, 1)))
  close = lambda x, y: np.testing.assert_allclose(
    x, y, rtol=1e-4, atol=1e-5 * scale
  )
  b, w, of_mean = _oracle(g)
  close([found.between, found.within, found.variance_of_mean], [b, w, of_mean])
  without = np.array(
    [_oracle(np.delete(g, k, axis=0))[:2] for k in range(groups)]
  )
  spread = np.sum((without - without.mean(0)) ** 2, 0)
  close(
    [found.between_error, found.within_error],
    np.sqrt((groups - 1) / groups * spread),
  )


@pytest.mark.slow
def test_the_sums_are_those_of_norms_and_inner_products():
  rng = np.random.default_rng(0)
  groups, members = 5, 4
  batch = {
    'x': jnp.float32(rng.normal(size=(groups * members, 3))),
    'y': jnp.float32(rng.normal(size=groups * members)),
  }
  params = jnp.float32(rng.normal(size=3))

  def loss_fn(params, batch):
    return jnp.mean((batch['x'] @ params - batch['y']) ** 2)

  def of_groups(params, grouped):  # an example is a group
    return jnp.mean(jax.vmap(loss_fn, (None, 0))(params, grouped))

  grouped = jax.tree.map(
    lambda x: x.reshape(groups, members, *x.shape[1:]), batch
  )
  _, mean, norms = adaopt.per_example.squared_norms(loss_fn)(params, batch)
  _, _, of_means = adaopt.per_example.squared_norms(of_groups)(params, grouped)
  along = adaopt.per_example.inner_products(of_groups)(params, grouped, mean)
  found = noise.two_level_from_sums(
    of_means - 2 * along + jnp.sum(mean**2),
    norms.reshape(groups, members).sum(1) - members * of_means,
    group_size=members,
  )
  one = jax.vmap(jax.grad(loss_fn), (None, 0))(
    params, jax.tree.map(lambda x: x[:, None], batch)
  )
  expected = noise.two_level(one.reshape(groups, members, 3))
  # Differences of float32 norms.
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3), found, expected
  )
  # MSB is the v of groups.
  _, statistics = adaopt.value_and_statistics(loss_fn, group_size=members)(
    params, batch
  )
  np.testing.assert_allclose(
    statistics.variance,
    members * found.between + found.within,
    rtol=1e-3,
  )


@pytest.mark.parametrize('between', [0.0, 1.5])
def test_components_are_unbiased_and_errors_are_the_spread(between):
  groups, members, trials, dim = 12, 4, 1500, 2
  g = np.stack(
    [
      _gradients(groups, members, between, dim=dim, seed=seed)
      for seed in range(trials)
    ]
  )
  found = jax.jit(jax.vmap(noise.two_level))(jnp.float32(g))
  for values, errors, truth in (
    (found.between, found.between_error, dim * between**2),
    (found.within, found.within_error, dim * 1.0),
  ):
    spread = np.std(values)
    np.testing.assert_allclose(
      np.mean(values), truth, atol=4 * spread / np.sqrt(trials)
    )
    # The jackknife of 12 groups is a little too large.
    np.testing.assert_allclose(
      np.sqrt(np.mean(np.square(errors))), spread, rtol=0.1
    )
  of_mean = np.sum(np.var(g.mean((1, 2)), 0))
  np.testing.assert_allclose(
    np.mean(found.variance_of_mean), of_mean, rtol=0.15
  )
  np.testing.assert_allclose(
    of_mean, dim * (between**2 + 1 / members) / groups, rtol=0.15
  )


@pytest.mark.slow
def test_members_with_a_common_baseline_shift_the_components_as_told():
  # Each less the mean of its group: c = −1 / m of unit variances 1 − 1 / m.
  members = 4
  g = _gradients(2000, members, between=0.0, dim=1)
  found = noise.two_level(jnp.float32(g - g.mean(1, keepdims=True)))
  np.testing.assert_allclose(found.between, -1 / members, rtol=0.05)
  np.testing.assert_allclose(found.within, 1, rtol=0.05)
  np.testing.assert_allclose(found.variance_of_mean, 0, atol=1e-10)


def test_two_groups_have_no_errors():
  found = noise.two_level(jnp.float32(_gradients(2, 3)))
  assert np.isfinite(found.between)
  assert np.isnan(found.between_error)
  assert np.isnan(found.within_error)
  with jax.debug_nans(True):
    assert noise.two_level(jnp.float32(_gradients(2, 3))).between_error == -1


@pytest.mark.slow
@pytest.mark.parametrize(
  ('group_cost', 'member_cost'), [(5, 1), (1, 1), (1, 9)]
)
def test_the_best_group_size_is_that_of_a_search(group_cost, member_cost):
  found = noise.two_level(jnp.float32(_gradients(50, 8, between=0.8)))
  best = noise.best_group_size(
    found, group_cost=group_cost, member_cost=member_cost
  )
  sizes = np.linspace(1, 20, 20_000)
  cost = group_cost + sizes * member_cost
  variance = float(found.between) + float(found.within) / sizes
  np.testing.assert_allclose(best, sizes[np.argmin(variance * cost)], atol=2e-3)


@pytest.mark.parametrize(
  ('between', 'within', 'best'),
  [
    (0.0, 1.0, np.inf),
    (-0.1, 1.0, np.inf),
    (1.0, 0.0, 1.0),
    (0.0, 0.0, np.nan),
  ],
)
def test_the_best_group_size_without_a_component(between, within, best):
  numbers = [jnp.float32(x) for x in (between, 0.1, within, 0.1, 1.0)]
  found = noise.best_group_size(
    noise.TwoLevel(*numbers), group_cost=1, member_cost=1
  )
  np.testing.assert_allclose(found, best)


@pytest.mark.slow
@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.complex64])
def test_other_dtypes_are_summed_in_float32(dtype):
  g = jnp.asarray(_gradients(10, 4, dim=200), dtype)
  found = noise.two_level(g)
  assert found.between.dtype == jnp.float32
  exact = _oracle(np.asarray(jnp.real(g).astype(jnp.float32), float))
  np.testing.assert_allclose(found.between, exact[0], rtol=1e-4)


@pytest.mark.parametrize(
  'shapes',
  [[(3, 1, 2)], [(1, 3, 2)], [(3,)], [(3, 2), (3, 4)], [(3, 2), (3,)]],
)
def test_other_stacks_are_told(shapes):
  with pytest.raises(ValueError, match=r'gradients must be stacked by groups'):
    noise.two_level([jnp.ones(shape) for shape in shapes])


def test_wrong_sums_are_told():
  for between, within in itertools.product(
    (jnp.ones(3), jnp.ones([3, 1])), (jnp.ones(2), 1.0)
  ):
    with pytest.raises(ValueError, match='a number for each of at least two'):
      noise.two_level_from_sums(between, within, group_size=4)


@pytest.mark.parametrize('flag', [jax.debug_nans, jax.debug_infs])
@pytest.mark.parametrize(
  ('between', 'within', 'best'),
  [
    (0.0, 1.0, np.finfo(np.float32).max),
    (0.0, 0.0, -1.0),
    (1.0, 3e38, np.sqrt(3e38) * np.sqrt(9.0)),
    (1.0, 4.0, 6.0),
  ],
)
def test_no_best_group_size_is_told_under_a_debugging_flag(
  flag, between, within, best
):
  numbers = [jnp.float32(x) for x in (between, 0.1, within, 0.1, 1.0)]
  best_of = lambda found: noise.best_group_size(
    found, group_cost=9, member_cost=1
  )
  with flag(True):
    for run in (best_of, jax.jit(best_of)):
      np.testing.assert_allclose(run(noise.TwoLevel(*numbers)), best, rtol=1e-6)
