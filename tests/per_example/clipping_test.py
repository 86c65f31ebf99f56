"""Weighted, clipped and normalised sums, against the gradient of every unit."""

import functools

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec
from jax_privacy import clipping

import adaopt
from adaopt import per_example
from tests import oracles, per_example_cases

RNG = np.random.default_rng(0)
X = np.float32(RNG.normal(0, 1, (8, 5)))
PARAMS = {
  'body': {
    'w': np.float32(RNG.normal(0, 0.4, (5, 3))),
    'b': np.float32(RNG.normal(0, 0.4, 3)),
  },
  'head': np.float32(RNG.normal(0, 0.4, (3, 2))),
}
BODY = 18  # coordinates


def loss_fn(params, x):
  hidden = jnp.tanh(x @ params['body']['w'] + params['body']['b'][None])
  return jnp.mean(jnp.sum((hidden @ params['head'] - 1) ** 2, -1))


def gradients(params=PARAMS, x=X, size=1):
  """G in float64. [b / size, d]."""
  return oracles.sample_gradients(loss_fn, params, x, size).astype(np.float64)


def lengths(g):
  return np.sqrt(np.sum(g**2, 1))


def clipped(g, bound):
  """Σ_i min(1, C / ‖g_i‖) g_i."""
  return sum(min(1, bound / np.linalg.norm(row)) * row for row in g)


def close(actual, expected):
  # Some hundred float32 operations in another order.
  scale = np.max(np.abs(expected), initial=1e-30)
  np.testing.assert_allclose(actual, expected, 1e-5, 1e-5 * scale)


def sum_of(result):
  return oracles.ravel(result[1])


BOUND = float(np.median(lengths(gradients())))
CLIPPED = jax.jit(per_example.clipped_sum(loss_fn, BOUND))

RULES = [
  'dense',
  'dense on short sequences',
  'dense on long sequences',
  'dense of several heads on sequences',
  'conv valid and strided',
  'conv grouped',
  'layer norm',
  'embed',
  'used twice',
  'lstm',
  'unused parameter',
  'real weights of complex numbers',
  'scan over layers, remat',
  'scan over dense layers on sequences',
  'scan over convolutions',
  'scan of scans over layers',
]


@pytest.mark.slow
@pytest.mark.parametrize('name', RULES)
def test_every_rule_contracts_with_the_weights_of_each_tensor(name):
  apply, params, x = per_example_cases.CASES[name]()
  one = per_example_cases.loss_of(apply)
  loss = lambda params, batch: one(params, batch[0])[0]
  each = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(params, x[:, None])
  flat = jax.tree.map(
    lambda g: np.float64(g).reshape(len(x), -1), jax.device_get(each)
  )
  bounds = jax.tree.map(lambda g: float(np.median(lengths(g))) + 1e-6, flat)
  _, total, norms = jax.jit(per_example.clipped_sum(loss, bounds))(params, x)
  whole = float(np.median(np.sqrt(sum(lengths(g) ** 2 for g in flat_of(flat)))))
  found = jax.jit(per_example.clipped_sum(loss, whole))(params, x)
  scales = np.minimum(1, whole / np.asarray(found[2]))
  for g, bound, summed, norm, together in zip(
    *map(flat_of, (flat, bounds, total, norms, found[1])), strict=True
  ):
    close(norm, lengths(g))
    weights = np.minimum(1, bound / np.maximum(lengths(g), 1e-30))
    close(np.ravel(summed), weights @ g)
    close(np.ravel(together), scales @ g)
  close(found[2], np.sqrt(sum(lengths(g) ** 2 for g in flat_of(flat))))


flat_of = jax.tree.leaves


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-3, 3, width=32), min_size=8, max_size=8))
def test_any_weights(weights):
  total = WEIGHTED(PARAMS, X, np.float32(weights))
  close(sum_of(total), np.float64(weights) @ gradients())


WEIGHTED = jax.jit(per_example.weighted_sum(loss_fn))


@settings(max_examples=30, deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(-2, 2))
def test_what_one_example_adds_is_bounded(bound, scale):
  result = BOUNDED(PARAMS, np.float32(10.0**scale) * X, np.float32(bound))
  g = oracles.sample_gradients(loss_fn, PARAMS, np.float32(10.0**scale) * X)
  close(sum_of(result), clipped(g.astype(np.float64), bound))
  # The sum of one, which no other can hide, to the rounding of float32.
  alone = BOUNDED(PARAMS, np.float32(10.0**scale) * X, np.float32(bound), ONE)
  assert np.linalg.norm(sum_of(alone)) <= bound * (1 + 1e-6)


ONE = np.arange(8) == 3


@jax.jit
def BOUNDED(params, x, bound, mask=np.ones(8, bool)):  # noqa: N802
  return per_example.clipped_sum(loss_fn, bound)(params, x, mask=mask)


def test_weights_may_depend_on_norms_losses_and_products():
  g, u = gradients(), jax.tree.map(np.cos, PARAMS)
  losses = np.array([loss_fn(PARAMS, x[None]) for x in X], np.float64)
  products = g @ oracles.ravel(u)

  @jax.jit
  def both(params, x):
    f = per_example.weighted_sum(loss_fn)
    ratio = f(params, x, lambda norms, losses: norms / losses)
    along = f(params, x, lambda n, _, products: products / n, direction=u)
    return ratio, along

  ratio, along = both(PARAMS, X)
  close(sum_of(ratio), (lengths(g) / losses) @ g)
  close(sum_of(along), (products / lengths(g)) @ g)
  close(ratio[0], np.mean(losses))
  close(ratio[2], lengths(g))


def test_importance_sampling_is_unbiased():
  """With p_i ∝ ‖g_i‖ and weights 1 / (n p_i), every draw has length Σ‖g‖/n."""
  g = gradients()
  p = lengths(g) / np.sum(lengths(g))
  rng = np.random.default_rng(1)
  drawn = rng.choice(8, 8, p=p)
  _, total, norms = WEIGHTED(PARAMS, X[drawn], np.float32(1 / (8 * p[drawn])))
  close(sum_of((0, total)), np.mean(g[drawn] / (p[drawn][:, None]), 0))
  close(norms / (8 * p[drawn]), np.full(8, np.sum(lengths(g)) / 8))


def test_parts_are_clipped_by_their_own_norms():
  g = gradients()
  bounds = {'body': 0.5 * BOUND, 'head': 0.2 * BOUND}
  _, total, norms = jax.jit(per_example.clipped_sum(loss_fn, bounds))(PARAMS, X)
  for part, columns in ('body', slice(BODY)), ('head', slice(BODY, None)):
    close(norms[part], lengths(g[:, columns]))
    expected = clipped(g[:, columns], bounds[part])
    close(oracles.ravel(total[part]), expected)


def test_no_bound_gives_the_sum_and_gradients_of_zero_add_zero():
  _, total, _ = jax.jit(per_example.clipped_sum(loss_fn, np.inf))(PARAMS, X)
  close(oracles.ravel(total), np.sum(gradients(), 0))
  flat = lambda w, x: jnp.mean(0 * jnp.sum(x @ w))
  for make in (
    lambda f: per_example.clipped_sum(f, 1.0),
    lambda f: per_example.clipped_sum(f, np.inf),
    lambda f: per_example.normalized_sum(f, 0.0),
  ):
    _, total, norms = jax.jit(make(flat))(jnp.ones(5), X)
    assert not np.any(total)
    assert not np.any(norms)


@pytest.mark.parametrize('gamma', [0.0, 0.01])
def test_normalised_gradients(gamma):
  g = gradients()
  f = jax.jit(per_example.normalized_sum(loss_fn, gamma))
  close(sum_of(f(PARAMS, X)), (1 / (lengths(g) + gamma)) @ g)


@pytest.mark.slow
@pytest.mark.parametrize('bad', [np.nan, np.inf, 1e30])
def test_an_example_without_a_finite_norm_adds_nothing(bad):
  broken = X.copy()
  broken[2] = bad
  for f in (CLIPPED, jax.jit(per_example.normalized_sum(loss_fn, 0.0))):
    # 1e30 saturates tanh: its gradient is finite, and that of the layer above.
    _, total, norms = f(PARAMS, broken)
    assert np.all(np.isfinite(oracles.ravel(total)))
    if not np.isfinite(norms[2]):
      rest = f(PARAMS, np.delete(X, 2, 0))
      close(oracles.ravel(total), sum_of(rest))
  weights = np.float32(np.arange(8) != 2)
  _, total, _ = WEIGHTED(PARAMS, broken, weights)
  close(oracles.ravel(total), weights @ gradients())


def test_within_a_scan_such_an_example_adds_nothing():
  apply, params, x = per_example_cases.CASES['scan over layers, remat']()
  one = per_example_cases.loss_of(apply)
  loss = lambda params, batch: one(params, batch[0])[0]
  f = jax.jit(per_example.clipped_sum(loss, 0.1))
  broken = x.copy()
  broken[1] = np.nan
  _, total, norms = f(params, broken)
  assert np.isnan(norms[1])
  close(oracles.ravel(total), sum_of(f(params, np.delete(x, 1, 0))))


def test_padding_leaves_no_trace():
  mask = np.array([1, 0, 1, 1, 0, 1, 1, 1], bool)
  padded = np.where(mask[:, None], X, np.nan)
  loss, total, norms = CLIPPED(PARAMS, padded, mask=mask)
  close(loss, loss_fn(PARAMS, X[mask]))
  close(oracles.ravel(total), clipped(gradients()[mask], BOUND))
  close(norms, np.where(mask, lengths(gradients()), 0))


def test_groups_are_units_of_their_mean_loss():
  g = gradients(size=2)
  f = jax.jit(per_example.clipped_sum(loss_fn, 0.4 * BOUND, group_size=2))
  mask = np.array([1, 1, 1, 0, 1, 1, 1, 1], bool)
  loss, total, norms = f(PARAMS, X, mask=mask)
  counted = np.array([0, 2, 3])
  close(oracles.ravel(total), clipped(g[counted], 0.4 * BOUND))
  close(norms[counted], lengths(g)[counted])
  kept = X.reshape(4, 2, 5)[counted].reshape(-1, 5)
  close(loss, loss_fn(PARAMS, kept))


def test_weighted_losses_are_clipped_each_alone():
  """What else is in the batch, and its weights, change no example's part."""
  weights = np.float32([1, 3, 0, 2, 1, 5, 0.5, 1])

  def weighted_loss(params, batch):
    x, w = batch
    each = jax.vmap(lambda row: loss_fn(params, row[None]))(x)
    return adaopt.WeightedLoss(jnp.sum(w * each), jnp.sum(w))

  f = jax.jit(per_example.clipped_sum(weighted_loss, BOUND))
  loss, total, norms = f(PARAMS, (X, weights))
  counts = weights != 0
  close(oracles.ravel(total), clipped(gradients()[counts], BOUND))
  close(norms, np.where(counts, lengths(gradients()), 0))
  value = weighted_loss(PARAMS, (X, weights))
  close(loss, value.total / value.weight)


def test_micro_batches_of_optax_add_up():
  average, concat, total = (
    optax.microbatching.AccumulationType.MEAN,
    optax.microbatching.AccumulationType.CONCAT,
    optax.microbatching.AccumulationType.SUM,
  )
  f = optax.microbatching.microbatch(
    per_example.clipped_sum(loss_fn, BOUND), 1, 2, (average, total, concat)
  )
  for actual, expected in zip(
    jax.jit(f)(PARAMS, X), CLIPPED(PARAMS, X), strict=True
  ):
    close(oracles.ravel(actual), oracles.ravel(expected))


def test_aux_is_averaged_and_rows_come_back():
  def with_aux(params, x):
    each = jnp.sum(x, -1)
    return loss_fn(params, x), {'mean': jnp.mean(each), 'each': each}

  f = per_example.clipped_sum(with_aux, BOUND, has_aux=True)
  (_, aux), total, _ = jax.jit(f)(PARAMS, X)
  close(aux['mean'], np.mean(np.sum(X, -1)))
  close(aux['each'], np.sum(X, -1))
  close(oracles.ravel(total), clipped(gradients(), BOUND))


@pytest.mark.slow
def test_keys_are_those_of_the_examples():
  def dropped(params, x, key):
    return loss_fn(params, x * jax.random.bernoulli(key, 0.5, x.shape))

  key = jax.random.key(3)
  f = jax.jit(per_example.clipped_sum(dropped, np.inf))
  _, total, _ = f(PARAMS, X, key=key)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, np.arange(8))
  gradient = jax.vmap(jax.grad(dropped), (None, 0, 0))
  each = jax.jit(gradient)(PARAMS, X[:, None], keys)
  close(
    oracles.ravel(total), np.sum([oracles.ravel(t) for t in rows(each, 8)], 0)
  )


def rows(tree, count):
  return [jax.tree.map(lambda x, i=i: x[i], tree) for i in range(count)]


def test_sums_of_half_precision_are_wide():
  half = jax.tree.map(jnp.bfloat16, PARAMS)
  _, total, norms = CLIPPED(half, jnp.bfloat16(X))
  assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(total))
  assert norms.dtype == np.float32
  # Eight bits of mantissa in every activation.
  expected = clipped(gradients(), BOUND)
  scale = np.max(np.abs(expected))
  np.testing.assert_allclose(oracles.ravel(total), expected, 0.1, 0.1 * scale)


@pytest.mark.usefixtures('optimised')
def test_clipping_multiplies_no_more_than_a_gradient():
  """Of dense layers: neither a second backward pass nor a gradient each."""
  params = [jnp.ones([64, 64])] * 3
  forward = lambda params, x: functools.reduce(
    lambda h, w: jnp.tanh(h @ w), params, x
  )
  loss = lambda params, x: jnp.mean(forward(params, x) ** 2)
  x = jnp.ones([128, 64])

  def multiplications(function):
    compiled = jax.jit(function).lower(params, x).compile()
    return compiled.cost_analysis()['flops']

  plain = multiplications(jax.grad(loss))
  # Beside products of matrices: squares and scaled rows, 64 times fewer.
  assert multiplications(per_example.clipped_sum(loss, 1.0)) < 1.1 * plain


def test_under_vmap():
  both = jax.tree.map(lambda p: np.stack([p, 0.5 * p]), PARAMS)
  _, totals, _ = jax.jit(jax.vmap(CLIPPED, (0, None)))(both, X)
  for i in range(2):
    params = jax.tree.map(lambda p, i=i: p[i], both)
    one = oracles.ravel(jax.tree.map(lambda t, i=i: t[i], totals))
    close(one, clipped(gradients(params), BOUND))


def test_on_devices_as_on_one():
  mesh = jax.make_mesh(
    (8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,)
  )
  placed = jax.device_put(X, NamedSharding(mesh, PartitionSpec('data')))
  close(sum_of(CLIPPED(PARAMS, placed)), clipped(gradients(), BOUND))

  @jax.jit
  @functools.partial(
    jax.shard_map,
    mesh=mesh,
    in_specs=(PartitionSpec(), PartitionSpec('data')),
    out_specs=PartitionSpec(),
  )
  def summed(params, x):
    _, total, _ = per_example.clipped_sum(loss_fn, BOUND)(params, x)
    return jax.lax.psum(total, 'data')

  close(oracles.ravel(summed(PARAMS, X)), clipped(gradients(), BOUND))


@pytest.mark.slow
def test_on_explicit_axes_results_lie_as_parameters_and_examples():
  """As `jax.make_mesh` makes them, here with one matrix cut up."""
  axes = (jax.sharding.AxisType.Explicit,) * 2
  mesh = jax.make_mesh((4, 1), ('data', 'model'), axis_types=axes)
  specs = {
    'body': {'w': PartitionSpec(None, 'model'), 'b': PartitionSpec('model')},
    'head': PartitionSpec(),
  }
  weights = np.float32(np.arange(8) % 3)
  u = jax.tree.map(np.cos, PARAMS)
  g = gradients()
  with jax.set_mesh(mesh):
    params = jax.tree.map(jax.device_put, PARAMS, specs)
    x, c = (jax.device_put(a, PartitionSpec('data')) for a in (X, weights))
    sums = (
      (per_example.clipped_sum(loss_fn, BOUND), (), clipped(g, BOUND)),
      (per_example.weighted_sum(loss_fn), (c,), weights @ g),
      (per_example.squared_norms(loss_fn), (), np.mean(g, 0)),
    )
    for f, more, expected in sums:
      value, total, norms = jax.jit(f)(params, x, *more)
      close(oracles.ravel(total), expected)
      specs_of = jax.tree.map(lambda t: jax.typeof(t).sharding.spec, total)
      assert specs_of['body']['w'] == specs['body']['w']
      assert jax.typeof(norms).sharding.spec == PartitionSpec('data')
      assert jax.typeof(value).sharding.spec == PartitionSpec()
    moment = jax.jit(per_example.second_moment(loss_fn))(params, x)
    close(oracles.ravel(moment), np.mean(g**2, 0))
    products = jax.jit(per_example.inner_products(loss_fn))(params, x, u)
    close(products, g @ oracles.ravel(u))
    signs = jax.jit(per_example.mean_of_signs(loss_fn))(params, x)
    close(oracles.ravel(signs), np.mean(np.sign(g), 0))


@pytest.mark.parametrize(
  ('bounds', 'words'),
  [
    ({'body': 1.0}, 'a prefix of'),
    ({'body': 1.0, 'head': {'w': 1.0}}, 'a prefix of'),
    ([1.0, 2.0], 'a prefix of'),
  ],
)
def test_bounds_that_do_not_fit_the_parameters(bounds, words):
  with pytest.raises(ValueError, match=words):
    per_example.clipped_sum(loss_fn, bounds)(PARAMS, X)


SCALARS = np.float32([0, 7, -2])


def squared_distance(params, x):
  return 0.5 * jnp.mean((x - params) ** 2)


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:optax.global_norm is deprecated')
@pytest.mark.parametrize('bound', [1.0, 3.5, np.inf])
@pytest.mark.parametrize('size', [1, 3])
def test_the_sums_are_those_of_jax_privacy(bound, size):
  """Of the documented example, of networks, and of users with 3 examples."""
  for loss, params, x in (
    (squared_distance, np.float32(3), np.tile(SCALARS, 2)),
    (loss_fn, PARAMS, X[:6]),
  ):
    theirs = clipping.clipped_grad(
      loss,
      l2_clip_norm=bound,
      keep_batch_dim=False,
      return_values=True,
      return_grad_norms=True,
    )
    units = x.reshape(-1, size, *x.shape[1:])
    expected, aux = jax.jit(theirs)(params, units)
    ours = per_example.clipped_sum(loss, bound, group_size=size)
    value, total, norms = jax.jit(ours)(params, x)
    close(oracles.ravel(total), oracles.ravel(expected))
    close(norms, aux.grad_norms)
    close(value, np.mean(aux.values))


def test_it_serves_where_jax_privacy_expects_a_bounded_function():
  """Padding, neighbours and sensitivity, as its own tests ask for them."""

  def clipped(params, x, is_padding_example=None):
    mask = None if is_padding_example is None else ~is_padding_example
    return per_example.clipped_sum(loss_fn, BOUND)(params, x, mask=mask)[1]

  bounded = clipping.BoundedSensitivityCallable(clipped, BOUND, has_aux=False)
  run = jax.jit(bounded)
  whole = oracles.ravel(run(PARAMS, X, is_padding_example=np.zeros(8, bool)))
  relations = dp_accounting.NeighboringRelation
  changed = X.copy()
  changed[3] = [-10, 10, 20, 20, 0]
  neighbours = (
    (run(PARAMS, changed), relations.REPLACE_ONE),
    (run(PARAMS, X, is_padding_example=ONE), relations.REPLACE_SPECIAL),
    (run(PARAMS, np.delete(X, 3, 0)), relations.ADD_OR_REMOVE_ONE),
  )
  for neighbour, relation in neighbours:
    distance = np.linalg.norm(whole - oracles.ravel(neighbour))
    # One part of 2^23 of the sum of eight.
    assert distance <= bounded.sensitivity(relation) * (1 + 1e-6)
    assert distance > 0


@pytest.mark.parametrize('common', [1e2, 1e4])
def test_positions_that_cancel_do_not_hide_a_gradient(common):
  """As those of keys in attention: Σ_t δ_t = 0, and tokens that are alike.

  Gram matrices would add ⟨x_t, x_s⟩ ⟨δ_t, δ_s⟩ of both signs, each `common`²
  times what is left of their sum.
  """
  rng = np.random.default_rng(0)
  shared = common * rng.normal(size=(4, 1, 32))
  x = np.float32(shared + rng.normal(size=(4, 8, 32)))
  cotangents = rng.normal(size=(4, 8, 32))
  cotangents = np.float32(cotangents - cotangents.mean(1, keepdims=True))
  loss = lambda w, batch: jnp.mean(
    jnp.sum((batch[0] @ w) * batch[1], axis=(1, 2))
  )
  f = jax.jit(per_example.clipped_sum(loss, 1.0))
  w = np.zeros((32, 32), np.float32)
  for i in range(4):
    _, total, norms = f(w, (x[i : i + 1], cotangents[i : i + 1]))
    g = np.float64(x[i]).T @ np.float64(cotangents[i])
    assert np.linalg.norm(g) > 1
    # What is lost of a product of numbers `common` times as large.
    error = 1e-6 * common
    np.testing.assert_allclose(norms, [np.linalg.norm(g)], 0.02 * error + 1e-6)
    assert np.linalg.norm(total) <= 1 + error


def test_a_batch_without_examples_has_a_sum_of_zero_and_no_loss():
  loss, total, norms = CLIPPED(PARAMS, X, mask=np.zeros(8, bool))
  assert np.isnan(loss)
  assert not np.any(oracles.ravel(total))
  assert not np.any(norms)
  with jax.debug_nans(True):
    loss, _, _ = jax.jit(per_example.clipped_sum(loss_fn, BOUND))(
      PARAMS, X, mask=np.zeros(8, bool)
    )
  assert loss == -1


def test_a_bound_for_a_part_without_arrays_is_told():
  bounds = {'body': 1.0, 'head': 1.0, 'rest': 1.0}
  with pytest.raises(ValueError, match='a part without any'):
    per_example.clipped_sum(lambda p, x: loss_fn(p, x), bounds)(
      PARAMS | {'rest': {}}, X
    )
