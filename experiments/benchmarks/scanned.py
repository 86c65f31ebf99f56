"""A transformer whose layers are scanned under remat, on a mesh or on none."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P

Constrain = Callable[[jax.Array, tuple[str | None, ...]], jax.Array]
"""(activations, the mesh axis of each dimension) → the same, sharded so."""


class Size(NamedTuple):
  """The sizes of a transformer and of its batch."""

  layers: int
  width: int
  heads: int
  vocabulary: int
  length: int
  batch_size: int
  dtype: Any = jnp.float32


def shapes(size: Size) -> Any:
  """The parameters, as shapes in float32."""
  layers, width, _, vocabulary, *_ = size
  of = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
  return {
    'embedding': of(vocabulary, width),
    'layers': {
      'scales': of(layers, 2, width),
      'attend': of(layers, width, 3 * width),
      'project': of(layers, width, width),
      'up': of(layers, width, 4 * width),
      'down': of(layers, 4 * width, width),
    },
    'logits': of(width, vocabulary),
  }


def tokens(size: Size) -> jax.ShapeDtypeStruct:
  """The shape of a batch."""
  return jax.ShapeDtypeStruct((size.batch_size, size.length + 1), jnp.int32)


def normal(size: Size, key: jax.Array) -> Any:
  """Random parameters."""
  leaves, treedef = jax.tree.flatten(shapes(size))
  keys = jax.random.split(key, len(leaves))
  scale = size.width**-0.5
  return treedef.unflatten(
    scale * jax.random.normal(k, x.shape)
    for k, x in zip(keys, leaves, strict=True)
  )


REPLICATED = P()
FULLY_SHARDED = {
  'embedding': P(None, 'data'),
  'layers': {
    'scales': P(),
    'attend': P(None, 'data'),
    'project': P(None, 'data'),
    'up': P(None, 'data'),
    'down': P(None, None, 'data'),
  },
  'logits': P('data'),
}
TENSORS = {
  'embedding': P(),
  'layers': {
    'scales': P(),
    'attend': P(None, None, 'model'),
    'project': P(None, 'model'),
    'up': P(None, None, 'model'),
    'down': P(None, 'model'),
  },
  'logits': P(None, 'model'),
}


def _normalised(x, scale):
  x = x.astype(jnp.float32)
  return (
    x
    * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)
    * scale[None, None]
  )


def _layer(size, constrain, x, weights):
  heads, depth = size.heads, size.width // size.heads
  cast = lambda w: w.astype(size.dtype)
  features = cast(_normalised(x, weights['scales'][0]))
  mixed = (features @ cast(weights['attend'])).reshape(
    *x.shape[:2], 3, heads, -1
  )
  query, key, value = (
    constrain(mixed[:, :, i], ('data', None, 'model', None)) for i in range(3)
  )
  scores = jnp.einsum('bthd,bshd->bhts', query, key) / depth**0.5
  causal = jnp.tri(x.shape[1], dtype=bool)
  scores = jnp.where(causal[None, None], scores.astype(jnp.float32), -1e9)
  attended = jnp.einsum('bhts,bshd->bthd', cast(jax.nn.softmax(scores)), value)
  x = x + attended.reshape(x.shape) @ cast(weights['project'])
  x = constrain(x, ('data', None, None))
  features = cast(_normalised(x, weights['scales'][1]))
  hidden = jax.nn.gelu(features @ cast(weights['up']))
  hidden = constrain(hidden, ('data', None, 'model'))
  return constrain(x + hidden @ cast(weights['down']), ('data', None, None))


def loss_of(
  size: Size, constrain: Constrain = lambda x, _: x
) -> Callable[[Any, jax.Array], jax.Array]:
  """The mean cross-entropy, (params, tokens [b, T + 1]) → []."""

  def loss_fn(params, tokens):
    x = params['embedding'][tokens[:, :-1]].astype(size.dtype)
    x = constrain(x, ('data', None, None))
    layer = jax.checkpoint(functools.partial(_layer, size, constrain))
    step = lambda x, weights: (layer(x, weights), None)
    x, _ = jax.lax.scan(step, x, params['layers'])
    logits = x @ params['logits'].astype(size.dtype)
    logits = constrain(logits, ('data', None, 'model'))
    losses = optax.softmax_cross_entropy_with_integer_labels(
      logits.astype(jnp.float32), tokens[:, 1:]
    )
    return jnp.mean(losses)

  return loss_fn
