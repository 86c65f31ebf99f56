"""If these fail, micro-batches merge into other statistics than the batch's."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adaopt
from adaopt.statistics import merging


def _tree(x):
  """Columns [..., 4] as two tensors of shape [..., 3] and [...]."""
  return {'a': x[..., :3], 'b': x[..., 3]}


def _variance(g, kind):
  """The oracle's variance as a tree; None for a single sample."""
  if len(g) == 1:
    return None
  if kind == 'coordinate':
    return _tree(oracles.coordinate_variances(g))
  return dict(zip('ab', oracles.tensor_variances(g, _tree(g[0])), strict=True))


def _micro_batch(g, kind, q=1):
  """The statistics of a micro-batch whose samples have mean gradients g."""
  variance = _variance(g, kind)
  statistics = adaopt.GradientStatistics(
    np.int32(q * len(g)),
    _tree(np.mean(g, 0)),
    None
    if variance is None
    else jax.tree.map(lambda v: np.asarray(q * v), variance),
  )
  return jax.tree.map(jnp.asarray, statistics)


def _merged(parts, kind, q=1):
  """The statistics after micro-batches with these sample gradients."""
  total = merging.zeros(jax.tree.map(jnp.asarray, _tree(parts[0][0])), kind)
  for g in parts:
    statistics = _micro_batch(g, kind, q)
    new = merging.micro_batch(
      statistics.mean, statistics, 1.0, group_size=q, like=total
    )
    total = merging.merge(total, new)
  return merging.finish(total)


@pytest.mark.parametrize('kind', ['total', 'coordinate'])
@settings(max_examples=30, deadline=None, database=None, derandomize=True)
@given(
  sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6),
  q=st.integers(1, 4),
  scale=st.sampled_from([1e-6, 1.0, 1e6]),
  offset=st.sampled_from([0.0, 1e3]),
  seed=st.integers(0, 100),
)
def test_any_split_has_the_statistics_of_the_whole(
  kind, sizes, q, scale, offset, seed
):
  if sum(sizes) == 1:
    sizes = [1, 1]
  rng = np.random.default_rng(seed)
  g = scale * (offset + rng.normal(size=(sum(sizes), 4)))
  parts = np.split(g, np.cumsum(sizes)[:-1])
  with jax.enable_x64(True):
    merged = jax.device_get(_merged(parts, kind, q))
  assert merged.batch_size == q * len(g)
  np.testing.assert_allclose(
    oracles.ravel(merged.mean), oracles.mean(g), rtol=1e-12, atol=1e-12 * scale
  )
  # δ and the oracle's deviations round at 1e-16 of the offset, 1e3 deviations.
  np.testing.assert_allclose(
    oracles.ravel(merged.variance),
    q * oracles.ravel(_variance(g, kind)),
    rtol=1e-8,
  )


@pytest.mark.parametrize('kind', ['total', 'coordinate'])
def test_noise_far_below_the_gradient_is_not_cancelled(kind):
  rng = np.random.default_rng(0)
  g = np.float32(1000 + rng.normal(size=(12, 4))).astype(float)
  # One sample a micro-batch, so that all of the noise is found by merging.
  merged = _merged(np.split(g, 12), kind)
  # Means are rounded at 6e-5 of a deviation; raw squares would be at 0.1.
  np.testing.assert_allclose(
    oracles.ravel(merged.variance),
    oracles.ravel(_variance(g, kind)),
    rtol=1e-3,
  )


def test_samples_of_unequal_size_weigh_by_their_examples():
  # 4 examples of mean 1 and a rest of 2 with mean 4: ḡ = 2, and
  # M = 4 · 1² + 2 · 2² over J − 1 = 1.
  total = merging.zeros(jnp.zeros([]), 'total')
  for size, gradient in ((4, 1.0), (2, 4.0)):
    gradient = jnp.float32(gradient)
    statistics = adaopt.GradientStatistics(jnp.int32(size), gradient)
    total = merging.merge(
      total,
      merging.micro_batch(gradient, statistics, None, group_size=4, like=total),
    )
  statistics = merging.finish(total)
  assert total.samples == 2
  assert statistics.batch_size == 6
  assert statistics.mean == 2
  assert statistics.variance == 12
  assert np.isnan(total.value)


@pytest.mark.parametrize('sizes', [[3, 3], [4, 4, 1], [2, 2, 2, 2]])
def test_variance_is_unbiased_whatever_the_sizes(sizes):
  bounds = np.cumsum([0, *sizes])

  def variance(examples):
    total = merging.zeros(jnp.zeros([]), 'total')
    for start, stop in itertools.pairwise(bounds):
      mean = jnp.mean(examples[start:stop])
      statistics = adaopt.GradientStatistics(stop - start, mean)
      total = merging.merge(
        total,
        merging.micro_batch(
          mean, statistics, None, group_size=sizes[0], like=total
        ),
      )
    return merging.finish(total).variance

  # V = gᵀ A g, so that its mean is tr(A) times an example's variance, if
  # constants do not count: A 1 = 0.
  a = jax.jit(jax.hessian(variance))(jnp.zeros(bounds[-1])) / 2
  np.testing.assert_allclose(jnp.trace(a), 1, rtol=1e-6)
  np.testing.assert_allclose(jnp.sum(a, 1), np.zeros(len(a)), atol=1e-6)


def test_one_sample_has_no_variance():
  assert np.all(
    np.isnan(oracles.ravel(_merged([np.ones((1, 4))], 'total').variance))
  )


def test_several_samples_without_a_variance_leave_none():
  g = np.random.default_rng(0).normal(size=(2, 4))
  total = merging.zeros(jax.tree.map(jnp.asarray, _tree(g[0])), 'total')
  for variance in (_variance(g, 'total'), None):
    statistics = _micro_batch(g, 'total')._replace(variance=variance)
    new = merging.micro_batch(
      statistics.mean, statistics, 1.0, group_size=1, like=total
    )
    total = merging.merge(total, new)
  assert np.all(np.isnan(oracles.ravel(merging.finish(total).variance)))


def test_variances_of_coordinates_add_up_to_those_of_tensors():
  g = np.random.default_rng(0).normal(size=(6, 4))
  total = merging.zeros(jax.tree.map(jnp.asarray, _tree(g[0])), 'total')
  statistics = _micro_batch(g, 'coordinate')
  new = merging.micro_batch(
    statistics.mean, statistics, 1.0, group_size=1, like=total
  )
  np.testing.assert_allclose(
    oracles.ravel(merging.finish(merging.merge(total, new)).variance),
    oracles.tensor_variances(g, _tree(g[0])),
    rtol=1e-5,
  )


@pytest.mark.parametrize('kind', ['total', 'coordinate', None])
def test_packed_moments_can_be_unpacked(kind):
  params = {'a': jnp.ones(3), 'b': jnp.ones([], jnp.complex64)}
  held = jax.tree.map(lambda x: x + 1, merging.zeros(params, kind))
  packed = merging.pack(held, kind)
  jax.tree.map(
    np.testing.assert_array_equal, merging.unpack(packed, kind), held
  )
