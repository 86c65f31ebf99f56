"""The networks on which the statistics are timed."""

from typing import Any, NamedTuple

import jax
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


def examples(network: Network) -> dict[str, jax.Array]:
  """Random inputs and labels, 'input' [b, ...] and 'label' [b] or [b, T]."""
  keys = jax.random.split(jax.random.key(0))
  if network.image:
    shape = (network.batch_size, *network.image)
    return {
      'input': jax.random.uniform(keys[0], shape),
      'label': jax.random.randint(keys[1], shape[:1], 0, 10),
    }
  shape = (network.batch_size, network.length + 1)
  tokens = jax.random.randint(keys[0], shape, 0, network.model.vocabulary)
  return {'input': tokens[:, :-1], 'label': tokens[:, 1:]}


def parameters(network: Network) -> Any:
  """Random parameters."""
  return network.model.init(jax.random.key(1), examples(network)['input'][:1])
