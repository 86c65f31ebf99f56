"""The same networks in PyTorch, and their training loop."""

import functools
import itertools
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

CHUNK = 1000
"""Examples evaluated at once."""


class Residual(nn.Module):
  """Two 3×3 convolutions with a shortcut."""

  def __init__(self, inputs: int, features: int, stride: int = 1):
    super().__init__()
    conv = functools.partial(nn.Conv2d, bias=False)
    norm = functools.partial(nn.GroupNorm, 8, features)
    self.body = nn.Sequential(
      conv(inputs, features, 3, stride, 1),
      norm(),
      nn.ReLU(),
      conv(features, features, 3, 1, 1),
      norm(),
    )
    self.shortcut = nn.Identity()
    if inputs != features:
      self.shortcut = nn.Sequential(conv(inputs, features, 1, stride), norm())

  def forward(self, x):
    return functional.relu(self.shortcut(x) + self.body(x))


class Block(nn.Module):
  """Causal self-attention and an MLP, each after a LayerNorm."""

  def __init__(self, width: int, heads: int):
    super().__init__()
    self.heads = heads
    self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
    self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
    self.hidden = nn.Linear(width, 4 * width)
    self.back = nn.Linear(4 * width, width)

  def forward(self, x):
    split = (*x.shape[:2], 3, self.heads, -1)
    q, k, v = self.qkv(self.norms[0](x)).reshape(split).permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    later = torch.triu(torch.ones(x.shape[1], x.shape[1], dtype=torch.bool), 1)
    weights = scores.masked_fill(later, float('-inf')).softmax(-1)
    x = x + self.out((weights @ v).transpose(1, 2).flatten(2))
    hidden = functional.gelu(self.hidden(self.norms[1](x)), approximate='tanh')
    return x + self.back(hidden)


class Transformer(nn.Module):
  """A pre-norm language model with tied input and output embeddings."""

  def __init__(self):
    super().__init__()
    self.embed, self.positions = nn.Embedding(65, 256), nn.Embedding(128, 256)
    self.blocks = nn.Sequential(*[Block(256, 4) for _ in range(4)])
    self.norm = nn.LayerNorm(256)

  def forward(self, tokens):
    x = self.embed(tokens) + self.positions(torch.arange(tokens.shape[1]))
    x = self.norm(self.blocks(x))
    return functional.linear(x, self.embed.weight).transpose(1, 2)


class LSTM(nn.Module):
  """A recurrent language model."""

  def __init__(self):
    super().__init__()
    self.embed = nn.Embedding(65, 256)
    self.layers = nn.LSTM(256, 256, 2, batch_first=True)
    self.out = nn.Linear(256, 65)

  def forward(self, tokens):
    return self.out(self.layers(self.embed(tokens))[0]).transpose(1, 2)


def dense(*widths: int) -> list[nn.Module]:
  """Dense layers of flattened inputs, with ReLU between them."""
  layers = [nn.Flatten()]
  for pair in itertools.pairwise(widths):
    layers += [nn.Linear(*pair), nn.ReLU()]
  return layers[:-1]


def convolutions(*features: int) -> list[nn.Module]:
  """5×5 convolutions of 28×28 pixels, each with ReLU and pooling."""
  layers = [nn.Unflatten(1, (1, 28))]
  for pair in itertools.pairwise((1, *features)):
    layers += [nn.Conv2d(*pair, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
  return layers


def residuals() -> list[nn.Module]:
  """ResNet-18 for small images: no pooling in the stem."""
  layers = [
    nn.Conv2d(3, 64, 3, 1, 1, bias=False),
    nn.GroupNorm(8, 64),
    nn.ReLU(),
  ]
  for inputs, features in itertools.pairwise((64, 64, 128, 256, 512)):
    stride = 1 if inputs == features else 2
    layers += [Residual(inputs, features, stride), Residual(features, features)]
  return [*layers, nn.AdaptiveAvgPool2d(1), *dense(512, 10)]


MODELS = {
  'logistic': lambda: nn.Sequential(*dense(784, 10)),
  'mlp': lambda: nn.Sequential(*dense(784, 1024, 1024, 10)),
  'cnn': lambda: nn.Sequential(*convolutions(32, 64), *dense(3136, 512, 10)),
  'small_cnn': lambda: nn.Sequential(*convolutions(16, 32), *dense(1568, 10)),
  'resnet18': lambda: nn.Sequential(*residuals()),
  'transformer': Transformer,
  'lstm': LSTM,
}


def tensors(examples: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
  """Pixels in [0, 1] and labels."""
  x, y = (torch.from_numpy(np.array(examples[k])) for k in ('input', 'label'))
  return x.float() / 255, y.long()


def train(
  model: nn.Module,
  x: torch.Tensor,
  y: torch.Tensor,
  *,
  batch_size: int,
  num_steps: int,
  learning_rate: float,
) -> None:
  """AdaGrad with a constant batch size, reshuffled every epoch.

  An incomplete batch at the end of an epoch is dropped.
  """
  optimizer = torch.optim.Adagrad(model.parameters(), lr=learning_rate)

  def batches():
    while True:
      order = torch.randperm(len(x))
      yield from order.split(batch_size)[: len(x) // batch_size]

  for chosen in itertools.islice(batches(), num_steps):
    optimizer.zero_grad()
    functional.cross_entropy(model(x[chosen]), y[chosen]).backward()
    optimizer.step()


def loss_and_accuracy(
  model: nn.Module, x: torch.Tensor, y: torch.Tensor
) -> tuple[float, float]:
  """Mean cross-entropy and accuracy."""
  with torch.no_grad():
    logits = torch.cat([model(part) for part in x.split(CHUNK)])
  loss = functional.cross_entropy(logits, y).item()
  return loss, (logits.argmax(1) == y).float().mean().item()
