"""Reductions from factors against one gradient per example, `vmap(grad)`."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import adaopt
from adaopt.per_example import factorisation, reductions
from adaopt.per_example.rules import choice
from tests import per_example_cases

WEIGHTS = np.array([1.0, 0.5, 0.0, 2.0])
COEFFICIENTS = np.array([0.5, -1.0, 3.0, 2.0])
TOTAL = np.float64(2)


def check(make, dtype, rtol):
  apply, params, x = make()
  cast = lambda a: a.astype(dtype) if a.dtype == np.float32 else a
  params, x = jax.tree.map(cast, (params, x))
  loss, weights = per_example_cases.loss_of(apply), WEIGHTS.astype(dtype)
  directions = jax.tree.map(lambda p: np.cos(p + 0.3, dtype=dtype), params)

  @jax.jit
  def reduce(params, x, weights, directions):
    by_norms, by_squares, by_matrices = (
      factorisation.factorise(
        loss,
        params,
        x,
        weights,
        preference=preference,
        weigh=lambda _: (COEFFICIENTS, TOTAL),
        direction=directions,
      )
      for preference in (
        choice.NORMS_FIRST,
        choice.SQUARES_FIRST,
        choice.MATRICES_FIRST,
      )
    )
    return (
      (by_norms.values, by_norms.aux),
      reductions.sums(by_norms),
      reductions.sums(by_squares),
      reductions.sums(by_matrices),
      reductions.products(by_norms, directions),
    )

  results, *sums, products = jax.device_get(
    reduce(params, x, weights, directions)
  )
  value_and_grad = jax.vmap(jax.value_and_grad(loss, has_aux=True), (None, 0))
  (values, aux), gradients = jax.device_get(jax.jit(value_and_grad)(params, x))
  np.testing.assert_allclose(results[0], values * WEIGHTS, rtol, rtol)
  np.testing.assert_allclose(results[1], aux, rtol, rtol)
  leaves = lambda tree: jax.tree.leaves(tree, is_leaf=lambda x: x is None)
  trees = (gradients, *sums[0], *sums[1], *sums[2])
  whole = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(gradients)))
  for gradient, *reduced in zip(*map(leaves, trees), strict=True):
    g = np.asarray(gradient) * WEIGHTS.reshape(-1, *[1] * (gradient.ndim - 1))
    # A gradient that cancels, such as an attention key's bias, has no
    # precision of its own, hence the whole gradient as the scale.
    close = lambda a, b, scale: np.testing.assert_allclose(
      a, b, rtol, rtol * scale
    )
    for i in range(0, len(reduced), 6):
      total, weighted, norms, squares, signs, matrix_squares = reduced[
        i : i + 6
      ]
      close(total, g.sum(0) / TOTAL, whole)
      close(weighted, np.tensordot(COEFFICIENTS, g, 1), 3 * whole)
      close(norms, np.square(g).sum(tuple(range(1, g.ndim))), whole**2)
      close(squares, np.square(g).sum(0), whole**2)
      # A number that cancels to 0 or so may have any sign.
      certain = np.all((g == 0) | (np.abs(g) > 10 * rtol * whole), axis=0)
      np.testing.assert_array_equal(
        np.where(certain, signs, 0), np.where(certain, np.sign(g).sum(0), 0)
      )
      if g.ndim == 3:
        close(matrix_squares, oracles.sum_of_matrix_squares(g), whole**2)
      else:
        assert matrix_squares is None
  expected = sum(
    np.reshape(g, (len(x), -1)) @ np.ravel(u) * WEIGHTS
    for g, u in zip(*map(jax.tree.leaves, (gradients, directions)), strict=True)
  )
  norm = np.sqrt(sum(np.sum(np.square(u)) for u in jax.tree.leaves(directions)))
  np.testing.assert_allclose(products, expected, rtol, rtol * whole * norm)


@pytest.mark.slow
@pytest.mark.parametrize('name', per_example_cases.CASES)
def test_reductions_equal_those_of_every_gradient(name):
  # A few hundred float32 operations in another order.
  check(per_example_cases.CASES[name], jnp.float32, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
  'name',
  [
    'conv few positions',
    'dense on short sequences',
    'tied embeddings',
    'attention',
    'scan over layers, remat',
  ],
)
def test_reductions_are_exact_in_float64(name):
  with jax.enable_x64(True):
    check(per_example_cases.CASES[name], jnp.float64, 1e-11)


@pytest.mark.slow
@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize('equation', ['btc,cd->btd', 'bthc,hcd->bthd'])
def test_half_precision_on_sequences(equation, dtype):
  """Sums over examples and positions are wider than their factors."""
  rng = np.random.default_rng(0)
  shape = (3, 4, 5) if 'h' in equation else (4, 5)
  params = per_example_cases.normal(rng, shape)
  x = per_example_cases.normal(rng, (4, 2, *shape[:-1])).astype(dtype)

  def loss(params, x):
    outputs = jnp.einsum(equation, x, params.astype(x.dtype))
    return jnp.mean(jnp.tanh(outputs) ** 2)

  wide = jnp.asarray(x, jnp.float32)
  expected = jax.grad(loss)(params, wide)
  each = jax.vmap(jax.grad(loss), (None, 0))(params, wide[:, None])
  _, mean, norms = jax.jit(adaopt.per_example.squared_norms(loss))(params, x)
  # A few roundings to the 8 bits of bfloat16.
  rtol = 0.03
  np.testing.assert_allclose(mean, expected, atol=rtol * np.abs(expected).max())
  np.testing.assert_allclose(norms, np.square(each).reshape(4, -1).sum(1), rtol)
