"""A bound model that trains otherwise than model.apply, or loses its state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import core
from flax import linen as nn

import adaopt
from adaopt import bridges

KEYS = jax.random.split(jax.random.key(7), 4)


class Model(nn.Module):
  @nn.compact
  def __call__(self, x, train):
    x = nn.BatchNorm(use_running_average=not train)(nn.Dense(8)(x))
    x = nn.Dropout(0.5, deterministic=not train)(x)
    self.sow('intermediates', 'features', x)
    return nn.Dense(2)(x)


class Masks(nn.Module):
  @nn.compact
  def __call__(self, x):
    scale = self.param('scale', nn.initializers.ones, [])
    drop = lambda name: nn.Dropout(
      0.5, deterministic=False, rng_collection=name, name=name
    )
    return scale * jnp.stack([drop(name)(x) for name in ('dropout', 'noise')])


def squared_error(model, batch):
  return jnp.mean((model(batch['x'], train=True) - batch['y']) ** 2)


def masks(model, batch):
  drawn = model(batch['x'])
  return jnp.mean(drawn), drawn


@pytest.fixture
def batch():
  rng = np.random.default_rng(0)
  return {
    'x': jnp.asarray(rng.normal(size=[4, 3]), jnp.float32),
    'y': jnp.asarray(rng.normal(size=[4, 2]), jnp.float32),
  }


@pytest.fixture(params=[dict, core.freeze], ids=['dict', 'FrozenDict'])
def variables(request, batch):
  made = Model().init(jax.random.key(0), batch['x'], train=False)
  return request.param(made)


def assert_close(actual, expected):
  actual, expected = jax.tree.leaves(actual), jax.tree.leaves(expected)
  assert len(actual) == len(expected) > 0
  for one, other in zip(actual, expected, strict=True):
    np.testing.assert_allclose(one, other, rtol=2e-6, atol=2e-6)


@pytest.mark.slow
def test_a_batch_gives_what_apply_gives(variables, batch):
  bridge = bridges.linen_loss(Model(), variables, squared_error)
  (loss, state), gradient = jax.jit(
    jax.value_and_grad(bridge.loss_fn, has_aux=True)
  )(bridge.params, batch, key=KEYS[0], model_state=bridge.model_state)

  def by_hand(params):
    outputs, updates = Model().apply(
      {**variables, 'params': params},
      batch['x'],
      train=True,
      mutable=['batch_stats'],
      rngs={
        'params': jax.random.fold_in(KEYS[0], 0),
        'dropout': jax.random.fold_in(KEYS[0], 1),
      },
    )
    return jnp.mean((outputs - batch['y']) ** 2), updates

  (expected, updates), expected_gradient = jax.value_and_grad(
    by_hand, has_aux=True
  )(variables['params'])
  assert_close(loss, expected)
  assert_close(gradient, expected_gradient)
  assert_close(state['batch_stats'], updates['batch_stats'])
  assert jax.tree.structure(state) == jax.tree.structure(bridge.model_state)
  assert jax.tree.structure(gradient) == jax.tree.structure(bridge.params)


@pytest.mark.slow
def test_batches_of_one_give_what_each_gives_alone(variables, batch):
  loss_fn, params, model_state = bridges.linen_loss(
    Model(), variables, squared_error
  )

  def of_sample(example, key):
    return jax.value_and_grad(loss_fn, has_aux=True)(
      params, jax.tree.map(lambda leaf: leaf[None], example), key, model_state
    )

  (losses, states), _ = jax.jit(jax.vmap(of_sample))(batch, KEYS)
  for i in range(4):
    one = jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], batch)
    loss, state = loss_fn(params, one, KEYS[i], model_state)
    assert_close(losses[i], loss)
    assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], states), state)


def test_the_variables_take_back_what_was_trained(variables, batch):
  loss_fn, params, state = bridges.linen_loss(Model(), variables, squared_error)
  _, state = jax.jit(loss_fn)(params, batch, KEYS[0], state)
  trained = {'params': params, **state}
  outputs = Model().apply(trained, batch['x'], train=False)
  before = Model().apply(variables, batch['x'], train=False)
  assert np.isfinite(outputs).all()
  assert not np.allclose(outputs, before)


@pytest.mark.parametrize('streams', [(), ('dropout',), ('dropout', 'noise')])
def test_keys_and_streams_have_masks_of_their_own(streams):
  batch = {'x': jnp.ones([1, 64])}
  variables = Masks().init(jax.random.key(0), batch['x'])
  loss_fn, params, model_state = bridges.linen_loss(
    Masks(), variables, masks, streams=streams
  )
  first, second, again = (
    loss_fn(params, batch, key, model_state)[1][0]
    for key in (KEYS[0], KEYS[1], KEYS[0])
  )
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, second)
  assert not np.array_equal(first[0], first[1])


def test_streams_of_one_module_differ():
  class Draws(nn.Module):
    @nn.compact
    def __call__(self):
      self.param('scale', nn.initializers.ones, [])
      names = ('params', 'dropout', 'noise')
      return [jax.random.bits(self.make_rng(name)) for name in names]

  model = Draws()
  loss_fn, params, model_state = bridges.linen_loss(
    model, model.init(KEYS[0]), lambda model, batch: (jnp.zeros([]), model())
  )
  _, (drawn, _) = loss_fn(params, None, KEYS[0], model_state)
  assert len({int(bits) for bits in drawn}) == 3


@pytest.mark.slow
def test_recurrent_dropout_drops_anew_in_every_step():
  class Cell(nn.Module):
    @nn.compact
    def __call__(self, carry, x):
      x = self.param('scale', nn.initializers.ones, []) * x
      return carry, nn.Dropout(0.5, deterministic=False)(x)

  class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, x):
      scan = nn.scan(
        Cell,
        variable_broadcast='params',
        split_rngs={'params': False, 'dropout': True},
      )
      return scan()(jnp.zeros([]), x)[1]

  x = jnp.ones([5, 64])
  variables = Recurrent().init(jax.random.key(0), x)
  loss_fn, params, model_state = bridges.linen_loss(
    Recurrent(), variables, masks
  )
  _, (drawn, _) = loss_fn(params, {'x': x}, KEYS[0], model_state)
  assert len(np.unique(drawn, axis=0)) == 5


@pytest.mark.slow
def test_attention_drops():
  model = nn.MultiHeadDotProductAttention(
    num_heads=2, dropout_rate=0.5, deterministic=False
  )
  x = jax.random.normal(KEYS[0], [3, 5, 4])
  loss_fn, params, model_state = bridges.linen_loss(
    model, model.init(KEYS[0], x), lambda model, x: jnp.mean(model(x) ** 2)
  )

  def of_sample(x, key):
    return jax.value_and_grad(loss_fn, has_aux=True)(
      params, x[None], key, model_state
    )

  x = jnp.broadcast_to(x[0], x.shape)
  keys = KEYS[jnp.array([0, 1, 0])]
  (losses, _), _ = jax.jit(jax.vmap(of_sample))(x, keys)
  assert losses[0] == losses[2] != losses[1]


def test_a_constant_collection_comes_back_as_it_is(batch):
  class Scaled(nn.Module):
    @nn.compact
    def __call__(self, x, train):
      scale = self.variable('constants', 'scale', jnp.ones, [])
      calls = self.variable('counts', 'calls', jnp.zeros, [], jnp.int32)
      calls.value += 1
      self.sow('losses', 'norm', jnp.sum(x**2))
      return nn.Dense(2)(scale.value * x)

  variables = Scaled().init(jax.random.key(0), batch['x'], train=True)
  assert set(variables) == {'params', 'constants', 'counts', 'losses'}
  loss_fn, params, model_state = bridges.linen_loss(
    Scaled(), variables, squared_error
  )
  same = []

  def of_sample(params, example, key, model_state):
    after = loss_fn(
      params, jax.tree.map(lambda leaf: leaf[None], example), key, model_state
    )[1]
    pairs = zip(
      jax.tree.leaves(after), jax.tree.leaves(model_state), strict=True
    )
    same.extend(one is other for one, other in pairs)
    return after

  after = jax.jit(jax.vmap(of_sample, in_axes=(None, 0, 0, None)))(
    params, batch, KEYS, model_state
  )
  # What a collection had sown at first stays; what is sown later is not kept.
  assert list(after) == ['constants', 'counts', 'losses']
  assert same == [True, False, True]
  np.testing.assert_array_equal(after['counts']['calls'], [2, 2, 2, 2])


def test_an_aux_goes_beside_the_state_and_a_weighted_loss_is_no_pair(
  variables, batch
):
  def with_aux(model, batch):
    return squared_error(model, batch), {'n': len(batch['x'])}

  def weighted(model, batch):
    return adaopt.WeightedLoss(squared_error(model, batch), jnp.ones([]))

  def loss_of(loss):
    loss_fn, params, state = bridges.linen_loss(Model(), variables, loss)
    return loss_fn(params, batch, KEYS[0], state), jax.tree.structure(state)

  (expected, _), structure = loss_of(squared_error)
  (value, (aux, state)), _ = loss_of(with_aux)
  assert value == expected
  assert aux == {'n': 4}
  assert jax.tree.structure(state) == structure
  (value, state), _ = loss_of(weighted)
  assert value.total == expected
  assert jax.tree.structure(state) == structure


def test_only_the_given_collections_are_mutable(variables, batch):
  def loss(model, batch):
    names = ('params', 'batch_stats', 'intermediates')
    mutable = [model.is_mutable_collection(name) for name in names]
    return squared_error(model, batch), mutable

  loss_fn, params, state = bridges.linen_loss(Model(), variables, loss)
  _, (mutable, after) = loss_fn(params, batch, KEYS[0], state)
  assert mutable == [False, True, False]
  assert set(after) == {'batch_stats'}


def test_a_loss_fn_keys_a_cache(variables, batch):
  loss_fn, params, model_state = bridges.linen_loss(
    Model(), variables, squared_error
  )
  step = jax.jit(lambda fn, *args: fn(*args)[1], static_argnums=0)
  for key in KEYS:
    model_state = step(loss_fn, params, batch, key, model_state)
  assert step._cache_size() == 1


def test_what_does_not_fit_is_met_with_a_sentence(variables, batch):
  params = variables['params']
  for wrong in (params, {'params': {}}, {}):
    with pytest.raises(ValueError, match=r'got \[.*what model.init returned'):
      bridges.linen_loss(Model(), wrong, squared_error)
  with pytest.raises(ValueError, match=r"pass \['noise'\]"):
    bridges.linen_loss(Model(), variables, squared_error, streams='noise')
  with pytest.raises(ValueError, match='loss must be a function'):
    bridges.linen_loss(Model(), variables, 1.0)
  loss_fn, params, state = bridges.linen_loss(
    Model(), variables, lambda model, batch: (0.0, 0.0, 0.0)
  )
  with pytest.raises(ValueError, match='a tuple of 3'):
    loss_fn(params, batch, KEYS[0], state)
