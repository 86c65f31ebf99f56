"""If these fail, micro-batches merge into other statistics than the batch's."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adaopt
from adaopt.statistics import merging
from tests.statistics import recording

KINDS = {'variance': 'spread', 'coordinate_variance': 'coordinate_spread'}
Q = 2  # examples in a sample


def _gradients(samples=6):
  """The mean gradients of samples, [J, 4]."""
  return np.random.default_rng(0).normal(size=(samples, 4))


def _tree(x):
  """Columns [..., 4] as two tensors of shape [..., 3] and [...]."""
  return {'a': x[..., :3], 'b': x[..., 3]}


def _variance(g, kind):
  """The oracle's variance as a tree."""
  if kind == 'coordinate_variance':
    return _tree(oracles.coordinate_variances(g))
  return dict(zip('ab', oracles.tensor_variances(g, _tree(g[0])), strict=True))


def _from_sums(g, q=1):
  """Moments, by their sums, of samples: sample j has loss j and aux 2j."""
  losses = np.arange(len(g), dtype=float)
  squares = _tree(np.sum(np.abs(g) ** 2, 0))
  with np.errstate(invalid='ignore'):
    mean = _tree(np.sum(g, 0) / np.float64(len(g)))
  arguments = dict(
    value=np.sum(losses),
    aux=np.sum(2 * losses),
    mean=mean,
    norms=jax.tree.map(np.sum, squares),
    squares=squares,
  )
  count = jnp.int32(len(g))
  return merging.from_sums(count, q, **jax.tree.map(jnp.asarray, arguments))


def _deviating(g, q=1):
  """The same moments, by the oracle's deviations: nothing cancels."""
  spread = lambda kind: jax.tree.map(
    lambda v: jnp.asarray(q * (len(g) - 1) * v),
    _variance(g, kind)
    if len(g) > 1
    else jax.tree.map(np.zeros_like, _variance(np.stack([g[0], g[0]]), kind)),
  )
  return _from_sums(g, q)._replace(
    spread=spread('variance'), coordinate_spread=spread('coordinate_variance')
  )


def _without(moments, kind):
  """The moments without one spread, or without both."""
  fields = KINDS.values() if kind == 'both' else [KINDS[kind]]
  return moments._replace(**dict.fromkeys(fields))


def _assert_trees_close(actual, expected, rtol):
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol)
  jax.tree.map(close, actual, expected)


@pytest.mark.parametrize('q', [1, Q])
def test_from_sums_gives_means_and_squared_deviations(q):
  g = _gradients()
  with jax.enable_x64(True):
    moments = jax.device_get(_from_sums(g, q))
  assert moments.samples == 6
  assert moments.samples.dtype == np.int32
  assert moments.examples == 6 * q
  assert moments.examples.dtype == np.int32
  assert moments.value == 2.5
  assert moments.aux == 5.0
  _assert_trees_close(moments.mean, _tree(oracles.mean(g)), 1e-12)
  for kind, field in KINDS.items():
    expected = jax.tree.map(lambda v: q * 5 * v, _variance(g, kind))
    _assert_trees_close(getattr(moments, field), expected, 1e-10)


def test_moments_of_parts_merge_to_the_moments_of_the_whole():
  g = _gradients()
  with jax.enable_x64(True):
    a, b, c = (_from_sums(part, Q) for part in np.split(g, [1, 4]))
    # The losses restart in every part: 0; 0, 1, 2; 0, 1.
    whole = _from_sums(g, Q)._replace(value=4 / 6, aux=8 / 6)
    left = merging.merge(merging.merge(a, b), c)
    right = merging.merge(c, merging.merge(b, a))
    _assert_trees_close(left, whole, 1e-12)
    _assert_trees_close(right, whole, 1e-12)


@pytest.mark.parametrize('left_out', [None, *KINDS, 'both'])
def test_zeros_are_neutral_and_come_from_shapes_alone(left_out):
  moments = _from_sums(_gradients())
  if left_out:
    moments = _without(moments, left_out)
  shapes = jax.eval_shape(lambda: moments)
  for zeros in (merging.zeros_like(moments), merging.zeros_like(shapes)):
    merged = merging.merge(zeros, moments)
    assert jax.tree.structure(merged) == jax.tree.structure(moments)
    for a, b in zip(
      jax.tree.leaves(merged), jax.tree.leaves(moments), strict=True
    ):
      assert a.dtype == b.dtype
      np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('left_out', ['a', 'b'])
def test_a_spread_without_a_tensor_merges_the_others_as_ever(left_out):
  a, b = map(_from_sums, np.split(_gradients(), 2))
  expected = merging.merge(a, b)
  partly = lambda m: m._replace(
    spread=m.spread | {left_out: None},
    coordinate_spread=m.coordinate_spread | {left_out: None},
  )
  merged = merging.merge(partly(a), partly(b))
  assert jax.tree.structure(merged) == jax.tree.structure(partly(a))
  jax.tree.map(np.testing.assert_array_equal, merged, partly(expected))


def test_moments_keep_the_dtypes_of_the_first():
  narrow = _from_sums(_gradients())
  with jax.enable_x64(True):
    wide = _from_sums(_gradients())
    merged = merging.merge(narrow, wide)
  same = jax.tree.map(lambda a, b: a.dtype == b.dtype, merged, narrow)
  assert all(jax.tree.leaves(same))


def test_counts_stay_at_the_largest_integer():
  moments = _from_sums(_gradients())
  most = jnp.int32(2**31 - 3)
  full = moments._replace(examples=most, samples=most)
  merged = merging.merge(full, moments)
  assert merged.examples == merged.samples == 2**31 - 1


@pytest.mark.parametrize('group_size', [1, Q])
def test_finish_gives_the_variances_of_one_example(group_size):
  g = _gradients()
  center = np.mean(g, 0)
  norm = np.linalg.norm(center)
  deviations = group_size * np.sum((g @ center / norm - norm) ** 2)
  with jax.enable_x64(True):
    stats = merging.finish(_from_sums(g, group_size), jnp.asarray(deviations))
  stats = jax.device_get(stats)
  assert stats.batch_size == 6 * group_size
  assert stats.batch_size.dtype == np.int32
  _assert_trees_close(stats.mean, _tree(center), 1e-10)
  for kind in KINDS:
    expected = jax.tree.map(lambda v: group_size * v, _variance(g, kind))
    _assert_trees_close(getattr(stats, kind), expected, 1e-10)
  np.testing.assert_allclose(
    stats.variance_along_mean,
    group_size * oracles.variance_along_mean(g),
    1e-10,
  )


@pytest.mark.parametrize('left_out', [*KINDS, 'both'])
def test_finish_leaves_out_what_was_not_measured(left_out):
  stats = merging.finish(_without(_from_sums(_gradients()), left_out))
  for kind in KINDS:
    assert (getattr(stats, kind) is None) == (left_out in (kind, 'both'))
  assert stats.variance_along_mean is None


def test_one_sample_has_a_mean_but_no_variance():
  stats = merging.finish(_from_sums(_gradients(1), Q), jnp.array(0.0))
  assert stats.batch_size == Q
  np.testing.assert_allclose(oracles.ravel(stats.mean), _gradients(1)[0], 1e-6)
  for kind in KINDS:
    variance = oracles.ravel(getattr(stats, kind))
    assert np.all(np.isnan(variance))
  assert np.isnan(stats.variance_along_mean)


def test_no_sample_has_no_variance():
  zeros = merging.zeros_like(_from_sums(_gradients()))
  stats = merging.finish(zeros, jnp.array(0.0))
  assert stats.batch_size == 0
  for kind in KINDS:
    assert np.all(np.isnan(oracles.ravel(getattr(stats, kind))))
  assert np.isnan(stats.variance_along_mean)


def test_the_sums_of_no_sample_have_no_mean():
  statistics = merging.finish(_from_sums(np.zeros((0, 4))))
  assert np.all(np.isnan(oracles.ravel(statistics.mean)))


def test_rounding_never_makes_a_variance_negative():
  g = np.ones((6, 4))
  squares = _tree(jnp.full(4, 6 * (1 - 1e-6)))
  moments = merging.from_sums(
    jnp.int32(6),
    1,
    value=jnp.float32(0),
    aux=(),
    mean=jax.tree.map(jnp.asarray, _tree(np.mean(g, 0))),
    norms=jax.tree.map(jnp.sum, squares),
    squares=squares,
  )
  stats = merging.finish(moments)
  for kind in KINDS:
    assert np.all(oracles.ravel(getattr(stats, kind)) == 0)


@pytest.mark.parametrize('merged', [False, True])
def test_a_gradient_that_is_not_finite_leaves_no_finite_variance(merged):
  g = _gradients()
  g[2, 3] = np.inf
  parts = np.split(g, 2) if merged else [g]
  moments = functools.reduce(merging.merge, map(_from_sums, parts))
  stats = merging.finish(moments)
  for kind in KINDS:
    assert np.all(np.isfinite(getattr(stats, kind)['a']))
    assert np.isnan(getattr(stats, kind)['b'])


def test_variances_of_coordinates_add_up_to_those_of_tensors():
  a, b = map(_from_sums, np.split(_gradients(), 2))
  stats = merging.finish(merging.merge(a, b))
  _assert_trees_close(
    jax.tree.map(jnp.sum, stats.coordinate_variance), stats.variance, 1e-5
  )


# The same through `accumulate`, which makes moments of what a loop passes.


@functools.cache
def _accumulator(q, kind=None):
  """accumulate, as it records, and its jitted update."""
  fields = tuple(KINDS) if kind is None else (kind,)
  inner = recording.optimizer(1, 2**30, fields=fields)
  optimizer = adaopt.accumulate(inner, group_size=q)
  return optimizer, jax.jit(optimizer.update)


def _statistics(g, q=1):
  """The statistics of a micro-batch whose samples have mean gradients g."""
  noise = {}
  if len(g) > 1:
    noise = {
      kind: jax.tree.map(lambda v: np.asarray(q * v), _variance(g, kind))
      for kind in KINDS
    }
  nan = {
    'variance': {'a': np.nan, 'b': np.nan},
    'coordinate_variance': _tree(np.full(4, np.nan)),
  }
  statistics = adaopt.GradientStatistics(
    np.int32(q * len(g)), _tree(np.mean(g, 0)), **nan | noise
  )
  return jax.tree.map(jnp.asarray, statistics)


def _accumulated(parts, q=1):
  """The number of examples and what a test sees of these micro-batches."""
  optimizer, update = _accumulator(q)
  params = jax.tree.map(jnp.asarray, _tree(parts[0][0]))
  state = optimizer.init(params)
  state = optax.tree.set(state, batch_size=jnp.int32(q * sum(map(len, parts))))
  for g in parts:
    statistics = _statistics(g, q)
    _, state = update(
      statistics.mean, state, params, statistics=statistics, value=1.0
    )
  assert adaopt.has_updated(state)
  found = recording.last(state)
  return found.examples, found


def _merged(parts, q=1):
  """The number of examples and statistics of merged moments."""
  moments = (_deviating(g, q) for g in parts)
  found = jax.device_get(merging.finish(functools.reduce(_merge, moments)))
  return found.batch_size, found


@jax.jit
def _merge(a, b):
  return merging.merge(a, b)


@pytest.mark.slow
@pytest.mark.parametrize('by', [_merged, _accumulated])
@settings(max_examples=30, deadline=None, database=None, derandomize=True)
@given(
  sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6),
  q=st.integers(1, 4),
  scale=st.sampled_from([1e-6, 1.0, 1e6]),
  offset=st.sampled_from([0.0, 1e3]),
  seed=st.integers(0, 100),
)
def test_any_split_has_the_statistics_of_the_whole(
  by, sizes, q, scale, offset, seed
):
  if sum(sizes) == 1:
    sizes = [1, 1]
  rng = np.random.default_rng(seed)
  g = scale * (offset + rng.normal(size=(sum(sizes), 4)))
  parts = np.split(g, np.cumsum(sizes)[:-1])
  with jax.enable_x64(True):
    examples, found = by(parts, q)
  assert examples == q * len(g)
  np.testing.assert_allclose(
    oracles.ravel(found.mean), oracles.mean(g), rtol=1e-12, atol=1e-12 * scale
  )
  # δ and the oracle's deviations round at 1e-16 of the offset, 1e3 deviations.
  for kind in KINDS:
    expected = jax.tree.map(lambda v: q * v, _variance(g, kind))
    _assert_trees_close(getattr(found, kind), expected, 1e-8)


@pytest.mark.parametrize('by', [_merged, _accumulated])
def test_noise_far_below_the_gradient_is_not_cancelled(by):
  rng = np.random.default_rng(0)
  g = np.float32(1000 + rng.normal(size=(12, 4))).astype(float)
  # One sample a micro-batch, so that all of the noise is found by merging.
  _, found = by(np.split(g, 12))
  # Means are rounded at 6e-5 of a deviation; raw squares would be at 0.1.
  for kind in KINDS:
    _assert_trees_close(getattr(found, kind), _variance(g, kind), 1e-3)


def _accumulate_means(means, sizes, group_size):
  """The state after plain gradients of these many examples make a batch."""
  optimizer, _ = _accumulator(group_size)
  params = jnp.zeros([])
  state = optimizer.init(params)
  state = optax.tree.set(state, batch_size=jnp.int32(sum(sizes)))
  for mean, size in zip(means, sizes, strict=True):
    statistics = adaopt.GradientStatistics(np.int32(size), mean)
    _, state = optimizer.update(mean, state, params, statistics=statistics)
  return state


def test_samples_of_unequal_size_weigh_by_their_examples():
  # 4 examples of mean 1 and a rest of 2 with mean 4: ḡ = 2, and
  # M = 4 · 1² + 2 · 2² over J − 1 = 1.
  means = jnp.float32(1.0), jnp.float32(4.0)
  statistics = recording.last(_accumulate_means(means, (4, 2), 4))
  assert statistics.examples == 6
  assert statistics.mean == 2
  assert statistics.variance == statistics.coordinate_variance == 12


@pytest.mark.slow
@pytest.mark.parametrize('sizes', [[3, 3], [4, 4, 1], [2, 2, 2, 2]])
def test_variance_is_unbiased_whatever_the_sizes(sizes):
  bounds = np.cumsum([0, *sizes])

  def variance(examples):
    means = [jnp.mean(examples[a:b]) for a, b in itertools.pairwise(bounds)]
    state = _accumulate_means(means, sizes, sizes[0])
    return optax.tree.get(state, 'criterion_state').variance

  # V = gᵀ A g, so that its mean is tr(A) times an example's variance, if
  # constants do not count: A 1 = 0.
  a = jax.jit(jax.hessian(variance))(jnp.zeros(bounds[-1])) / 2
  np.testing.assert_allclose(jnp.trace(a), 1, rtol=1e-6)
  np.testing.assert_allclose(jnp.sum(a, 1), np.zeros(len(a)), atol=1e-6)


def _fed(kind, micro_batches):
  """What a criterion that reads this kind requires of them together: V."""
  total = lambda s: optax.tree.sum(jax.tree.map(jnp.sum, getattr(s, kind)))
  adapt = adaopt.adapt_batch_size(
    total, init_batch_size=4, max_batch_size=64, policy=adaopt.follow
  )
  optimizer = adaopt.accumulate(adapt)
  params = jax.tree.map(jnp.asarray, _tree(np.zeros(4)))
  state = optimizer.init(params)
  for statistics in micro_batches:
    _, state = optimizer.update(
      statistics.mean, state, params, statistics=statistics
    )
  assert adaopt.has_updated(state)
  return optax.tree.get(state, 'required')


@pytest.mark.parametrize('kind', KINDS)
def test_a_variance_that_is_unknown_leaves_none(kind):
  a, b = map(_statistics, np.split(_gradients(4), 2))
  assert np.isfinite(_fed(kind, [a, b]))
  unknown = jax.tree.map(lambda v: jnp.full_like(v, jnp.nan), getattr(b, kind))
  assert np.isnan(_fed(kind, [a, b._replace(**{kind: unknown})]))


@pytest.mark.parametrize('kind', KINDS)
def test_several_samples_without_a_variance_meet_a_sentence(kind):
  a, b = map(_statistics, np.split(_gradients(4), 2))
  message = f'accumulate needs statistics.{kind} of every micro-batch'
  with pytest.raises(ValueError, match=message):
    _fed(kind, [a, b._replace(**{kind: None})])
  # The other kind is not read, and so not needed.
  (other,) = set(KINDS) - {kind}
  assert np.isfinite(_fed(kind, [a, b._replace(**{other: None})]))


@pytest.mark.parametrize('held', [*KINDS, None])
def test_a_state_holds_spreads_that_come_back_as_they_were(held):
  """In one array, [T], of tensors; see `accumulation`."""
  optimizer, update = _accumulator(1, held)
  params = {'a': jnp.ones(3), 'b': jnp.ones([], jnp.complex64)}
  g = _gradients(4).astype(np.complex128)
  g[:, 3] += 1j * np.random.default_rng(1).normal(size=4)

  def micro_batch(g):
    dtypes = {'a': jnp.float32, 'b': jnp.complex64}
    mean = {
      k: jnp.asarray(np.real(x) if k == 'a' else x, dtypes[k])
      for k, x in _tree(np.mean(g, 0)).items()
    }
    noise = {
      kind: jax.tree.map(jnp.float32, _variance(g, kind)) for kind in KINDS
    }
    return adaopt.GradientStatistics(jnp.int32(len(g)), mean, **noise)

  state = optax.tree.set(optimizer.init(params), batch_size=jnp.int32(4))
  first, second = map(micro_batch, np.split(g, 2))
  _, state = update(first.mean, state, params, statistics=first)
  if held == 'coordinate_variance':
    assert state.spread is None
  else:
    assert (state.spread.shape, state.spread.dtype) == ((2,), jnp.float32)
    np.testing.assert_array_equal(state.spread, [*first.variance.values()])
  if held == 'variance':
    assert state.coordinate_spread is None
  else:
    jax.tree.map(
      np.testing.assert_array_equal,
      state.coordinate_spread,
      first.coordinate_variance,
    )
  _, state = update(second.mean, state, params, statistics=second)
  found = recording.last(state)
  for kind in KINDS if held is None else [held]:
    _assert_trees_close(getattr(found, kind), _variance(g, kind), 1e-5)
