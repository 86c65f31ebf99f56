"""Models and functions whose per-example gradients take every rule."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn


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
  'embed wide': (nn.Embed(12, 15), 'tokens'),
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


def layers_of(params):
  return params['w'].reshape(2, 2, 4, 12)


def layer(h, w):
  return jnp.tanh(h[:, :4] @ w)


def over_layers(layer, h, w):
  return jax.lax.scan(lambda h, w: (layer(h, w), None), h, w)[0]


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
  'scan of scans over layers': lambda p, x: over_layers(
    lambda h, w: over_layers(layer, h, w), x[:, :12], layers_of(p)
  ),
  'layers scanned twice': lambda p, x: over_layers(
    layer, over_layers(layer, x[:, :12], layers_of(p)[0]), layers_of(p)[0]
  ),
  'scan over layers of which one part is unused': lambda p, x: over_layers(
    lambda h, w: layer(h, w[0]), x[:, :12], layers_of(p)
  ),
  'scan over layers with a factor each': lambda p, x: over_layers(
    lambda h, w: jnp.sin(h * w[0] + w[1]), x[:, :12], p['w'][:, :2]
  ),
  'scan over layers and a penalty on them': lambda p, x: (
    over_layers(layer, x[:, :12], layers_of(p)[1]) + jnp.sum(p['w'] ** 3)
  ),
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


def loss_of(apply):
  def loss(params, x):
    outputs = apply(params, x)
    targets = jnp.cos(jnp.arange(outputs.size)).reshape(outputs.shape)
    return jnp.mean(jnp.sin(outputs) * targets + outputs**2), jnp.sum(x)

  return loss
