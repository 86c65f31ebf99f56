"""If these fail, micro-batches do not add up to the batch they make."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from adaopt._common import arithmetic

Q = 2  # examples in a sample


def _gradients(samples=6):
  """The mean gradients of samples, [J, 4]."""
  return np.random.default_rng(0).normal(size=(samples, 4))


def _tree(x):
  """Columns [..., 4] as two tensors of shape [..., 3] and [...]."""
  return {'a': x[..., :3], 'b': x[..., 3]}


def _sums(gradients, variance='total'):
  """GradientSums whose sample j has loss j and aux 2j."""
  square = {
    'total': lambda g: np.sum(g**2),
    'coordinate': lambda g: np.sum(g**2, 0),
    None: lambda g: None,
  }[variance]
  losses = np.arange(len(gradients), dtype=float)
  tensors = _tree(gradients)
  sums = arithmetic.GradientSums(
    count=np.int32(len(gradients)),
    value=np.sum(losses),
    aux=np.sum(2 * losses),
    gradient={name: np.sum(g, 0) for name, g in tensors.items()},
    squares=None
    if variance is None
    else {name: square(g) for name, g in tensors.items()},
  )
  return jax.tree.map(jnp.asarray, sums)


@pytest.mark.parametrize(
  ('dtype', 'expected'),
  [
    (jnp.bfloat16, jnp.float32),
    (jnp.float16, jnp.float32),
    (jnp.float32, jnp.float32),
    (jnp.float64, jnp.float64),
    (jnp.complex64, jnp.complex64),
    (jnp.complex128, jnp.complex128),
    (jnp.int32, jnp.float32),
    (bool, jnp.float32),
  ],
)
def test_accumulators_are_at_least_float32(dtype, expected):
  with jax.enable_x64(True):
    assert arithmetic.accumulator_dtype(jnp.zeros(2, dtype)) == expected


@pytest.mark.parametrize(
  ('value', 'expected'),
  [
    (jnp.array([-3.0, 2.0]), [9.0, 4.0]),
    (jnp.array([3.0 - 4.0j, 2.0j]), [25.0, 4.0]),
    # 257² is neither a bfloat16 nor a square of one.
    (jnp.array([258.0, -0.5], jnp.bfloat16), [66564.0, 0.25]),
  ],
  ids=['real', 'complex', 'bfloat16'],
)
def test_abs_sq_is_real_and_exact_in_float32(value, expected):
  squares = arithmetic.abs_sq(value)
  assert squares.dtype == jnp.float32
  np.testing.assert_array_equal(squares, expected)


def test_sums_of_parts_merge_to_the_sums_of_the_whole():
  gradients = _gradients()
  with jax.enable_x64(True):
    a, b, c = (_sums(part) for part in np.split(gradients, [1, 4]))
    # The losses of _sums restart in every part: 0; 0, 1, 2; 0, 1.
    whole = _sums(gradients)._replace(value=4.0, aux=8.0)
    close = lambda x, y: np.testing.assert_allclose(x, y, 1e-12)
    left = arithmetic.merge(arithmetic.merge(a, b), c)
    right = arithmetic.merge(c, arithmetic.merge(b, a))
    jax.tree.map(close, left, whole)
    jax.tree.map(close, right, whole)


@pytest.mark.parametrize('variance', ['total', None])
def test_zeros_are_neutral_and_come_from_shapes_alone(variance):
  sums = _sums(_gradients(), variance)
  shapes = jax.eval_shape(lambda: sums)
  for zeros in (arithmetic.zeros(sums), arithmetic.zeros(shapes)):
    merged = arithmetic.merge(zeros, sums)
    assert jax.tree.structure(merged) == jax.tree.structure(sums)
    for a, b in zip(
      jax.tree.leaves(merged), jax.tree.leaves(sums), strict=True
    ):
      assert a.dtype == b.dtype
      np.testing.assert_array_equal(a, b)


def test_means_are_sums_divided_by_the_number_of_samples():
  means = arithmetic.means(_sums(_gradients()))
  assert means.count == 6
  assert means.value == 2.5
  assert means.aux == 5.0
  np.testing.assert_allclose(
    oracles.ravel(means.gradient), np.mean(_gradients(), 0), 1e-6
  )


def test_total_and_squared_norm_run_over_all_tensors():
  tree = {'a': jnp.array([[1.0, -2.0]]), 'b': [jnp.array(3.0), None]}
  assert arithmetic.total(tree) == 2.0
  assert arithmetic.squared_norm(tree) == 14.0
  assert arithmetic.squared_norm({'z': jnp.array([3.0 + 4.0j])}) == 25.0


@pytest.mark.parametrize('group_size', [1, Q])
@pytest.mark.parametrize('variance', ['total', 'coordinate'])
def test_finish_gives_the_variances_of_one_example(variance, group_size):
  gradients = _gradients()
  center = np.mean(gradients, 0)
  norm = np.linalg.norm(center)
  deviations = np.sum((gradients @ center / norm - norm) ** 2)
  with jax.enable_x64(True):
    stats = arithmetic.finish(
      arithmetic.means(_sums(gradients, variance)),
      jnp.asarray(deviations) / 6,
      group_size=group_size,
    )
  stats = jax.device_get(stats)
  expected = {
    'total': oracles.tensor_variances(gradients, _tree(center)),
    'coordinate': oracles.coordinate_variances(gradients),
  }[variance]
  close = lambda x, y: np.testing.assert_allclose(x, y, 1e-10)
  assert stats.batch_size == 6 * group_size
  assert stats.batch_size.dtype == np.int32
  close(oracles.ravel(stats.mean), center)
  close(oracles.ravel(stats.variance), group_size * expected)
  close(
    stats.variance_along_mean,
    group_size * oracles.variance_along_mean(gradients),
  )


def test_finish_leaves_out_what_was_not_summed():
  stats = arithmetic.finish(arithmetic.means(_sums(_gradients(), None)))
  assert stats.variance is None
  assert stats.variance_along_mean is None


@pytest.mark.parametrize('variance', ['total', 'coordinate'])
def test_one_sample_has_a_mean_but_no_variance(variance):
  stats = arithmetic.finish(
    arithmetic.means(_sums(_gradients(1), variance)),
    jnp.array(0.0),
    group_size=Q,
  )
  assert stats.batch_size == Q
  np.testing.assert_allclose(oracles.ravel(stats.mean), _gradients(1)[0], 1e-6)
  assert np.all(np.isnan(oracles.ravel(stats.variance)))
  assert np.isnan(stats.variance_along_mean)


def test_no_sample_has_no_mean_and_no_variance():
  stats = arithmetic.finish(
    arithmetic.means(arithmetic.zeros(_sums(_gradients())))
  )
  assert stats.batch_size == 0
  assert np.all(np.isnan(oracles.ravel(stats.mean)))
  assert np.all(np.isnan(oracles.ravel(stats.variance)))


@pytest.mark.parametrize('variance', ['total', 'coordinate'])
def test_rounding_never_makes_a_variance_negative(variance):
  sums = _sums(np.ones((6, 4)), variance)
  rounded_down = jax.tree.map(lambda x: x * (1 - 1e-6), sums.squares)
  stats = arithmetic.finish(
    arithmetic.means(sums._replace(squares=rounded_down))
  )
  assert np.all(oracles.ravel(stats.variance) == 0)


def test_a_gradient_that_is_not_finite_leaves_no_finite_variance():
  gradients = _gradients()
  gradients[2, 3] = np.inf
  stats = arithmetic.finish(arithmetic.means(_sums(gradients)))
  assert np.isfinite(stats.variance['a'])
  assert np.isnan(stats.variance['b'])
