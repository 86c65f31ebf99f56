"""The networks on which the statistics are timed."""

from typing import Any, NamedTuple

import jax
import optax
from flax import linen as nn

from adaopt.experiments import models


class Network(NamedTuple):
  """A model and the shapes of its training data."""

  model: nn.Module
  batch_size: int
  image: tuple[int, ...] | None  # of one example; None: tokens
  length: int = 0  # of a sequence of tokens


NETWORKS = {
  'logistic': Network(models.Logistic(), 4096, (28, 28)),
  'mlp': Network(models.MLP(widths=(1024, 1024)), 256, (28, 28)),
  'cnn': Network(models.CNN(features=(32, 64), widths=(512,)), 256, (28, 28)),
  'resnet18': Network(models.ResNet18(), 64, (32, 32, 3)),
  'transformer': Network(models.Transformer(), 32, None, 128),
  'lstm': Network(models.LSTM(), 64, None, 64),
}


def examples(network: Network) -> tuple[jax.Array, jax.Array]:
  """Random inputs and labels, (x [b, ...], y [b] or [b, T])."""
  keys = jax.random.split(jax.random.key(0))
  if network.image:
    shape = (network.batch_size, *network.image)
    labels = jax.random.randint(keys[1], shape[:1], 0, 10)
    return jax.random.uniform(keys[0], shape), labels
  shape = (network.batch_size, network.length + 1)
  tokens = jax.random.randint(keys[0], shape, 0, network.model.vocabulary)
  return tokens[:, :-1], tokens[:, 1:]


def loss_of(network: Network) -> Any:
  """The mean cross-entropy, (params, (x, y)) → []."""

  def loss_fn(params, batch):
    x, y = batch
    logits = network.model.apply(params, x)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    return losses.mean()

  return loss_fn
