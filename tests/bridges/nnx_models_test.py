"""A copied model that trains otherwise than the model itself, or changes it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend import random as extended_random

import adaopt
from adaopt import bridges

KEYS = jax.random.split(jax.random.key(7), 4)


class Model(nnx.Module):
  """Every kind of variable: parameters, statistics and two streams."""

  def __init__(self):
    rngs = nnx.Rngs(0, dropout=1)
    self.inside = nnx.Linear(3, 8, rngs=rngs)
    self.norm = nnx.BatchNorm(8, rngs=rngs)
    self.drop_a = nnx.Dropout(0.5, rngs=rngs)
    self.drop_b = nnx.Dropout(0.5, rngs=rngs)
    self.head = nnx.Linear(8, 2, rngs=rngs)

  def __call__(self, x):
    return self.head(self.drop_b(self.drop_a(self.norm(self.inside(x)))))


class Masks(nnx.Module):
  """Shows what two streams drop."""

  def __init__(self, rngs=None):
    rngs = nnx.Rngs(0, noise=1) if rngs is None else rngs
    self.scale = nnx.Param(jnp.ones([]))
    self.dropout = nnx.Dropout(0.5, rngs=rngs)
    self.noise = nnx.Dropout(0.5, rng_collection='noise', rngs=rngs)

  def __call__(self, x):
    return self.scale * self.dropout(x), self.scale * self.noise(x)


def squared_error(model, batch):
  return jnp.mean((model(batch['x']) - batch['y']) ** 2)


def mean_square(model, batch):
  return jnp.mean(model(batch['x']) ** 2)


def masks(model, batch):
  return 0.0 * model.scale[...], model(batch['x'])


@pytest.fixture
def batch():
  rng = np.random.default_rng(0)
  return {
    'x': jnp.asarray(rng.normal(size=[4, 3]), jnp.float32),
    'y': jnp.asarray(rng.normal(size=[4, 2]), jnp.float32),
  }


def values(tree):
  return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def assert_close(actual, expected):
  assert len(values(actual)) == len(values(expected)) > 0
  for one, other in zip(values(actual), values(expected), strict=True):
    np.testing.assert_allclose(one, other, rtol=2e-6, atol=2e-6)


def by_samples(loss_fn, params, model_state, batch, keys=KEYS):
  """Losses and new states of batches of one, and the gradient of each."""

  def of_sample(example, key):
    return jax.value_and_grad(loss_fn, has_aux=True)(
      params, jax.tree.map(lambda leaf: leaf[None], example), key, model_state
    )

  return jax.jit(jax.vmap(of_sample))(batch, keys)


def assert_stochastic(model, x, loss=mean_square):
  """Different keys differ, equal keys agree, under jit, vmap and grad."""
  loss_fn, params, model_state = bridges.nnx_loss(model, loss)
  batch = {'x': jnp.broadcast_to(x, (3, *x.shape))}
  keys = KEYS[jnp.array([0, 1, 0])]
  (losses, states), gradients = by_samples(
    loss_fn, params, model_state, batch, keys
  )
  assert losses[0] == losses[2] != losses[1]
  assert all(np.isfinite(leaf).all() for leaf in values(gradients))
  assert jax.tree.structure(states) == jax.tree.structure(model_state)


def test_a_batch_gives_what_value_and_grad_of_nnx_gives(batch):
  model, by_hand = Model(), Model()
  bridge = bridges.nnx_loss(model, squared_error)
  (loss, state), gradient = jax.jit(
    jax.value_and_grad(bridge.loss_fn, has_aux=True)
  )(bridge.params, batch, key=KEYS[0], model_state=bridge.model_state)
  by_hand.drop_a.rngs.key[...] = jax.random.fold_in(KEYS[0], 0)
  by_hand.drop_b.rngs.key[...] = jax.random.fold_in(KEYS[0], 1)
  expected_loss, expected_gradient = nnx.value_and_grad(squared_error)(
    by_hand, batch
  )
  assert_close(loss, expected_loss)
  assert_close(gradient, expected_gradient)
  assert_close(state, nnx.state(by_hand, nnx.BatchStat))
  assert not np.allclose(values(state)[0], values(bridge.model_state)[0])


def test_batches_of_one_give_what_each_gives_alone(batch):
  loss_fn, params, model_state = bridges.nnx_loss(Model(), squared_error)
  (losses, states), _ = by_samples(loss_fn, params, model_state, batch)
  for i in range(4):
    one = jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], batch)
    loss, state = loss_fn(params, one, KEYS[i], model_state)
    assert_close(losses[i], loss)
    assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], states), state)


@pytest.mark.slow
def test_the_model_does_not_change_and_does_not_leak(batch):
  model = Model()
  before = values(nnx.state(model, nnx.Not(nnx.RngKey)))
  bridge = bridges.nnx_loss(model, squared_error)
  with jax.checking_leaks():
    jax.jit(bridge.loss_fn)(bridge.params, batch, KEYS[0], bridge.model_state)
  bridge.loss_fn(bridge.params, batch, KEYS[0], bridge.model_state)
  after = values(nnx.state(model, nnx.Not(nnx.RngKey)))
  for one, other in zip(before, after, strict=True):
    np.testing.assert_array_equal(one, other)


def test_what_was_split_does_not_follow_the_model(batch):
  model = Model()
  bridge = bridges.nnx_loss(model, squared_error)
  first = bridge.loss_fn(bridge.params, batch, KEYS[0], bridge.model_state)[0]
  model.head.kernel[...] *= 2.0
  model(batch['x'])
  model.eval()
  again = bridge.loss_fn(bridge.params, batch, KEYS[0], bridge.model_state)[0]
  assert first == again


def test_the_model_takes_back_what_was_trained_and_evaluates(batch):
  model = Model()
  bridge = bridges.nnx_loss(model, squared_error)
  params = jax.tree.map(lambda leaf: leaf + 1.0, bridge.params)
  _, state = bridge.loss_fn(params, batch, KEYS[0], bridge.model_state)
  nnx.update(model, params, state)
  model.eval()
  assert_close(nnx.state(model, nnx.BatchStat), state)
  assert_close(nnx.state(model, nnx.Param), params)
  np.testing.assert_array_equal(model(batch['x']), model(batch['x']))
  model.train()
  assert not np.allclose(model(batch['x']), model(batch['x']))


def test_keys_and_streams_have_masks_of_their_own():
  loss_fn, params, model_state = bridges.nnx_loss(Masks(), masks)
  batch = {'x': jnp.ones([1, 64])}
  drawn = [
    loss_fn(params, batch, key, model_state)[1][0]
    for key in (KEYS[0], KEYS[1], KEYS[0])
  ]
  (first, noise), (second, _), (again, _) = drawn
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, second)
  assert not np.array_equal(first, noise)


def test_an_array_of_streams_has_a_key_each():
  class Layers(nnx.Module):
    def __init__(self):
      streams = nnx.Rngs(0)
      self.scale = nnx.Param(jnp.ones([]))
      self.rngs = streams.default.split((2, 3))

    def __call__(self):
      split = jax.vmap(jax.vmap(jax.random.fold_in))
      key, count = self.rngs.key[...], self.rngs.count[...]
      return split(key, count)

  loss_fn, params, model_state = bridges.nnx_loss(
    Layers(), lambda model, batch: (jnp.sum(model.scale[...]), model())
  )
  _, (keys, _) = loss_fn(params, jnp.ones([1]), KEYS[0], model_state)
  assert keys.shape == (2, 3)
  assert len(np.unique(jax.random.key_data(keys).reshape(6, -1), axis=0)) == 6


def test_keys_of_any_implementation_serve():
  def mix(x):
    x = (x ^ (x >> 16)) * jnp.uint32(0x45D9F3B)
    return x ^ (x >> 16)

  def many(key, shape):
    places = jnp.arange(math.prod(shape), dtype=jnp.uint32).reshape(shape)
    return mix(places + mix(key[0]))

  implementation = extended_random.define_prng_impl(
    key_shape=(1,),
    seed=lambda seed: mix(seed.astype(jnp.uint32))[None],
    split=lambda key, shape: many(key, shape)[..., None],
    random_bits=lambda key, width, shape: many(key, shape),
    fold_in=lambda key, data: mix(key + mix(data + jnp.uint32(1))),
  )
  keys = jax.random.split(jax.random.key(3, impl=implementation), 4)
  loss_fn, params, model_state = bridges.nnx_loss(Masks(), masks)
  batch = {'x': jnp.ones([4, 64])}
  (_, (drawn, _)), _ = by_samples(loss_fn, params, model_state, batch, keys)
  rows = np.concatenate(drawn, axis=1).reshape(8, 64)
  assert len(np.unique(rows, axis=0)) == 8


def test_streams_of_the_model_serve_modules_that_are_given_theirs(batch):
  class Given(nnx.Module):
    def __init__(self):
      self.dense = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
      self.drop = nnx.Dropout(0.5)
      self.rngs = nnx.Rngs(dropout=0)

    def __call__(self, x):
      return self.dense(self.drop(x, rngs=self.rngs))

  assert_stochastic(Given(), batch['x'])


def test_low_rank_adapters_train_beside_frozen_parameters(batch):
  rngs = nnx.Rngs(0)
  model = nnx.LoRA(3, 2, 2, base_module=nnx.Linear(3, 2, rngs=rngs), rngs=rngs)
  model.lora_b[...] = jnp.ones([2, 2])
  loss_fn, params, model_state = bridges.nnx_loss(
    model, squared_error, wrt=nnx.LoRAParam
  )
  assert {
    path[0].key for path, _ in jax.tree_util.tree_leaves_with_path(params)
  } == {'lora_a', 'lora_b'}
  gradient = jax.grad(loss_fn, has_aux=True)(
    params, batch, KEYS[0], model_state
  )[0]
  expected = nnx.grad(squared_error, argnums=nnx.DiffState(0, nnx.LoRAParam))(
    model, batch
  )
  assert_close(gradient, expected)


@pytest.mark.parametrize(
  'wrt',
  [
    nnx.All(nnx.Param, nnx.PathContains('head')),
    lambda path, value: 'head' in path,
    nnx.Not(
      nnx.Any(
        nnx.BatchStat, nnx.PathContains('inside'), nnx.PathContains('norm')
      )
    ),
  ],
)
def test_frozen_tensors_come_back_as_they_are(wrt, batch):
  loss_fn, params, model_state = bridges.nnx_loss(
    Model(), squared_error, wrt=wrt
  )
  assert set(params) == {'head'}
  assert set(model_state) == {'inside', 'norm'}
  seen = []

  def of_sample(params, example, key, model_state):
    (_, after), _ = jax.value_and_grad(loss_fn, has_aux=True)(
      params, jax.tree.map(lambda leaf: leaf[None], example), key, model_state
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(after):
      before = dict(jax.tree_util.tree_leaves_with_path(model_state))[path]
      seen.append((isinstance(leaf, jax.core.Tracer), leaf is before))
    return after

  jax.jit(jax.vmap(of_sample, in_axes=(None, 0, 0, None)))(
    params, batch, KEYS, model_state
  )
  # The kernel and bias inside, then of the norm: bias, mean, scale, variance.
  assert seen == [
    (True, same) for same in (True, True, True, False, True, False)
  ]


def test_everything_can_be_trained(batch):
  _, params, model_state = bridges.nnx_loss(
    nnx.Linear(3, 2, rngs=nnx.Rngs(0)), squared_error, wrt=...
  )
  assert set(params) == {'kernel', 'bias'}
  assert not jax.tree.leaves(model_state)


def test_shared_parameters_stay_shared(batch):
  class Tied(nnx.Module):
    def __init__(self):
      self.a = nnx.Linear(3, 3, rngs=nnx.Rngs(0))
      self.b = self.a

    def __call__(self, x):
      return self.b(jnp.tanh(self.a(x)))

  model = Tied()
  loss_fn, params, model_state = bridges.nnx_loss(model, mean_square)
  assert set(params) == {'a'}
  gradient = jax.grad(loss_fn, has_aux=True)(
    params, batch, KEYS[0], model_state
  )[0]
  assert_close(gradient, nnx.grad(mean_square)(model, batch))


def test_attention_drops():
  model = nnx.MultiHeadAttention(
    num_heads=2,
    in_features=4,
    qkv_features=4,
    dropout_rate=0.5,
    decode=False,
    deterministic=False,
    rngs=nnx.Rngs(0),
  )
  assert_stochastic(model, jax.random.normal(KEYS[0], [5, 4]))


@pytest.mark.slow
def test_recurrent_dropout_drops():
  class Cell(nnx.GRUCell):
    def __init__(self, rngs):
      super().__init__(3, 4, rngs=rngs)
      self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, carry, inputs):
      carry, _ = super().__call__(self.drop(carry), inputs)
      return carry, carry

  model = nnx.RNN(Cell(nnx.Rngs(0)), rngs=nnx.Rngs(0))
  assert_stochastic(model, jax.random.normal(KEYS[0], [5, 3]))


def test_a_variable_made_in_the_loss_is_not_kept(batch):
  class Keeping(nnx.Module):
    def __init__(self):
      self.dense = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
      self.calls = nnx.Variable(jnp.zeros([], jnp.int32))

    def __call__(self, x):
      self.calls[...] += 1
      x = self.dense(x)
      self.features = nnx.Intermediate(x)
      return x

  loss_fn, params, model_state = bridges.nnx_loss(Keeping(), mean_square)
  for calls in (1, 2):
    _, model_state = jax.jit(loss_fn)(params, batch, KEYS[0], model_state)
    assert set(model_state) == {'calls'}
    assert model_state['calls'][...] == calls


def test_an_aux_goes_beside_the_state_and_a_weighted_loss_is_no_pair(batch):
  def with_aux(model, batch):
    return mean_square(model, batch), {'n': len(batch['x'])}

  def weighted(model, batch):
    return adaopt.WeightedLoss(mean_square(model, batch), jnp.ones([]))

  model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
  expected = mean_square(model, batch)
  for loss, aux in ((with_aux, {'n': 4}), (weighted, None)):
    loss_fn, params, state = bridges.nnx_loss(model, loss)
    value, rest = loss_fn(params, batch, key=KEYS[0], model_state=state)
    if aux:
      assert rest[0] == aux
      assert jax.tree.structure(rest[1]) == jax.tree.structure(state)
    else:
      assert isinstance(value, adaopt.WeightedLoss)
      value = value.total
      assert jax.tree.structure(rest) == jax.tree.structure(state)
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_a_loss_fn_keys_a_cache(batch):
  loss_fn, params, model_state = bridges.nnx_loss(Model(), squared_error)
  assert hash(loss_fn) == hash(loss_fn)
  step = jax.jit(lambda fn, *args: fn(*args)[1], static_argnums=0)
  for key in KEYS:
    model_state = step(loss_fn, params, batch, key, model_state)
  assert step._cache_size() == 1


class Odd(nnx.Module):
  def __init__(self, **metadata):
    self.scale = nnx.Param(jnp.ones([]), **metadata)

  def __call__(self, x):
    return self.scale * x


def test_a_model_that_does_not_fit_is_met_with_a_sentence(batch):
  with pytest.raises(ValueError, match=r'LoRAParam.*BatchStat, Param; name'):
    bridges.nnx_loss(Model(), mean_square, wrt=nnx.LoRAParam)
  with pytest.raises(ValueError, match='holds none'):
    bridges.nnx_loss(nnx.Dropout(0.5), mean_square)
  for metadata in ({'ref': True}, {'hijax': True}):
    with pytest.raises(
      ValueError, match=r"params\['scale'\].*must hold arrays"
    ):
      bridges.nnx_loss(Odd(**metadata), mean_square)
  model = Odd()
  model.name = nnx.data('a name')
  with pytest.raises(ValueError, match=r"model_state\['name'\] is of type str"):
    bridges.nnx_loss(model, mean_square)
  with pytest.raises(ValueError, match='loss must be a function'):
    bridges.nnx_loss(model, 1.0)


def test_a_loss_that_does_not_fit_is_met_with_a_sentence(batch):
  def removes(model, batch):
    loss = mean_square(model, batch)
    del model.norm.mean
    return loss

  for loss, sentence in (
    (removes, r"removed \['norm'\]\['mean'\]"),
    (lambda model, batch: (0.0, 0.0, 0.0), 'a tuple of 3'),
  ):
    loss_fn, params, state = bridges.nnx_loss(Model(), loss)
    with pytest.raises(ValueError, match=sentence):
      loss_fn(params, batch, KEYS[0], state)
