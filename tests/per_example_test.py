"""Contracted reductions against one gradient per example, `vmap(grad)`."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import adaopt
from adaopt import per_example
from adaopt.per_example import cut, inlining, loops, program, rules


class Tied(nn.Module):
  @nn.compact
  def __call__(self, tokens):
    embed = nn.Embed(7, 6)
    return embed.attend(nn.LayerNorm()(embed(tokens)))


class Shared(nn.Module):
  @nn.compact
  def __call__(self, x):
    layer = nn.Dense(6)
    return layer(nn.tanh(layer(x)))


class Attention(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.MultiHeadDotProductAttention(2)(nn.RMSNorm()(x))


class Positions(nn.Module):
  """A table looked up at places that no example changes."""

  @nn.compact
  def __call__(self, x):
    return jnp.tanh(x + nn.Embed(30, 6)(jnp.arange(x.shape[-2]))[None])


class Lookup(nn.Module):
  """A table read at keys of which some lie before it and some behind."""

  mode: str
  dtype: type = jnp.int32

  @nn.compact
  def __call__(self, tokens):
    table = self.param('table', nn.initializers.normal(1.0), (40, 2, 3))
    keys = (15 * tokens - 60).astype(self.dtype)
    return jnp.take(table, keys, 0, mode=self.mode, fill_value=0)


class Recurrent(nn.Module):
  cell: type

  @nn.compact
  def __call__(self, x):
    return nn.RNN(self.cell(4))(x)


class Layers(nn.Module):
  """Layers by scan, each under remat."""

  make_layer: Callable[[], nn.Module]

  @nn.compact
  def __call__(self, x):
    body = nn.remat(lambda _, c, __: (nn.tanh(self.make_layer()(c)), None))
    scanned = nn.scan(
      body, variable_axes={'params': 0}, split_rngs={'params': True}, length=3
    )
    return scanned(self, x, None)[0]


class Normalised(nn.Module):
  norm: nn.Module

  @nn.compact
  def __call__(self, x):
    return nn.Dense(3)(self.norm(nn.Dense(6)(x)))


IMAGES, SERIES, VOLUMES = (6, 6, 4), (5, 4), (3, 4, 3, 2)
CONVOLUTIONS = {
  'same': nn.Conv(6, (3, 3)),
  'wide': nn.Conv(6, (3, 5)),
  'valid and strided': nn.Conv(6, (3, 2), (2, 1), padding='VALID'),
  'few positions': nn.Conv(10, (3, 3), (2, 2)),
  'explicit padding': nn.Conv(6, (2, 4), padding=((0, 2), (1, 0))),
  'kernel dilation': nn.Conv(6, (2, 2), kernel_dilation=(2, 2)),
  'input dilation': nn.Conv(
    6, (3, 4), input_dilation=(2, 1), padding=((1, 2), (0, 1))
  ),
  'grouped': nn.Conv(6, (3, 3), feature_group_count=2),
  'depthwise': nn.Conv(4, (3, 3), feature_group_count=4),
  'transposed': nn.ConvTranspose(6, (3, 3), (2, 2)),
  'one by one': nn.Conv(6, (1, 1), (2, 2)),
  'circular': nn.Conv(6, (3, 3), padding='CIRCULAR'),
}
MODELS = {f'conv {k}': (m, IMAGES) for k, m in CONVOLUTIONS.items()} | {
  'conv 1d': (nn.Conv(3, (3,)), SERIES),
  'conv 3d': (nn.Conv(3, (2, 2, 2)), VOLUMES),
  'dense': (nn.Dense(3), (4,)),
  'dense without bias': (nn.Dense(3, use_bias=False), (4,)),
  'dense on short sequences': (nn.Dense(60), (2, 50)),
  'dense on long sequences': (nn.Dense(3), (9, 4)),
  'dense on grids': (nn.Dense(3), IMAGES),
  'dense general': (nn.DenseGeneral((2, 3), axis=(-2, -1)), (5, 4, 3)),
  'einsum': (nn.Einsum((4, 2, 3), 'btc,cde->btde'), SERIES),
  'attention': (Attention(), (*SERIES[:1], 6)),
  'used twice': (Shared(), (*SERIES[:1], 6)),
  'positions': (Positions(), (*SERIES[:1], 6)),
  'dense of several heads': (nn.Einsum((5, 4, 3), 'btc,tcd->btd'), SERIES),
  'dense of several heads on sequences': (
    nn.Einsum((6, 4, 3), 'bthc,hcd->bthd'),
    (9, 6, 4),
  ),
  'lstm': (Recurrent(nn.OptimizedLSTMCell), (9, 4)),
  'lstm on short sequences': (Recurrent(nn.OptimizedLSTMCell), (2, 4)),
  'simple cell': (Recurrent(nn.SimpleCell), (9, 4)),
  'gru': (Recurrent(nn.GRUCell), (9, 4)),
  'convolutional lstm': (
    nn.RNN(nn.ConvLSTMCell(3, (2, 2)), time_major=False),
    (4, *IMAGES),
  ),
  'scan over layers, remat': (Layers(lambda: nn.Dense(6)), (6,)),
  'scan over dense layers on sequences': (
    Layers(lambda: nn.Dense(6)),
    (12, 6),
  ),
  'scan over convolutions': (Layers(lambda: nn.Conv(4, (3, 3))), IMAGES),
  'scan over depthwise convolutions': (
    Layers(lambda: nn.Conv(4, (3, 3), feature_group_count=4)),
    IMAGES,
  ),
  'scan over recurrent layers': (
    Layers(lambda: nn.RNN(nn.OptimizedLSTMCell(4))),
    (9, 4),
  ),
  'layer norm': (Normalised(nn.LayerNorm()), SERIES),
  'group norm': (Normalised(nn.GroupNorm(2)), IMAGES),
  'instance norm': (Normalised(nn.InstanceNorm()), IMAGES),
  'embed': (nn.Embed(40, 5), 'tokens'),
  'embed few': (nn.Embed(7, 5), 'tokens'),
  'lookup clip': (Lookup('clip'), 'tokens'),
  'lookup fill': (Lookup('fill'), 'tokens'),
  'lookup wrap': (Lookup('wrap'), 'tokens'),
  'lookup of bytes': (Lookup('clip', jnp.uint8), 'tokens'),
  'tied embeddings': (Tied(), 'tokens'),
}


@jax.custom_vjp
def doubled(x):
  return 2 * x


doubled.defvjp(lambda x: (2 * x, None), lambda _, g: (2 * g,))


@jax.custom_jvp
def softly(x):
  return jnp.tanh(x)


softly.defjvp(lambda p, t: (jnp.tanh(*p), (1 - jnp.tanh(*p) ** 2) * t[0]))


def steps(p, x, init, add):
  """Σ over time in a carry, of which the weights are a constant."""

  def step(carry, row):
    carry = jnp.tanh(carry + row @ p['w'])
    return carry, carry + add(p)

  return jax.lax.scan(step, init, x)[1]


def standardised(w):
  return (w - w.mean()) / jnp.sqrt(w.var() + 1e-2)


@jax.custom_vjp
def signed(w):
  return w


signed.defvjp(lambda w: (w, w), lambda w, _: (jnp.sign(w),))


FUNCTIONS = {
  'custom_vjp': lambda p, x: doubled(x @ p['w']) + p['b'],
  'custom_jvp': lambda p, x: softly(x @ p['w']) + p['b'],
  'jit inside': lambda p, x: jax.jit(jnp.matmul)(x, p['w']) + p['b'],
  'cond': lambda p, x: jax.lax.cond(
    x[0, 0] > 0, lambda: x @ p['w'], lambda: 3 * x @ p['w'] ** 2
  ),
  'map': lambda p, x: jax.lax.map(lambda row: row @ p['w'], x) + p['b'],
  'while in forward only': lambda p, x: (
    jax.lax.fori_loop(0, 2, lambda _, y: y + 1, jax.lax.stop_gradient(x))
    @ p['w']
  ),
  'sliced weights': lambda p, x: jnp.concatenate(
    [x[:, 1:] @ p['w'][1:], x[:, :8] @ p['w'][4:12, ::-1]]
  ),
  'sliced product': lambda p, x: (x @ p['w'])[:, 1:] * p['b'],
  'masked weights': lambda p, x: x @ (p['w'] * jnp.tri(16, 12)) - p['b'],
  'standardised weights': lambda p, x: x @ standardised(p['w']),
  'weights of low rank': lambda p, x: x @ (p['w'] @ p['w'].T) * p['b'],
  'weights of their own power': lambda p, x: x @ p['w'] ** 2 + p['w'][:3],
  'weights by the example': lambda p, x: x @ (p['w'] * jnp.exp(x[0, 0])),
  'scan': lambda p, x: steps(p, x, jnp.zeros(12), lambda p: p['b']),
  'scan from the weights': lambda p, x: steps(p, x, p['w'][0], lambda p: 0),
  'scan with a penalty': lambda p, x: steps(
    p, x, jnp.zeros(12), lambda p: jnp.sum(p['w'] ** 2)
  ),
  'scan and outside': lambda p, x: (
    steps(p, x, x[0, :12], lambda p: p['b']) + x @ p['w']
  ),
  'scan in reverse': lambda p, x: jax.lax.scan(
    lambda c, row: (jnp.sin(c + row @ p['w']), row @ p['w']),
    jnp.zeros(12),
    x,
    reverse=True,
  )[1],
  'cond in scan': lambda p, x: jax.lax.scan(
    lambda c, row: (
      jax.lax.cond(row[0] > 0, lambda: row @ p['w'], lambda: c * p['b']),
      c,
    ),
    jnp.zeros(12),
    x,
  )[0],
  'sort': lambda p, x: jnp.sort(x @ jnp.sort(p['w'], 0), 0),
  'scan that adds to a learned state': lambda p, x: jnp.sin(
    jax.lax.scan(
      lambda h, row: (h + jnp.tanh(row @ p['w']),) * 2, p['w'][0], x
    )[1]
    @ p['w'].T
  ),
  'scan with a lookup': lambda p, x: jax.lax.scan(
    lambda h, row: (jnp.tanh(h + p['w'][jnp.int32(5 * row[0]) % 16]), h),
    jnp.zeros(12),
    x,
  )[0],
  'scan without steps': lambda p, x: (
    steps(p, x[:0], jnp.zeros(12), lambda p: p['b']).sum() + x @ p['w']
  ),
  'scan over masked layers': lambda p, x: jax.lax.scan(
    lambda h, scale: (jnp.tanh(h @ (scale * p['w'] @ p['w'].T)), h),
    x,
    jnp.linspace(0.1, 0.5, 3) * p['b'],
  )[0],
  'scan over layers of masked weights': lambda p, x: jax.lax.scan(
    lambda h, w: (jnp.tanh(h @ (w * jnp.tri(16))), None),
    x,
    jnp.stack([p['w'] @ p['w'].T, jnp.sin(p['w'] @ p['w'].T)]),
  )[0],
  'real weights of complex numbers': lambda p, x: jnp.abs(
    jnp.sin((x + 1j * x[::-1]) @ p['w'])
  ),
  'remat of a power': lambda p, x: jax.checkpoint(
    lambda w, x: jnp.tanh(x @ w**2)
  )(p['w'], x),
  'no rows': lambda p, x: jnp.sum(x[:0] @ p['w']) + x * p['b'],
  'linear attention': lambda p, x: jax.lax.scan(
    lambda s, row: (s + jnp.outer(row @ p['w'], row), s @ row @ p['w'].T),
    jnp.zeros([12, 16]),
    x,
  )[1],
  'gradient of the weights alone': lambda p, x: x @ signed(p['w']) - p['b'],
  'unused parameter': lambda p, x: x @ p['w'],
  'scalar times input': lambda p, x: p['b'] * x,
  'square': lambda p, x: x @ p['w'] @ p['w'].T @ p['w'] - p['b'],
  'two terms': lambda p, x: x @ p['w'] + jnp.sin(x) @ p['w'],
  'input independent': lambda p, x: x[:, :1] * jnp.ones([1, 16]) @ p['w'],
  'batched contraction': lambda p, x: jnp.einsum('tc,cd->ctd', x, p['w']),
  'max': lambda p, x: jnp.max(x @ p['w'], -1),
}


def normal(rng, shape, scale=1.0):
  return rng.normal(0, scale, shape).astype(np.float32)


def of_model(name):
  model, shape = MODELS[name]
  rng = np.random.default_rng(0)
  if shape == 'tokens':
    x = rng.integers(0, 7, (4, 5), np.int32)
  else:
    x = normal(rng, (4, *shape))
  shapes = jax.eval_shape(model.init, jax.random.key(0), x[:1])
  params = jax.tree.map(lambda p: normal(rng, p.shape, 0.3), shapes)
  return lambda params, x: model.apply(params, x[None]), params, x


def of_function(name):
  rng = np.random.default_rng(0)
  params = {'w': normal(rng, (16, 12), 0.25), 'b': np.float32(0.5)}
  return FUNCTIONS[name], params, normal(rng, (4, 3, 16))


CASES = {name: functools.partial(of_model, name) for name in MODELS} | {
  name: functools.partial(of_function, name) for name in FUNCTIONS
}
WEIGHTS = np.array([1.0, 0.5, 0.0, 2.0])


def loss_of(apply):
  def loss(params, x):
    outputs = apply(params, x)
    targets = jnp.cos(jnp.arange(outputs.size)).reshape(outputs.shape)
    return jnp.mean(jnp.sin(outputs) * targets + outputs**2), jnp.sum(x)

  return loss


def check(make, dtype, rtol):
  apply, params, x = make()
  cast = lambda a: a.astype(dtype) if a.dtype == np.float32 else a
  params, x = jax.tree.map(cast, (params, x))
  loss, weights = loss_of(apply), WEIGHTS.astype(dtype)
  directions = jax.tree.map(lambda p: np.cos(p + 0.3, dtype=dtype), params)

  @jax.jit
  def reduce(params, x, weights, directions):
    factored = per_example.factorise(loss, params, x, weights)
    return (
      (factored.values, factored.aux),
      *per_example.norms(factored),
      *per_example.squares(factored),
      per_example.products(factored, directions),
    )

  results, *trees, products = jax.device_get(
    reduce(params, x, weights, directions)
  )
  value_and_grad = jax.vmap(jax.value_and_grad(loss, has_aux=True), (None, 0))
  (values, aux), gradients = jax.device_get(jax.jit(value_and_grad)(params, x))
  np.testing.assert_allclose(results[0], values * WEIGHTS, rtol, rtol)
  np.testing.assert_allclose(results[1], aux, rtol, rtol)
  by_leaf = zip(*map(jax.tree.leaves, (gradients, *trees)), strict=True)
  whole = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(gradients)))
  for gradient, total, norm, total_again, square in by_leaf:
    g = np.asarray(gradient) * WEIGHTS.reshape(-1, *[1] * (gradient.ndim - 1))
    # A gradient that cancels, such as an attention key's bias, has no
    # precision of its own, hence the whole gradient as the scale.
    close = lambda a, b, scale: np.testing.assert_allclose(
      a, b, rtol, rtol * scale
    )
    close(total, g.sum(0), whole)
    close(total_again, g.sum(0), whole)
    close(norm, np.square(g).sum(tuple(range(1, g.ndim))), whole**2)
    close(square, np.square(g).sum(0), whole**2)
  expected = sum(
    np.reshape(g, (len(x), -1)) @ np.ravel(u) * WEIGHTS
    for g, u in zip(*map(jax.tree.leaves, (gradients, directions)), strict=True)
  )
  norm = np.sqrt(sum(np.sum(np.square(u)) for u in jax.tree.leaves(directions)))
  np.testing.assert_allclose(products, expected, rtol, rtol * whole * norm)


@pytest.mark.parametrize('name', CASES)
def test_reductions_equal_those_of_every_gradient(name):
  # A few hundred float32 operations in another order.
  check(CASES[name], jnp.float32, 1e-5)


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
    check(CASES[name], jnp.float64, 1e-11)


def rules_of(name):
  """The rule of every parameter, by its path."""
  apply, params, x = CASES[name]()
  loss = lambda params, x: loss_of(apply)(params, x)[0]
  leaves, treedef = jax.tree.flatten(params)
  gradient = jax.grad(lambda leaves, x: loss(treedef.unflatten(leaves), x))
  flat = inlining.flatten(jax.make_jaxpr(gradient)(leaves, x[0]))
  flat = loops.hoist(flat, range(len(leaves)))
  per_sample = program.dependents(flat.equations, flat.inputs[len(leaves) :])
  paths, _ = zip(*jax.tree_util.tree_leaves_with_path(params), strict=True)
  space = cut.weight_space(flat, [], per_sample)
  tails = [
    cut.find_tail(flat, output, per_sample, space) for output in flat.outputs
  ]
  return {
    jax.tree_util.keystr(path): tail and rules.choose(tail)
    for path, tail in zip(paths, tails, strict=True)
  }


@pytest.mark.parametrize(
  ('name', 'parameter', 'rule'),
  [
    ('dense', 'kernel', rules.OUTER),
    ('dense', 'bias', rules.DIRECT),
    ('jit inside', 'w', rules.GRAM),
    ('unused parameter', 'b', None),
    ('dense on short sequences', 'kernel', rules.GRAM),
    ('dense on long sequences', 'kernel', rules.SEQUENCE),
    ('lstm', 'kernel', rules.SEQUENCE),
    ('lstm on short sequences', 'kernel', rules.GRAM),
    ('gru', 'kernel', rules.SEQUENCE),
    ('scan over recurrent layers', 'kernel', rules.SEQUENCE),
    ('scan over convolutions', 'kernel', rules.CONVOLUTION),
    ('convolutional lstm', 'kernel', rules.CONVOLUTION),
    ('dense of several heads', 'kernel', rules.OUTER),
    ('dense of several heads on sequences', 'kernel', rules.SEQUENCE),
    ('map', 'w', rules.GRAM),
    ('scan', 'w', rules.GRAM),
    ('sliced product', 'w', rules.GRAM),
    ('scan over layers, remat', 'kernel', rules.OUTER),
    ('embed', 'embedding', rules.LOOKUP),
    ('positions', 'embedding', rules.LOOKUP),
    ('conv depthwise', 'kernel', rules.CONVOLUTION),
    ('conv grouped', 'kernel', rules.CONVOLUTION),
    ('conv same', 'kernel', rules.CONVOLUTION),
    ('conv transposed', 'kernel', rules.CONVOLUTION),
    ('used twice', 'kernel', rules.MATERIALISED),
    ('layer norm', 'scale', rules.DIRECT),
  ],
)
def test_layers_take_the_cheap_rule(name, parameter, rule):
  chosen = [r for path, r in rules_of(name).items() if parameter in path]
  assert rule in chosen


def test_an_mlp_holds_no_gradient_per_example():
  """The compiled program's memory stays that of a plain gradient."""
  model = nn.Sequential([nn.Dense(256), nn.relu, nn.Dense(256)])
  x = jnp.ones([128, 256])
  params = model.init(jax.random.key(0), x)
  loss = lambda params, x: jnp.mean(model.apply(params, x) ** 2)
  estimate = jax.jit(adaopt.value_and_statistics(loss))
  memory = lambda f: f.lower(params, x).compile().memory_analysis()
  ours = memory(estimate).temp_size_in_bytes
  plain = memory(jax.jit(jax.value_and_grad(loss))).temp_size_in_bytes
  per_example = 4 * 128 * 2 * 256 * 256
  assert ours < plain + per_example / 20
