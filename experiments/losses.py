"""Losses of the experiments, example by example, and their means."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

import adaopt

Loss = Callable[[jax.Array, dict[str, jax.Array]], tuple[jax.Array, jax.Array]]
"""(outputs of the model, batch) → losses and hits, each [n, ...]; the mean of
the losses is trained on, that of the hits is the accuracy."""


def cross_entropy(
  logits: jax.Array, batch: dict[str, jax.Array]
) -> tuple[jax.Array, jax.Array]:
  """−log softmax(logits)_label, and whether that logit is the largest."""
  losses = optax.softmax_cross_entropy_with_integer_labels(
    logits, batch['label']
  )
  return losses, jnp.argmax(logits, -1) == batch['label']


DEFAULT = 'cross_entropy'

LOSSES: dict[str, Loss] = {DEFAULT: cross_entropy}


def each(model: nn.Module) -> Callable[[Any, dict[str, jax.Array]], jax.Array]:
  """The cross-entropies of a model, (params, batch) → [n, ...]."""
  return lambda params, batch: cross_entropy(
    model.apply(params, batch['input']), batch
  )[0]


def mean(model: nn.Module) -> adaopt.LossFn:
  """The mean cross-entropy of a model."""
  return lambda params, batch: jnp.mean(each(model)(params, batch))


def weighted(model: nn.Module) -> adaopt.LossFn:
  """The mean of the cross-entropies by the weights of the batch."""

  def loss_fn(params, batch):
    weights = batch['weight']
    total = jnp.sum(weights * each(model)(params, batch))
    return adaopt.WeightedLoss(total, jnp.sum(weights))

  return loss_fn
