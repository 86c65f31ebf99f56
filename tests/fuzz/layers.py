"""The layers of random programs.

Each is (scope, h, **options) → h, of h [T, D] for one example. `scope.param`
reads parameters; where a slot and a shape come back, the parameter is shared.
"""

import jax
import jax.numpy as jnp

from tests.fuzz.functions import FUNCTIONS
from tests.fuzz.weights import BY_EXAMPLE, WEIGHTS


def of_slot(scope, h, slot):
  """param(*shape) → the parameter in the dtype of h."""
  return lambda *shape: scope.param(slot, shape).astype(h.dtype)


def weight(scope, h, slot, of, n, m):
  param = of_slot(scope, h, slot)
  if of in WEIGHTS:
    return WEIGHTS[of](param, n, m)
  example = scope.example | {'x': scope.example['x'].astype(h.dtype)}
  return BY_EXAMPLE[of](param, n, m, example)


def dense(scope, h, slot, of, width):
  return h @ weight(scope, h, slot, of, h.shape[1], width)


def dense_of_positions(scope, h, slot, of, width):
  """The positions are mixed, and the features left alone."""
  return weight(scope, h, slot, of, width, len(h)) @ h


def gated(scope, h, slot, of):
  return h * jnp.tanh(h @ weight(scope, h, slot, of, h.shape[1], h.shape[1]))


def low_precision_product(scope, h, slot, width):
  w = of_slot(scope, h, slot)(h.shape[1], width)
  dims = ((1,), (0,)), ((), ())
  wide = jnp.promote_types(h.dtype, jnp.float32)
  product = jax.lax.dot_general(h, w, dims, preferred_element_type=wide)
  return product.astype(h.dtype)


def own_matrices(scope, h, slot, width):
  """Every position has a matrix of its own."""
  w = of_slot(scope, h, slot)(len(h), h.shape[1], width)
  return jnp.einsum('td,tde->te', h, w)


def bilinear(scope, h, slot, width):
  w = of_slot(scope, h, slot)(h.shape[1], h.shape[1], width)
  return jnp.einsum('tc,td,cde->te', h, jnp.tanh(h), w) / 2


def outer(scope, h, slot):
  w = of_slot(scope, h, slot)(len(h), h.shape[1])
  return jnp.tanh(h @ w.T)


def conv1d(scope, h, slot, width, size, stride, dilation, padding):
  w = of_slot(scope, h, slot)(size, h.shape[1], width)
  return jax.lax.conv_general_dilated(
    h[None],
    w,
    (stride,),
    padding,
    lhs_dilation=(dilation,),
    dimension_numbers=('NWC', 'WIO', 'NWC'),
  )[0]


def depthwise(scope, h, slot, size, multiple):
  features = h.shape[1]
  w = of_slot(scope, h, slot)(size, 1, multiple * features)
  return jax.lax.conv_general_dilated(
    h[None],
    w,
    (1,),
    'SAME',
    dimension_numbers=('NWC', 'WIO', 'NWC'),
    feature_group_count=features,
  )[0]


def conv2d(scope, h, slot, size, width, padding):
  """An image of T × D pixels; its features become those of positions."""
  w = of_slot(scope, h, slot)(size, 2, 1, width)
  image = jnp.pad(h, ((1, 1), (1, 1)))[None, :, :, None]
  found = jax.lax.conv_general_dilated(
    image, w, (1, 1), padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )[0]
  return jnp.tanh(found).reshape(len(found), -1)


def conv_transposed(scope, h, slot, width, stride):
  w = of_slot(scope, h, slot)(2, h.shape[1], width)
  return jax.lax.conv_transpose(
    h[None], w, (stride,), 'SAME', dimension_numbers=('NWC', 'WIO', 'NWC')
  )[0]


def bias(scope, h, slot):
  return h + of_slot(scope, h, slot)(h.shape[1])[None]


def scale(scope, h, slot):
  return h * of_slot(scope, h, slot)(h.shape[1])[None]


def scalar(scope, h, slot):
  return of_slot(scope, h, slot)() * h


def positions(scope, h, slot):
  return h + of_slot(scope, h, slot)(9, h.shape[1])[: len(h)]


def layer_norm(scope, h, slot):
  h = h - jnp.mean(h, 1, keepdims=True)
  h = h / jnp.sqrt(jnp.mean(h**2, 1, keepdims=True) + 0.1)
  param = of_slot(scope, h, slot)
  return h * param(h.shape[1])[None] + param(1, h.shape[1])


def rms_norm(scope, h, slot):
  h = h / jnp.sqrt(jnp.mean(h**2, 1, keepdims=True) + 0.1)
  return h * (1 + of_slot(scope, h, slot)(h.shape[1])[None])


def attention(scope, h, slot, heads, width, causal):
  param = of_slot(scope, h, slot)
  q = jnp.einsum('td,dhc->htc', h, param(h.shape[1], heads, width))
  k, v = jnp.einsum('td,ndhc->nhtc', h, param(2, h.shape[1], heads, width))
  scores = jnp.einsum('htc,hsc->hts', q, k)
  if causal:
    mask = jnp.tril(jnp.ones(scores.shape, bool))
    scores = jnp.where(mask, scores, jnp.asarray(-30, h.dtype))
  mixed = jnp.einsum('hts,hsc->htc', jax.nn.softmax(scores), v)
  return jnp.einsum('htc,hcd->td', mixed, param(heads, width, h.shape[1]))


def lookup(scope, h, slot, rows, mode, keys):
  """Rows of a table, of which some keys may lie outside."""
  table = of_slot(scope, h, slot)(rows, h.shape[1])
  keys = jnp.resize(scope.example['token'], len(h)).astype(keys)
  taken = jnp.take(table, 2 * keys - 1, 0, mode=mode, fill_value=0)
  return h + taken


def tied(scope, h, slot, rows):
  """A table, looked up and multiplied with."""
  table = of_slot(scope, h, slot)(rows, h.shape[1])
  keys = jnp.resize(scope.example['token'], len(h)) % rows
  return (h + table[keys]) @ table.T


def one_hot(scope, h, slot, rows):
  table = of_slot(scope, h, slot)(rows, h.shape[1])
  keys = jnp.resize(scope.example['token'], len(h))
  return h + jax.nn.one_hot(keys, rows, dtype=h.dtype) @ table


def window(scope, h, slot):
  """Some rows of a table, from a place of the example's."""
  table = of_slot(scope, h, slot)(9 + len(h), h.shape[1])
  start = scope.example['token'][0]
  return h * jax.lax.dynamic_slice_in_dim(table, start, len(h))


def written(scope, h, slot):
  """A learned row, written where the example says."""
  row = of_slot(scope, h, slot)(1, h.shape[1])
  place = scope.example['token'][0] % len(h)
  return jax.lax.dynamic_update_slice(h, row, (place, 0))


def scattered(scope, h, slot, how):
  """Rows added up by token, onto a table."""
  table = of_slot(scope, h, slot)(5, h.shape[1])
  keys = jnp.resize(scope.example['token'], len(h)) % 5
  at = table.at[keys]
  return {'add': at.add, 'set': at.set, 'multiply': at.multiply}[how](h)


def segments(scope, h):
  keys = jnp.resize(scope.example['token'], len(h)) % 3
  return jax.ops.segment_sum(h, keys, 3)


def of_one_example(scope, h, slot):
  """A parameter that only the first example uses."""
  row = of_slot(scope, h, slot)(1, h.shape[1])
  return h + jnp.where(scope.example['first'], row, 0)


def dead(scope, h, slot, how):
  w = of_slot(scope, h, slot)(h.shape[1])
  if how == 'stopped':
    return h + jax.lax.stop_gradient(w)[None]
  return h + (0 * w if how == 'times zero' else 0 * jax.lax.floor(w))[None]


def penalty(scope, h, slot):
  """What no example changes."""
  return h + jnp.sum(jnp.tanh(of_slot(scope, h, slot)(h.shape[1], 3)) ** 2)


def masked(scope, h, slot):
  """A learned value in place of every second token's row."""
  keys = jnp.resize(scope.example['token'], len(h))
  return jnp.where((keys % 2 == 0)[:, None], of_slot(scope, h, slot)(), h)


def inputs_again(scope, h):
  x = scope.example['x'].astype(h.dtype)
  return jnp.concatenate([h, jnp.resize(x, (len(h), 2))], 1)


def dropout(scope, h):
  """By a key of the example's own."""
  key = jax.random.fold_in(jax.random.key(0), scope.example['token'][0])
  bits = jax.random.bits(
    key, h.shape, 'uint32'
  )  # the same with and without x64
  return jnp.where(bits % 4 > 0, h, 0)


def complex_product(scope, h, slot, width):
  """A product of complex numbers, of which the parameters are parts."""
  w, v = of_slot(scope, h, slot)(2, h.shape[1], width)
  z = (h + 1j * h[::-1]) @ (w + 1j * v)
  return jnp.tanh(z.real) + jnp.abs(z) ** 2 / 4


def counted_while(scope, h, slot):
  """A loop of unknown length, of which the derivative is not asked."""
  w = of_slot(scope, h, slot)(h.shape[1])
  start = jax.lax.stop_gradient(h)
  grown = jax.lax.while_loop(
    lambda y: jnp.sum(y**2) < 4, lambda y: y + 0.5, start
  )
  return h + jnp.tanh(grown) * w[None]


def function(scope, h, name):
  del scope
  return FUNCTIONS[name](h)


LAYERS = {
  layer.__name__: layer
  for layer in (
    attention,
    bias,
    bilinear,
    complex_product,
    conv1d,
    conv2d,
    conv_transposed,
    counted_while,
    dead,
    dense,
    dense_of_positions,
    depthwise,
    dropout,
    function,
    gated,
    inputs_again,
    layer_norm,
    lookup,
    low_precision_product,
    masked,
    of_one_example,
    one_hot,
    outer,
    own_matrices,
    penalty,
    positions,
    rms_norm,
    scalar,
    scale,
    scattered,
    segments,
    tied,
    window,
    written,
  )
}
