"""If these fail, noise is measured of what stays, or not of what moves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adaopt
from adaopt.statistics import trained

PARAMS = {
  'w': jnp.ones([3, 2]),
  's': jnp.ones([]),
  'h': jnp.ones(2, jnp.bfloat16),
  'c': jnp.ones(2, jnp.complex64),
}
FROZEN = {'w': False, 's': True, 'h': True, 'c': True}
MOVED = {name: not frozen for name, frozen in FROZEN.items()}
LABELS = jax.tree.map(lambda x: 'frozen' if x else 'trained', FROZEN)
ALL = dict.fromkeys(PARAMS, True)
NONE = dict.fromkeys(PARAMS, False)

ZERO = optax.set_to_zero()
FREEZE = optax.masked(ZERO, FROZEN)
SIZES = dict(init_batch_size=8, max_batch_size=64)


def _partition(trained):
  return optax.partition({'trained': trained, 'frozen': ZERO}, LABELS)


def _conditional(updates, state, params=None):
  del params
  half = lambda u: jax.tree.map(lambda x: x / 2, u)
  return jax.lax.cond(state > 3, half, lambda u: u, updates), state + 1


def _in_a_loop(updates, state, params=None):
  del params
  halve = lambda _, u: jax.tree.map(lambda x: x * 0.5, u)
  updates = jax.lax.fori_loop(0, state, halve, updates)
  updates, _ = jax.lax.scan(lambda u, _: (halve(0, u), None), updates, length=3)
  return jax.lax.while_loop(
    lambda u: jnp.sum(u['w']) > 1, lambda u: halve(0, u), updates
  ), state + 1


def _stateless(function):
  return optax.stateless(lambda updates, params: function(updates))


@jax.custom_jvp
def _identity(x):
  return x


_identity.defjvp(lambda primals, tangents: (primals[0], tangents[0]))


def _each(function):
  return _stateless(lambda updates: jax.tree.map(function, updates))


KEEPERS = {
  'learning rate': optax.scale_by_learning_rate(0.1),
  'schedule': optax.scale_by_schedule(optax.cosine_decay_schedule(0.1, 10)),
  'negated': _each(jnp.negative),
  'cast': _each(lambda u: (2 * u.astype(jnp.complex64)).astype(jnp.complex64)),
  'clip by norm': optax.clip_by_global_norm(1.0),
  'clip by block': optax.clip_by_block_rms(1.0),
  'trust ratio': optax.scale_by_trust_ratio(),
  'rate by batch size': adaopt.scale_by_batch_size(0.5),
  'jit': _stateless(jax.jit(lambda u: jax.tree.map(lambda x: 3 * x, u))),
  'checkpoint': _stateless(jax.checkpoint(lambda u: jax.tree.map(jnp.tanh, u))),
  'cond': optax.GradientTransformation(lambda p: jnp.int32(0), _conditional),
  'loops': optax.GradientTransformation(lambda p: jnp.int32(0), _in_a_loop),
  'if finite': optax.apply_if_finite(optax.scale(0.1), 3),
  'conditionally': optax.conditionally_transform(
    optax.scale(0.1), lambda step: step > 3
  ),
  'select': _each(lambda u: jnp.where(jnp.sum(jnp.abs(u)) > 3, 2 * u, 0)),
  'custom_jvp': _each(_identity),
  'shapes': _each(
    lambda u: jnp.flip(
      jnp.concatenate([u.ravel(), u.ravel()])[: u.size].reshape(u.shape)
    )
  ),
  'product': _each(
    lambda u: jnp.reshape(
      jnp.ravel(u) @ jnp.ones([u.size, u.size], u.dtype), u.shape
    )
  ),
  'freeze': optax.transforms.freeze(FROZEN),
}

CASES = {
  'zero': (ZERO, NONE),
  'sgd': (optax.sgd(0.1), ALL),
  'adamw': (optax.adamw(0.1), ALL),
  'partition': (_partition(optax.adam(0.1)), MOVED),
  'partition, momentum': (_partition(optax.sgd(0.1, momentum=0.9)), MOVED),
  'partition, decayed': (_partition(optax.adamw(0.1)), MOVED),
  'partition, scaled': (
    optax.chain(_partition(optax.adam(1.0)), optax.scale_by_learning_rate(0.1)),
    MOVED,
  ),
  'partition, injected': (
    optax.inject_hyperparams(lambda rate: _partition(optax.adam(rate)))(0.1),
    MOVED,
  ),
  'partition, every other': (
    _partition(optax.chain(optax.sgd(0.1), optax.apply_every(2))),
    MOVED,
  ),
  'selective': (
    optax.transforms.selective_transform(optax.adam(0.1), freeze_mask=FROZEN),
    MOVED,
  ),
  'all frozen': (optax.transforms.freeze(True), NONE),
  'frozen last': (optax.chain(optax.adamw(0.1), FREEZE), MOVED),
  'named': (optax.named_chain(('a', optax.adam(0.1)), ('b', FREEZE)), MOVED),
  'every other, frozen': (optax.chain(optax.apply_every(2), FREEZE), MOVED),
  # A mask leaves what it leaves out as it is, a gradient.
  'masked': (optax.masked(optax.adam(0.1), MOVED), ALL),
  # A memory might hold anything.
  'frozen, momentum': (optax.chain(ZERO, optax.trace(0.9)), ALL),
  'frozen, every other': (optax.chain(ZERO, optax.apply_every(2)), ALL),
  'frozen, decayed': (
    optax.chain(FREEZE, optax.add_decayed_weights(0.1)),
    ALL,
  ),
  'frozen, decayed by a mask': (
    optax.chain(ZERO, optax.add_decayed_weights(0.1, MOVED)),
    MOVED,
  ),
  'frozen, masked': (
    optax.chain(ZERO, optax.masked(optax.adam(0.1), MOVED)),
    MOVED,
  ),
  'frozen, shifted': (optax.chain(ZERO, _each(lambda u: u + 1)), ALL),
  'frozen, cosine': (optax.chain(ZERO, _each(jnp.cos)), ALL),
  'frozen, power': (optax.chain(ZERO, _each(lambda u: u**0)), ALL),
  'frozen in one branch': (
    _stateless(
      lambda u: jax.lax.cond(
        jnp.sum(u['w']) > 0,
        lambda u: {**u, 's': 0 * u['s'], 'h': 0 * u['h']},
        lambda u: {**u, 's': 0 * u['s']},
        u,
      )
    ),
    {'w': True, 's': False, 'h': True, 'c': True},
  ),
  'a loop that moves': (
    optax.chain(
      ZERO,
      _stateless(
        lambda u: jax.lax.fori_loop(
          0, 3, lambda _, u: {**u, 'w': u['w'] + 1, 's': u['w'][0, 0]}, u
        )
      ),
    ),
    {'w': True, 's': True, 'h': False, 'c': False},
  ),
  'multi_transform, adaptive': (
    adaopt.adaptive(
      optax.multi_transform(
        {'trained': optax.adamw(1.0), 'frozen': ZERO}, LABELS
      ),
      optax.linear_schedule(0.1, 0.0, 1000),
      **SIZES,
    ),
    MOVED,
  ),
  'chain, adapted': (
    optax.chain(
      adaopt.adapt_batch_size(adaopt.norm_test(0.5), **SIZES),
      optax.adamw(0.1),
      FREEZE,
    ),
    MOVED,
  ),
}


def _arguments(optimizer, params=PARAMS):
  def update(gradient, state, params):
    statistics = adaopt.GradientStatistics(
      jnp.int32(8),
      gradient,
      jax.tree.map(lambda g: jnp.ones([]), gradient),
    )
    return optimizer.update(gradient, state, params, statistics=statistics)[0]

  optimizer = optax.with_extra_args_support(optimizer)
  return update, (params, optimizer.init(params), params)


def _random(tree):
  """Finite numbers other than zero, of the same types."""
  rng = np.random.default_rng(0)

  def draw(x):
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.inexact):
      return x + 1 if x.dtype != bool else x
    return jnp.asarray(rng.uniform(0.5, 1.5, x.shape), x.dtype)

  return jax.tree.map(draw, tree)


@pytest.mark.slow
@pytest.mark.parametrize(('optimizer', 'moved'), CASES.values(), ids=CASES)
def test_what_is_set_to_zero_is_not_trained(optimizer, moved):
  update, arguments = _arguments(optimizer)
  assert trained.trained_tensors(update, *arguments) == moved
  shapes = jax.eval_shape(lambda: arguments)
  assert trained.trained_tensors(update, *shapes) == moved
  assert trained.trained_tensors(jax.jit(update), *shapes) == moved
  updates = update(*_random(arguments))
  for name, is_moved in moved.items():
    assert is_moved or not jnp.any(updates[name])


@pytest.mark.slow
@pytest.mark.parametrize('keeper', KEEPERS.values(), ids=KEEPERS)
@pytest.mark.parametrize(
  ('first', 'moved'), [(ZERO, NONE), (FREEZE, MOVED)], ids=['all', 'some']
)
def test_a_zero_stays_one(keeper, first, moved):
  optimizer = optax.chain(adaopt.schedule_batch_size(8), first, keeper)
  update, arguments = _arguments(optimizer)
  assert trained.trained_tensors(update, *arguments) == moved
  updates = update(*_random(arguments))
  for name, is_moved in moved.items():
    assert is_moved or not jnp.any(updates[name])


REAL = {'w': jnp.ones([3, 2]), 's': jnp.ones([])}


@pytest.mark.parametrize(
  'optimizer',
  [
    optax.MultiSteps(
      optax.partition(
        {'trained': optax.adam(0.1), 'frozen': ZERO},
        {'w': 'trained', 's': 'frozen'},
      ),
      every_k_schedule=2,
    ).gradient_transformation(),
    optax.chain(
      optax.transforms.freeze({'w': False, 's': True}), optax.clip(1.0)
    ),
    optax.chain(
      optax.transforms.freeze({'w': False, 's': True}),
      optax.adaptive_grad_clip(0.1),
    ),
    optax.chain(
      optax.contrib.muon(0.1, adam_weight_decay=0.1),
      optax.transforms.freeze({'w': False, 's': True}),
    ),
  ],
  ids=['multi_steps', 'clip', 'adaptive_grad_clip', 'muon'],
)
def test_transforms_of_real_gradients(optimizer):
  update, arguments = _arguments(optimizer, REAL)
  found = trained.trained_tensors(update, *arguments)
  assert found == {'w': True, 's': False}


FUNCTIONS = {
  'a clip': (lambda z, x: jnp.clip(z, -1, 1), False),
  'a clamp': (lambda z, x: jax.lax.clamp(-1.0, z, 1.0), False),
  'a bound below': (lambda z, x: jnp.maximum(z, -1), False),
  'a bound above': (lambda z, x: -jnp.maximum(-z, -jnp.ones(3)), False),
  'a positive bound': (lambda z, x: jnp.clip(z, 0.5, 1), True),
  'a negative bound': (lambda z, x: jnp.minimum(z, -1), True),
  'a bound of unsigned integers': (
    lambda z, x: jnp.maximum(
      z.astype(jnp.uint32), jnp.array([-1.0]).astype(jnp.uint32)
    ),
    True,
  ),
  'an unknown bound': (lambda z, x: jnp.minimum(z, x), True),
  'a difference': (lambda z, x: z - 0 * x, False),
  'a quotient': (lambda z, x: z / x, False),
  'its inverse': (lambda z, x: x / (1 + z), True),
  'a square': (lambda z, x: z**2 + jnp.abs(z), False),
  'a power': (lambda z, x: z**x, True),
  'complex': (lambda z, x: jnp.real(jax.lax.complex(z, z)), False),
  'a mask of numpy': (lambda z, x: x * np.zeros(3, bool), False),
  'a scale of numpy': (lambda z, x: x * np.array([0.0, 0.0, 1.0]), True),
  'a sum': (lambda z, x: jnp.sum(z) + jnp.cumsum(z), False),
  'a slice': (
    lambda z, x: jax.lax.dynamic_slice(z, [jnp.int32(x[0])], [2]),
    False,
  ),
  'an update': (lambda z, x: z.at[0].set(0.0), True),  # a scatter: no rule
  'a sort': (lambda z, x: jnp.sort(z), True),  # no rule
  'a callback': (
    lambda z, x: jax.pure_callback(np.asarray, z, z, vmap_method='sequential'),
    True,
  ),
  'random numbers': (
    lambda z, x: z + jax.random.normal(jax.random.key(0), [3]),
    True,
  ),
  'a key kept': (
    lambda z, x, key=jax.random.key(0): z + 0 * jax.random.normal(key, [3]),
    False,
  ),
  'parts': (lambda z, x: jnp.split(jnp.pad(z, 1), 5), [False] * 5),
  'a barrier': (
    lambda z, x: jax.lax.optimization_barrier((z, x)),
    (False, True),
  ),
  'a constant': (lambda z, x: jnp.zeros(3), False),
  'a carry that learns': (
    # It is zero for two steps.
    lambda z, x: jax.lax.fori_loop(
      0, 5, lambda _, c: (c[1], c[2], x), (z, z, z)
    ),
    (True, True, True),
  ),
  'what a scan stacks': (
    lambda z, x: jax.lax.scan(lambda c, y: (c, (c * y, y)), z, x),
    (False, (False, True)),
  ),
  'nothing': (lambda z, x: (), ()),
}


@pytest.mark.parametrize(
  ('function', 'moved'), FUNCTIONS.values(), ids=FUNCTIONS
)
def test_zeros_are_followed_through_a_program(function, moved):
  update = lambda x: function(0 * x, x)
  shape = jax.ShapeDtypeStruct((3,), jnp.float32)
  assert trained.trained_tensors(update, shape) == moved
  assert trained.trained_tensors(jax.jit(update), shape) == moved


def test_it_can_be_asked_while_tracing():
  found = []

  @jax.jit
  def step(scale, x):
    update = lambda x: {'a': scale * x, 'b': jnp.zeros(3) * scale}
    found.append(trained.trained_tensors(update, jax.typeof(x)))
    return update(x)

  step(0.0, jnp.ones(3))
  assert found == [{'a': True, 'b': False}]


def test_the_structure_is_that_of_the_updates():
  assert trained.trained_tensors(lambda x: x, jnp.ones(3)) is True
  tree = {'a': None, 'b': (optax.MaskedNode(), 1.0)}
  found = trained.trained_tensors(lambda tree: tree, tree)
  assert found == {'a': None, 'b': (optax.MaskedNode(), True)}
