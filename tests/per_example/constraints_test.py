"""If these fail, a model that shards its activations does all work everywhere.

Or with other collectives than its plain gradient.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import adaopt
from adaopt.experiments.benchmarks import collectives
from adaopt.per_example.program import constraints, ir

pytestmark = pytest.mark.usefixtures('optimised')
B, T, D, F = 64, 4, 64, 128
WAYS = {
  'data': ((8,), ('data',), P(), P()),
  'fully sharded': ((8,), ('data',), P('data'), P(None, 'data')),
  'tensors': ((2, 4), ('data', 'model'), P(None, 'model'), P('model')),
}
PARAMS = [
  {
    'up': jax.random.normal(jax.random.key(i), [D, F]) / 8,
    'down': jax.random.normal(jax.random.key(i + 9), [F, D]) / 12,
  }
  for i in range(2)
]
X = jax.random.normal(jax.random.key(2), [B, T, D])


def make_mesh(shape, names):
  return jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(names))


def masked(w):
  """A weight that no rule knows, so that gradients are materialised."""
  return w * np.tri(*w.shape, dtype=np.float32)


def as_it_is(x, *_):
  return x


def loss_of(constrain, transform):
  """A loss of two blocks of dense layers, with constrained activations."""

  def loss_fn(params, x):
    x = constrain(x, None)
    for layer in params:
      hidden = constrain(jnp.tanh(x @ transform(layer['up'])), 'model')
      x = constrain(x + hidden @ layer['down'], None)
    return jnp.mean(x**2)

  return loss_fn


def compiled(function, *args):
  """The compiled function, FLOPs a device, and bytes of collectives."""
  program = jax.jit(function).lower(*args).compile()
  found = collectives.collectives(program.as_text())
  # Norms of a few examples, and nothing of the size of an activation.
  assert all(each.elements < 100 for each in found if each.in_loop)
  moved = sum(each.size for each in found)
  return program, program.cost_analysis()['flops'], moved


ONLY = ('variance',)


@functools.cache
def alone(transform):
  """FLOPs on one device beside a plain gradient's, and the statistics."""
  loss_fn = loss_of(as_it_is, transform)
  _, plain_flops, _ = compiled(jax.value_and_grad(loss_fn), PARAMS, X)
  estimate = adaopt.value_and_statistics(loss_fn, only=ONLY)
  program, flops, _ = compiled(estimate, PARAMS, X)
  return flops / plain_flops, jax.device_get(program(PARAMS, X))


@pytest.mark.slow
@pytest.mark.parametrize(
  ('way', 'transform'),
  [*((way, as_it_is) for way in WAYS), ('tensors', masked)],
)
def test_statistics_cost_what_a_plain_gradient_does_on_devices(way, transform):
  shape, names, *specs = WAYS[way]
  mesh = make_mesh(shape, names)

  def constrain(x, axis):
    spec = P('data', None, axis if axis in names else None)
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

  up, down = (NamedSharding(mesh, spec) for spec in specs)
  shardings = [{'up': up, 'down': down}] * len(PARAMS)
  args = (
    jax.device_put(PARAMS, shardings),
    jax.device_put(X, NamedSharding(mesh, P('data'))),
  )
  loss = loss_of(constrain, transform)
  _, flops, moved = compiled(jax.value_and_grad(loss), *args)

  def estimate(only):
    def sharded_like_params(params, x):
      value, statistics = adaopt.value_and_statistics(loss, only=only)(
        params, x
      )
      mean = jax.tree.map(
        jax.lax.with_sharding_constraint, statistics.mean, shardings
      )
      return value, statistics._replace(mean=mean)

    return sharded_like_params

  _, mean_flops, mean_moved = compiled(estimate(()), *args)
  assert mean_flops <= 1.1 * flops
  assert mean_moved <= 1.1 * moved
  program, own_flops, own_moved = compiled(estimate(ONLY), *args)
  share, expected = alone(transform)
  assert own_flops <= 1.1 * max(1, share) * flops
  assert own_moved <= 1.1 * moved
  pairs = zip(*map(jax.tree.leaves, (program(*args), expected)), strict=True)
  for actual, expected in pairs:
    # Sums of float32 numbers in another order.
    np.testing.assert_allclose(actual, expected, 1e-4, 1e-7)


def specs_of(function, *args):
  """How the constraints of a function shard, at any depth."""
  jaxpr = jax.make_jaxpr(function)(*args).jaxpr
  return [
    (*e.params['sharding'].spec,)
    for e in ir.equations_in([jaxpr])
    if e.primitive.name == 'sharding_constraint'
  ]


def mapped_specs(function, shared, samples):
  run = constraints.of_samples(function, shared, samples)
  return specs_of(run, shared, samples)


def test_constraints_move_at_any_depth():
  def loss_fn(w, x):
    @jax.checkpoint
    def layer(x, w):
      hidden = jax.jit(jax.lax.with_sharding_constraint, static_argnums=1)(
        x @ w, P('data', None, 'model')
      )
      x = jax.lax.cond(
        jnp.sum(w) > 0,
        lambda: jax.lax.with_sharding_constraint(hidden, P('data')),
        lambda: x,
      )
      return x, None

    return jnp.mean(jax.lax.scan(layer, x, w)[0] ** 2)

  w, x = jnp.ones([2, 4, 4]), jnp.ones([8, 1, 3, 4])
  with jax.set_mesh(make_mesh((2, 4), ('data', 'model'))):
    for function in (loss_fn, jax.grad(loss_fn)):
      found = set(mapped_specs(function, w, x))
      assert found == {('data', None, None, 'model'), ('data', *[None] * 3)}


def test_what_grows_with_the_examples_holds_them():
  constrain = jax.lax.with_sharding_constraint

  def loss_fn(w, x):  # [q, T, d]
    time_first = constrain(jnp.swapaxes(x, 0, 1), P(None, 'data', 'model'))
    tokens = constrain(time_first.reshape(-1, 8), P(('data', 'model')))
    experts = jnp.einsum('nd,edf->enf', tokens, w)
    experts = constrain(experts, P('model', 'data'))
    return jnp.sum(experts[:, 0])

  w, x = jnp.ones([4, 8, 8]), jnp.ones([8, 1, 3, 8])
  with jax.set_mesh(make_mesh((2, 4), ('data', 'model'))):
    traced = constraints.trace(loss_fn, w, constraints.one_of(x))
    assert traced.axes == ('data', 'model')
  free = ('data', 'model'), None, None, None
  with jax.set_mesh(make_mesh((2, 4), ('data', 'model'))):
    tokens_last = functools.partial(jax.grad(loss_fn), w)
    assert set(mapped_specs(lambda _, x: tokens_last(x), 0.0, x)) <= {
      free,
      free[:-1],
    }


def test_experts_keep_their_axis():
  def loss_fn(w, x):
    x = jax.lax.with_sharding_constraint(x, P('data'))
    experts = jnp.einsum('bd,edf->ebf', x, w)
    experts = jax.lax.with_sharding_constraint(experts, P('model', 'data'))
    return jnp.sum(experts**2)

  w, x = jnp.ones([4, 8, 8]), jnp.ones([8, 1, 8])
  with jax.set_mesh(make_mesh((2, 4), ('data', 'model'))):
    assert mapped_specs(loss_fn, w, x) == [
      ('data', None, None),
      ('data', 'model', None, None),
    ]


def test_a_loss_of_a_fixed_number_of_examples_shards_its_leading_axis():
  def loss_fn(w, x):
    x = x.reshape(2, 4)
    return jnp.mean(jax.lax.with_sharding_constraint(x, P('data')) @ w)

  w, x = jnp.ones([4, 3]), jnp.ones([8, 2, 4])
  with jax.set_mesh(make_mesh((8,), ('data',))):
    assert mapped_specs(loss_fn, w, x) == [('data', None, None)]


@pytest.mark.slow
def test_constraints_of_weights_stay_theirs(monkeypatch):
  lines = []
  monkeypatch.setattr(
    'absl.logging.debug', lambda message, *args: lines.append(message % args)
  )
  constrain = jax.lax.with_sharding_constraint

  def loss_fn(w, x):
    def layer(x, w):
      gathered = constrain(constrain(w, P('data')), P())
      return constrain(jnp.tanh(x @ gathered), P('data')), None

    return jnp.mean(jax.lax.scan(layer, x, w)[0] ** 2)

  plain = lambda w, x: jnp.mean(
    jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0] ** 2
  )
  w, x = jax.random.normal(jax.random.key(0), [2, 8, 8]), X[..., :8]
  with jax.set_mesh(make_mesh((8,), ('data',))):
    actual = jax.jit(adaopt.value_and_statistics(loss_fn))(w, x)
  expected = jax.jit(adaopt.value_and_statistics(plain))(w, x)
  assert not lines  # a rule was found, and no gradient is materialised
  for pair in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
    np.testing.assert_allclose(*pair, 1e-4, 1e-7)
