"""The same networks in PyTorch, with torch.func and BackPACK."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from backpack import backpack, extend
from backpack.extensions import BatchL2Grad
from torch import nn
from torch.nn import functional

from experiments.benchmarks import networks


class Residual(nn.Module):
  """Two 3×3 convolutions beside a shortcut."""

  def __init__(self, inputs: int, features: int, stride: int):
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
    same = inputs == features and stride == 1
    self.shortcut = (
      nn.Identity()
      if same
      else nn.Sequential(conv(inputs, features, 1, stride), norm())
    )

  def forward(self, x):
    return functional.relu(self.shortcut(x) + self.body(x))


class Block(nn.Module):
  """Causal self-attention and a perceptron, each after a LayerNorm."""

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
  """A pre-norm language model whose output weights are its embedding."""

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


def logistic() -> nn.Module:
  return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


def mlp() -> nn.Module:
  return nn.Sequential(
    nn.Flatten(),
    nn.Linear(784, 1024),
    nn.ReLU(),
    nn.Linear(1024, 1024),
    nn.ReLU(),
    nn.Linear(1024, 10),
  )


def cnn() -> nn.Module:
  return nn.Sequential(
    nn.Unflatten(1, (1, 28)),
    nn.Conv2d(1, 32, 5, padding=2),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Conv2d(32, 64, 5, padding=2),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Flatten(),
    nn.Linear(3136, 512),
    nn.ReLU(),
    nn.Linear(512, 10),
  )


def small_cnn() -> nn.Module:
  return nn.Sequential(
    nn.Unflatten(1, (1, 28)),
    nn.Conv2d(1, 16, 5, padding=2),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Conv2d(16, 32, 5, padding=2),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Flatten(),
    nn.Linear(1568, 10),
  )


def resnet18() -> nn.Module:
  stem = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.GroupNorm(8, 64), nn.ReLU()]
  blocks, inputs = [], 64
  for stage, features in enumerate((64, 128, 256, 512)):
    for block in range(2):
      stride = 2 if stage and not block else 1
      blocks.append(Residual(inputs, features, stride))
      inputs = features
  head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10)]
  return nn.Sequential(*stem, *blocks, *head)


MODELS = {
  'logistic': logistic,
  'mlp': mlp,
  'cnn': cnn,
  'resnet18': resnet18,
  'transformer': Transformer,
  'lstm': LSTM,
}
# torch.func cannot map over nn.LSTM; BackPACK knows neither GroupNorm nor
# attention.
FUNC = ('logistic', 'mlp', 'cnn', 'resnet18', 'transformer')
CHUNK = 4096
"""Examples whose gradients are made at once."""
BACKPACK = ('logistic', 'mlp', 'cnn')


def plain(model, x, y) -> Callable[[], Any]:
  """The gradient of the mean loss."""
  parameters = list(model.parameters())

  def run():
    loss = functional.cross_entropy(model(x), y)
    return [loss.item(), torch.autograd.grad(loss, parameters)]

  return run


def by_func(model, x, y) -> Callable[[], Any]:
  """Mean gradient and squared norms by torch.func's vmap(grad)."""
  parameters = {k: p.detach() for k, p in model.named_parameters()}

  def loss(parameters, x, y):
    outputs = torch.func.functional_call(model, parameters, (x[None],))
    return functional.cross_entropy(outputs, y[None])

  gradients = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))

  def run():
    each = gradients(parameters, x, y).values()
    norms = sum(g.flatten(1).square().sum(1) for g in each)
    return [norms.sum().item(), [g.mean(0) for g in each]]

  return run


def adaptive_step(
  model, images: np.ndarray, labels: np.ndarray
) -> Callable[[], Any]:
  """A step of AdaGrad and the norm test, from a gradient per example.

  One pass for the gradient, one of torch.func for the variance, `CHUNK`
  examples at a time.
  """
  optimizer = torch.optim.Adagrad(model.parameters(), lr=1e-4)
  x, y = torch.from_numpy(images).float() / 255, torch.from_numpy(labels).long()
  statistics = [
    by_func(model, *part)
    for part in zip(x.split(CHUNK), y.split(CHUNK), strict=True)
  ]

  def run():
    optimizer.zero_grad()
    functional.cross_entropy(model(x), y).backward()
    squares = sum(one()[0] for one in statistics)
    signal = sum(p.grad.square().sum().item() for p in model.parameters())
    required = (squares / len(x) - signal) / signal
    optimizer.step()
    return required

  return run


def by_backpack(model, x, y) -> Callable[[], Any]:
  """Gradient and squared norms by BackPACK."""
  model, criterion = extend(model), extend(nn.CrossEntropyLoss())

  def run():
    model.zero_grad()
    loss = criterion(model(x), y)
    with backpack(BatchL2Grad()):
      loss.backward()
    return sum(p.batch_l2.sum().item() for p in model.parameters())

  return run


def functions(
  name: str, network: networks.Network
) -> dict[str, Callable[[], Any]]:
  """What PyTorch and its libraries can do for a network."""
  x, y = (torch.from_numpy(np.array(a)) for a in networks.examples(network))
  x = x if network.image is None else x.float()
  if x.ndim == 4:
    x = x.permute(0, 3, 1, 2).contiguous()
  make = MODELS[name]
  args = x, y.long()
  found = {'torch plain gradient': plain(make(), *args)}
  if name in FUNC:
    found['torch.func'] = by_func(make(), *args)
  if name in BACKPACK:
    found['BackPACK'] = by_backpack(make(), *args)
  return found
