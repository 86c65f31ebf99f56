"""Reductions over gradients of examples, as their users call them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import adaopt
from tests import oracles

MODEL = nn.Sequential([nn.Conv(3, (2, 2)), nn.relu, nn.Dense(2)])
X = np.float32(jax.random.normal(jax.random.key(0), [6, 4, 4, 2]))
PARAMS = MODEL.init(jax.random.key(1), X)
DIRECTION = jax.tree.map(jnp.cos, PARAMS)


def loss_fn(params, batch):
  return jnp.mean(jnp.tanh(MODEL.apply(params, batch)) ** 2)


@jax.custom_vjp
def clipped(x):
  return x


clipped.defvjp(lambda x: (x, None), lambda _, g: (jnp.clip(g, -1e-3, 1e-3),))


def clipped_loss(params, batch):
  """A loss with a reverse rule only, and not linear in its cotangent."""
  return jnp.mean(jnp.tanh(clipped(MODEL.apply(params, batch))) ** 2)


@functools.cache
def gradients(loss):
  return oracles.sample_gradients(loss, PARAMS, X).astype(np.float64)


def close(actual, expected):
  # A few hundred float32 operations in another order.
  scale = np.max(np.abs(expected))
  np.testing.assert_allclose(actual, expected, 1e-5, 1e-5 * scale)


@pytest.mark.slow
@pytest.mark.parametrize('loss', [loss_fn, clipped_loss])
def test_they_are_those_of_every_gradient(loss):
  g = gradients(loss)
  estimate = jax.jit(adaopt.per_example.squared_norms(loss))
  value, mean, norms = estimate(PARAMS, X)
  close(value, loss(PARAMS, X))
  close(oracles.ravel(mean), g.mean(0))
  close(norms, np.sum(g**2, 1))
  moment = jax.jit(adaopt.per_example.second_moment(loss))(PARAMS, X)
  close(oracles.ravel(moment), np.mean(g**2, 0))
  signs = jax.jit(adaopt.per_example.mean_of_signs(loss))(PARAMS, X)
  # A sum that is 0 but for rounding may have any sign.
  certain = np.all((g == 0) | (np.abs(g) > 1e-5 * np.max(np.abs(g))), 0)
  assert np.mean(certain) > 0.9
  np.testing.assert_allclose(
    oracles.ravel(signs)[certain], np.mean(np.sign(g), 0)[certain], rtol=1e-6
  )
  products = jax.jit(adaopt.per_example.inner_products(loss))
  close(products(PARAMS, X, DIRECTION), g @ oracles.ravel(DIRECTION))


@pytest.mark.slow
@pytest.mark.parametrize('loss', [loss_fn, clipped_loss])
def test_v_along_the_mean_needs_no_forward_rule(loss):
  g = gradients(loss)
  estimate = adaopt.value_and_statistics(loss)
  _, statistics = jax.jit(estimate)(PARAMS, X)
  close(statistics.variance_along_mean, oracles.variance_along_mean(g))


@pytest.mark.slow
def test_an_estimate_per_seed_under_vmap():
  init = jax.vmap(lambda key: MODEL.init(key, X[:1]))
  stacked = init(jax.random.split(jax.random.key(2), 3))
  squared_norms = adaopt.per_example.squared_norms(loss_fn)
  norms = jax.jit(jax.vmap(lambda p: squared_norms(p, X)[2]))(stacked)
  for i in range(3):
    params = jax.tree.map(lambda leaf, i=i: leaf[i], stacked)
    close(norms[i], jax.jit(squared_norms)(params, X)[2])


def test_an_estimate_per_batch_under_scan():
  moment = adaopt.per_example.second_moment(loss_fn)
  step = lambda carry, batch: (carry, moment(PARAMS, batch))
  _, moments = jax.jit(lambda b: jax.lax.scan(step, 0, b))(
    X.reshape(3, 2, 4, 4, 2)
  )
  whole = jax.tree.map(lambda m: jnp.mean(m, 0), moments)
  close(oracles.ravel(whole), np.mean(gradients(loss_fn) ** 2, 0))


@pytest.mark.slow
def test_further_arguments_are_the_same_for_all_examples():
  def scaled(params, batch, scale, step):
    del step
    value = scale * loss_fn(params, batch)
    return value, {'scale': scale}

  options = {'has_aux': True}
  args = jnp.array(3.0), jnp.int32(7)
  squared_norms = jax.jit(adaopt.per_example.squared_norms(scaled, **options))
  (value, aux), _, norms = squared_norms(PARAMS, X, *args)
  close(norms, 9 * np.sum(gradients(loss_fn) ** 2, 1))
  close([value, aux['scale']], [3 * loss_fn(PARAMS, X), 3])
  products = jax.jit(adaopt.per_example.inner_products(scaled, **options))
  close(
    products(PARAMS, X, DIRECTION, *args),
    3 * gradients(loss_fn) @ oracles.ravel(DIRECTION),
  )
  estimate = jax.jit(adaopt.value_and_statistics(scaled, **options))
  _, statistics = estimate(PARAMS, X, *args)
  close(
    sum(jax.tree.leaves(statistics.variance)),
    9 * oracles.total_variance(gradients(loss_fn)),
  )


def test_half_precision_keeps_the_parameters_type_and_wide_statistics():
  half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
  squared_norms = jax.jit(adaopt.per_example.squared_norms(loss_fn))
  _, mean, norms = squared_norms(half, jnp.bfloat16(X))
  assert {leaf.dtype for leaf in jax.tree.leaves(mean)} == {jnp.bfloat16.dtype}
  assert norms.dtype == jnp.float32
  # Eight bits of mantissa in every activation.
  expected = np.sum(gradients(loss_fn) ** 2, 1)
  np.testing.assert_allclose(norms, expected, 0.05 * np.max(expected), 0.1)


@pytest.mark.parametrize('name', ['squared_norms', 'second_moment'])
def test_a_loss_that_is_no_scalar_is_told(name):
  make = {
    'squared_norms': adaopt.per_example.squared_norms,
    'second_moment': adaopt.per_example.second_moment,
  }[name]
  with pytest.raises(ValueError, match='must return a real scalar'):
    make(lambda w, x: w * x)(jnp.array(1.0), jnp.ones(3))


@pytest.mark.parametrize('loss', [loss_fn, clipped_loss])
def test_a_direction_unlike_the_parameters_is_told(loss):
  direction = jax.tree.map(lambda p: p[None], DIRECTION)
  products = adaopt.per_example.inner_products(loss)
  with pytest.raises(ValueError, match=r'^direction.* shape of its parameter'):
    products(PARAMS, X, direction)


@jax.custom_vjp
def looked_up(table, keys):
  return table[keys]


looked_up.defvjp(
  lambda table, keys: (table[keys], (table, keys)),
  lambda saved, g: ((0.1 * saved[0]).at[saved[1]].add(g), None),
)


@pytest.mark.slow
def test_a_table_that_rows_are_added_to_counts():
  """A decayed embedding: its gradient does not start from zero."""
  table = jax.random.normal(jax.random.key(0), [20, 3])
  keys = jax.random.randint(jax.random.key(1), [6, 2], 0, 20)
  loss = lambda table, keys: jnp.mean(
    jax.vmap(lambda k: jnp.sum(jnp.sin(looked_up(table, k))))(keys)
  )
  gradients = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(table, keys[:, None])
  _, mean, norms = jax.jit(adaopt.per_example.squared_norms(loss))(table, keys)
  close(mean, np.mean(gradients, 0))
  close(norms, np.sum(np.square(gradients), (1, 2)))


def test_a_print_in_the_loss_is_kept(capsys):
  def printing(w, x):
    jax.debug.print('seen {}', jnp.sum(x))
    return jnp.mean((x @ w) ** 2)

  estimate = jax.jit(adaopt.per_example.squared_norms(printing))
  jax.block_until_ready(estimate(jnp.ones(3), jnp.eye(3)))
  jax.effects_barrier()
  assert capsys.readouterr().out.count('seen 1.0') == 3


def test_half_precision_products_of_a_loss_without_a_forward_rule():
  w = jnp.bfloat16(jax.random.normal(jax.random.key(0), [40, 30]))
  x = jnp.bfloat16(jax.random.normal(jax.random.key(1), [4, 40]))
  loss = lambda w, x: jnp.mean(clipped(x @ jnp.sin(w)) ** 2)
  gradients = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(w, x[:, None])
  products = jax.jit(adaopt.per_example.inner_products(loss))(w, x, w)
  expected = np.einsum('jio,io->j', np.float64(gradients), np.float64(w))
  # Eight bits of mantissa in every element of a gradient.
  np.testing.assert_allclose(products, expected, 0.02, 0.01)
