"""If these fail, the covariance of a matrix is not that of its gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import adaopt
from adaopt._common import matrices
from adaopt.statistics import merging
from tests import per_example_cases

ONLY = ('matrix_variance',)


def case_of(name):
  """A loss of a batch, its parameters and four examples, in float64."""
  apply, params, x = per_example_cases.CASES[name]()
  loss = per_example_cases.loss_of(apply)

  def mean_loss(params, x):
    return jnp.mean(jax.vmap(lambda one: loss(params, one)[0])(x))

  double = lambda a: jnp.asarray(a, float if a.dtype == np.float32 else None)
  return mean_loss, *jax.tree.map(double, (params, x))


def assert_matrices(found, expected, rtol=1e-10):
  for matrix, exact in zip(jax.tree.leaves(found), expected, strict=True):
    scale = np.max(np.abs(exact))
    np.testing.assert_allclose(matrix, exact, rtol, rtol * scale + 1e-15)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('name', 'group_size'),
  [
    ('dense', 1),
    ('dense', 2),
    ('dense on short sequences', 1),
    ('dense on long sequences', 1),
    ('conv same', 1),
    ('embed', 1),
    ('tied embeddings', 2),
    ('scan over layers, remat', 1),
    ('scan of scans over layers', 1),
  ],
)
def test_it_is_that_of_the_gradients_of_examples(name, group_size):
  with jax.enable_x64(True):
    loss_fn, params, x = case_of(name)
    g = oracles.sample_gradients(loss_fn, params, x, group_size)
    estimate = adaopt.value_and_statistics(
      loss_fn, group_size=group_size, only=ONLY
    )
    _, found = jax.device_get(jax.jit(estimate)(params, x))
  expected = oracles.ratio_matrix_variances(
    g, np.ones(len(g)), params, group_size
  )
  assert_matrices(found.matrix_variance, expected)
  assert found.variance is found.coordinate_variance is None


def test_its_trace_is_the_variance_of_the_tensor():
  loss_fn, params, x = case_of('attention')
  _, found = jax.jit(adaopt.value_and_statistics(loss_fn))(params, x)
  for (path, matrix), v, p in zip(
    jax.tree.leaves_with_path(
      found.matrix_variance, is_leaf=lambda x: x is None
    ),
    jax.tree.leaves(found.variance),
    jax.tree.leaves(params),
    strict=True,
  ):
    assert (matrix is not None) == (p.ndim == 2), path
    if matrix is not None:
      # Roundings of the whole gradient, of which each is a part.
      np.testing.assert_allclose(np.trace(matrix), v, 1e-4, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize('shape', [(2, 3), (4, 3)])
def test_of_complex_matrices_it_is_hermitian(shape):
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.normal(size=shape) + 1j * rng.normal(size=shape)
  params, x = normal(*shape), normal(6, 2, shape[0])
  loss_fn = lambda w, x: jnp.mean(jnp.abs(x @ w - 1) ** 2)
  with jax.enable_x64(True):
    g = oracles.sample_gradients(loss_fn, params, x)
    _, found = adaopt.value_and_statistics(loss_fn, only=ONLY)(params, x)
    bound = matrices.trace_of_root(found.matrix_variance)
  (expected,) = oracles.ratio_matrix_variances(g, np.ones(6), params)
  assert_matrices(found.matrix_variance, [expected])
  roots = np.sqrt(np.linalg.eigvalsh(expected))
  np.testing.assert_allclose(bound, np.sum(roots), 1e-10)


def linear_loss(params, batch):
  """The gradient of an example is w_i X_i."""
  total = jnp.einsum('brc,rc,b->', batch['x'], params, batch['w'])
  return adaopt.WeightedLoss(total, jnp.sum(batch['w']))


@pytest.mark.slow
@pytest.mark.parametrize('shape', [(2, 3), (4, 2)])
def test_of_weighted_losses_and_masks(shape):
  rng = np.random.default_rng(0)
  counts = np.array([1, 1, 0, 1, 1, 0, 1, 1], bool)
  x, w = rng.normal(0.5, 1, (8, *shape)), rng.uniform(0, 2, 8)
  rows = (x * w[:, None, None]).reshape(8, -1)[counts]
  with jax.enable_x64(True):
    estimate = adaopt.value_and_statistics(linear_loss, only=ONLY)
    _, found = estimate(jnp.zeros(shape), dict(x=x, w=w), mask=counts)
  expected = oracles.ratio_matrix_variances(rows, w[counts], np.zeros(shape))
  assert_matrices(found.matrix_variance, expected)


def moments_of(a, w, weighted, q):
  """Of gradients A_j [J, r, c] of groups of q, from their sums."""
  j = len(a)
  total = np.sum(w) if weighted else j
  products = np.tensordot(w, a, 1)
  return merging.from_sums(
    jnp.int32(j),
    q,
    value=jnp.zeros([]),
    aux=(),
    mean=jnp.asarray(np.sum(a, 0) / total),
    norms=None,
    squares=None,
    matrix_squares=jnp.asarray(oracles.sum_of_matrix_squares(a)),
    weights=(total, np.sum(w**2), jnp.asarray(products)) if weighted else None,
  )


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
  st.lists(st.integers(1, 4), min_size=1, max_size=4),
  st.tuples(st.integers(1, 4), st.integers(1, 4)),
  st.booleans(),
  st.integers(1, 3),
  st.integers(0, 2**20),
)
def test_any_split_merges_to_that_of_the_whole(sizes, shape, weighted, q, seed):
  rng = np.random.default_rng(seed)
  count = sum(sizes) + 1
  a = 3 + rng.normal(size=(count, *shape))
  w = rng.uniform(0.1, 2, count) if weighted else np.ones(count)
  ends = np.cumsum([*sizes])
  with jax.enable_x64(True):
    parts = [
      moments_of(*part, weighted, q)
      for part in zip(np.split(a, ends), np.split(w, ends), strict=True)
    ]
    whole = merging.finish(functools.reduce(merging.merge, parts))
  expected = oracles.ratio_matrix_variances(
    a.reshape(count, -1), w, np.zeros(shape), q
  )
  assert_matrices(whole.matrix_variance, expected)
  assert np.all(np.linalg.eigvalsh(whole.matrix_variance) >= -1e-10)


def test_a_batch_sharded_over_devices_has_the_same():
  rng = np.random.default_rng(0)
  x = np.float32(rng.normal(size=(16, 3, 6)))
  params = np.float32(rng.normal(size=(6, 4)))
  estimate = jax.jit(
    adaopt.value_and_statistics(
      lambda w, x: jnp.mean(jnp.tanh(x @ w) ** 2), only=ONLY
    )
  )
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  rows = NamedSharding(mesh, PartitionSpec('data'))
  _, alone = estimate(params, x)
  _, found = estimate(params, jax.device_put(x, rows))
  assert_matrices(found.matrix_variance, [alone.matrix_variance], 1e-5)


@pytest.mark.parametrize('length', [1, 16])
def test_no_gradient_is_held_for_every_example(length):
  """Of 64 examples, they would take 16 MB."""
  params = jax.ShapeDtypeStruct((256, 256), jnp.float32)
  x = jax.ShapeDtypeStruct((64, length, 256), jnp.float32)
  loss_fn = lambda w, x: jnp.mean(jnp.tanh(x @ w) ** 2)
  memory = lambda f: (
    jax.jit(f).lower(params, x).compile().memory_analysis().temp_size_in_bytes
  )
  estimate = adaopt.value_and_statistics(loss_fn, only=ONLY)
  extra = memory(estimate) - memory(jax.value_and_grad(loss_fn))
  assert extra < 6e6


def test_accumulate_holds_it_where_it_is_read():
  params = {'w': jnp.zeros([4, 3]), 'v': jnp.zeros([2, 5]), 'b': jnp.zeros(3)}
  of = lambda criterion: adaopt.accumulate(
    optax.chain(
      adaopt.adapt_batch_size(criterion, init_batch_size=2, max_batch_size=8),
      optax.sgd(0.1),
    )
  ).init(params)
  spectral = of(adaopt.criteria.spectral_noise_scale(0.5))
  assert spectral.matrix_spread.shape == (3 * 3 + 2 * 2,)
  assert of(adaopt.norm_test(0.5)).matrix_spread is None
