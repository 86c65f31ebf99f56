"""A transformer whose layers are scanned under remat, in bfloat16."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

import adaopt


class Block(nn.Module):
  """Causal self-attention and an MLP, each after a LayerNorm."""

  num_heads: int
  dropout: float
  dtype: Any
  train: bool

  @nn.compact
  def __call__(self, x, _):
    dense = lambda features: nn.Dense(features, dtype=self.dtype)
    norm = lambda: nn.LayerNorm(dtype=self.dtype)
    drop = nn.Dropout(self.dropout, deterministic=not self.train)
    attention = nn.MultiHeadDotProductAttention(
      self.num_heads, dtype=self.dtype, force_fp32_for_softmax=True
    )
    causal = nn.make_causal_mask(x[..., 0])
    x = x + drop(attention(norm()(x), mask=causal))
    hidden = nn.gelu(dense(4 * x.shape[-1])(norm()(x)))
    return x + drop(dense(x.shape[-1])(hidden)), None


class Transformer(nn.Module):
  """A pre-norm language model with tied embeddings; parameters in float32."""

  vocabulary: int
  length: int
  width: int
  num_layers: int
  num_heads: int
  dropout: float
  dtype: str

  @nn.compact
  def __call__(self, tokens, train=False):
    dtype = jnp.dtype(self.dtype)
    embed = nn.Embed(self.vocabulary, self.width, dtype=dtype)
    positions = nn.Embed(self.length, self.width, dtype=dtype)
    x = embed(tokens) + positions(jnp.arange(tokens.shape[-1]))[None]
    layers = nn.scan(
      nn.remat(Block, prevent_cse=False),
      variable_axes={'params': 0},
      split_rngs={'params': True, 'dropout': True},
      length=self.num_layers,
    )
    x, _ = layers(self.num_heads, self.dropout, dtype, train)(x, None)
    logits = embed.attend(nn.LayerNorm(dtype=dtype)(x))
    return logits.astype(jnp.float32)


def weighted_loss(
  logits: jax.Array, batch: dict[str, jax.Array]
) -> adaopt.WeightedLoss:
  """The mean loss of the tokens that are not padding, in nats."""
  losses = optax.softmax_cross_entropy_with_integer_labels(
    logits, batch['label']
  )
  weight = batch['weight']
  return adaopt.WeightedLoss(jnp.sum(weight * losses), jnp.sum(weight))
