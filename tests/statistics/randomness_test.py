"""Equal random numbers, and numbers that no example changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from adaopt.statistics import randomness

X = jnp.arange(1.0, 4.0)
KEY = jax.random.key(3)
RAW = jax.random.PRNGKey(3)
NORMAL = float(jax.scipy.stats.norm.ppf(1 / 16))

draws = {
  'bits': (jax.random.bits, 1 << 28),
  'uniform': (jax.random.uniform, 1 / 16),
  'normal': (jax.random.normal, NORMAL),
  'bernoulli': (lambda *args: jax.random.bernoulli(args[0], 0.3, args[1]), 1),
  'permutation': (
    lambda key, shape: jax.random.permutation(key, jnp.ones(shape)),
    1,
  ),
}
keys = {
  'itself': lambda key: key,
  'fold_in': lambda key: jax.random.fold_in(key, 7),
  'split': lambda key: jax.random.split(key, 3)[2],
  'fold_in of split': lambda key: jax.random.fold_in(
    jax.random.split(key, (2, 2))[1, 0], 5
  ),
  'clone': jax.random.clone,
}


@pytest.mark.parametrize('key_of', keys.values(), ids=keys)
@pytest.mark.parametrize(('drawn', 'value'), draws.values(), ids=draws)
def test_all_numbers_of_an_equal_key_are_equal(drawn, value, key_of):
  numbers = drawn(key_of(randomness.equal_key()), (4, 3))
  np.testing.assert_allclose(numbers, np.full((4, 3), value), rtol=1e-5)


def test_vmapped_keys_draw_what_one_key_draws():
  keys = jnp.broadcast_to(randomness.equal_key(), (4,))
  folded = jax.vmap(jax.random.fold_in)(keys, jnp.arange(4))
  each = jax.jit(jax.vmap(lambda key: jax.random.normal(key, 3)))(folded)
  whole = jax.random.normal(randomness.equal_key(), (4, 3))
  np.testing.assert_array_equal(each, whole)


samplers = {
  'gamma': lambda key: jax.random.gamma(key, jnp.array([0.1, 1.0, 50.0])),
  'binomial': lambda key: jax.random.binomial(
    key, jnp.array([5.0, 40.0, 1e4]), 0.4
  ),
  'truncated normal': lambda key: jax.random.truncated_normal(key, 1, 2, (3,)),
  'categorical': lambda key: jax.random.categorical(key, jnp.eye(3)),
  'dirichlet': lambda key: jax.random.dirichlet(key, jnp.ones(3)),
}


@pytest.mark.parametrize('sampler', samplers.values(), ids=samplers)
def test_rejection_ends_with_equal_numbers(sampler):
  numbers = jax.jit(sampler)(randomness.equal_key())
  assert np.all(np.isfinite(numbers))


def test_dropout_of_linen_treats_all_examples_alike():
  dropped = nn.Dropout(0.5, deterministic=False).apply(
    {}, jnp.ones([4, 3]), rngs={'dropout': randomness.equal_key()}
  )
  np.testing.assert_array_equal(dropped, np.full((4, 3), dropped[0, 0]))


def test_dropout_of_nnx_treats_all_examples_alike():
  stream = nnx.Rngs(randomness.equal_key())
  dropped = nnx.Dropout(0.5, rngs=stream)(jnp.ones([4, 3]))
  np.testing.assert_array_equal(dropped, np.full((4, 3), dropped[0, 0]))


def noisy(key, x):
  return jnp.sum(x * jax.random.normal(key, x.shape))


def summed_in_a_scan(key, x):
  """A key of its own in every iteration, made in the body."""

  def body(total, i):
    return total + noisy(jax.random.fold_in(key, i), x), None

  return jax.lax.scan(body, 0.0, jnp.arange(3))[0]


def scanned_over(keys, x):
  body = lambda total, key: (total + noisy(key, x), None)
  return jax.lax.scan(body, 0.0, keys)[0]


def in_a_branch(key, x):
  return jax.lax.cond(x[0] > 0, noisy, lambda *_: 0.0, key, x)


def in_a_custom_rule(key, x):
  @jax.custom_vjp
  def rule(x):
    return noisy(key, x)

  rule.defvjp(lambda x: (rule(x), None), lambda _, g: (g * X,))
  return rule(x)


ways = {
  'plain': noisy,
  'jit': jax.jit(noisy),
  'jit in jit': jax.jit(lambda *args: 2 * jax.jit(noisy)(*args)),
  'remat': jax.checkpoint(noisy),
  'scan': summed_in_a_scan,
  'scan over keys': lambda key, x: scanned_over(jax.random.split(key), x),
  'scan in remat in jit': jax.jit(jax.checkpoint(summed_in_a_scan)),
  'cond': in_a_branch,
  'custom_vjp': in_a_custom_rule,
  'vmap': lambda key, x: jnp.sum(
    jax.vmap(lambda k: noisy(k, x))(jax.random.split(key))
  ),
  'linen dropout': lambda key, x: jnp.sum(
    nn.Dropout(0.5, deterministic=False).apply({}, x, rngs={'dropout': key})
  ),
}
shared = {'typed': lambda x: KEY, 'raw': lambda x: RAW}
own = {
  'folded with an example': lambda x: jax.random.fold_in(
    KEY, jax.lax.bitcast_convert_type(x[0], jnp.uint32)
  ),
  'raw, folded with an example': lambda x: jax.random.fold_in(
    RAW, x[0].astype(int)
  ),
  'made from an example': lambda x: jax.random.key(x[0].astype(int)),
  'raw, made from an example': lambda x: jax.random.PRNGKey(x[0].astype(int)),
}


@pytest.mark.parametrize('way', ways.values(), ids=ways)
@pytest.mark.parametrize('key_of', shared.values(), ids=shared)
def test_a_key_of_the_closure_draws_the_same(key_of, way):
  assert randomness.draws_the_same(lambda _, x: way(key_of(x), x), (), X)


@pytest.mark.parametrize('way', ways.values(), ids=ways)
@pytest.mark.parametrize('key_of', own.values(), ids=own)
def test_a_key_that_an_example_changes_does_not(key_of, way):
  assert not randomness.draws_the_same(lambda _, x: way(key_of(x), x), (), X)


@pytest.mark.parametrize('way', ways.values(), ids=ways)
@pytest.mark.parametrize(
  'key', [KEY, RAW, randomness.equal_key()], ids=['typed', 'raw', 'equal']
)
def test_a_key_of_the_sample_does_not(key, way):
  function = lambda _, sample: way(sample['key'], sample['x'])
  sample = {'key': key, 'x': X}
  assert not randomness.draws_the_same(function, (), sample)
  shapes = jax.eval_shape(lambda: sample)
  assert not randomness.draws_the_same(function, (), shapes)


@pytest.mark.parametrize('way', ways.values(), ids=ways)
def test_a_key_among_what_is_fixed_draws_the_same(way):
  assert randomness.draws_the_same(lambda fixed, x: way(fixed, x), KEY, X)


def test_one_shared_key_beside_an_own_one_is_found():
  def both(_, sample):
    key, x = sample
    return noisy(key, x) + noisy(KEY, x)

  assert randomness.draws_the_same(both, (), (KEY, X))


@pytest.mark.parametrize(
  'function',
  [
    lambda fixed, x: jnp.sum(x) * fixed,
    lambda fixed, x: jax.lax.scan(lambda c, y: (c + y, None), fixed, x)[0],
  ],
)
def test_no_randomness_is_none(function):
  assert not randomness.draws_the_same(function, 1.0, X)


def test_numbers_that_nothing_reads_are_none():
  def function(_, x):
    noisy(KEY, x)
    return jnp.sum(x)

  assert not randomness.draws_the_same(function, (), X)


def drawn_before_it_is_folded(x):
  """Only the first iteration draws from a key that no example changes."""

  def body(key, one):
    return jax.random.fold_in(key, one), jax.random.normal(key)

  return jax.lax.scan(body, KEY, x.astype(int))[1]


def folded_before_it_is_drawn(x):
  def body(key, one):
    key = jax.random.fold_in(key, one)
    return key, jax.random.normal(key)

  return jax.lax.scan(body, KEY, x.astype(int))[1]


def replaced_in_a_loop(x):
  """All but the first iteration draw from a key that no example changes."""
  start = jax.random.fold_in(KEY, x[0].astype(int)), jnp.zeros([])

  def body(i, carry):
    return KEY, carry[1] + jax.random.normal(carry[0])

  return jax.lax.fori_loop(0, x[0].astype(int) + 2, body, start)[1]


def folded_in_a_loop(x):
  def body(i, total):
    key = jax.random.fold_in(jax.random.fold_in(KEY, x[0].astype(int)), i)
    return total + jax.random.normal(key)

  return jax.lax.fori_loop(0, x[0].astype(int) + 2, body, 0.0)


def chosen_by_an_example(x):
  key = jax.lax.cond(x[0] > 1, lambda: KEY, lambda: jax.random.key(5))
  return jax.random.normal(key)


@pytest.mark.parametrize(
  ('function', 'expected'),
  [
    (drawn_before_it_is_folded, True),
    (folded_before_it_is_drawn, False),
    (replaced_in_a_loop, True),
    (folded_in_a_loop, False),
    (chosen_by_an_example, False),
  ],
)
def test_every_iteration_of_a_loop_is_followed(function, expected):
  found = randomness.draws_the_same(lambda _, x: function(x), (), X)
  assert found == expected


def test_a_key_that_is_split_and_not_drawn_from_is_none():
  def function(_, x):
    return jnp.sum(x), jax.random.key_data(jax.random.split(KEY))

  assert not randomness.draws_the_same(function, (), X)


MODEL = nnx.Sequential(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), nnx.relu)


def test_a_model_that_is_made_in_place_of_merged_draws_the_same():
  """Its parameters are drawn from a constant key."""
  make = lambda _, x: jnp.sum(nnx.Linear(3, 2, rngs=nnx.Rngs(0))(x))
  assert randomness.draws_the_same(make, (), X)
  merged = lambda _, x: jnp.sum(nnx.merge(*nnx.split(MODEL))(x))
  assert not randomness.draws_the_same(merged, (), X)
