"""torch.func and BackPACK on the same networks in PyTorch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from backpack import backpack, extend
from backpack.extensions import BatchL2Grad
from torch import nn
from torch.nn import functional

from adaopt.experiments.benchmarks import networks, torch_networks

# torch.func cannot map over nn.LSTM; BackPACK supports neither GroupNorm nor
# attention.
FUNC = ('logistic', 'mlp', 'cnn', 'resnet18', 'transformer')
CHUNK = 4096
"""Examples whose gradients are computed at once."""
BACKPACK = ('logistic', 'mlp', 'cnn')


def plain(model, x, y) -> Callable[[], Any]:
  """The gradient of the mean loss."""
  parameters = list(model.parameters())

  def run():
    loss = functional.cross_entropy(model(x), y)
    return [loss.item(), torch.autograd.grad(loss, parameters)]

  return run


def by_func(model, x, y) -> Callable[[], Any]:
  """Mean gradient and squared norms from torch.func's vmap(grad)."""
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


def adaptive_step(model, examples: dict[str, Any]) -> Callable[[], Any]:
  """A step of AdaGrad and the norm test, from one gradient per example.

  One pass computes the gradient; another, by torch.func, computes the variance
  in chunks of `CHUNK` examples.
  """
  optimizer = torch.optim.Adagrad(model.parameters(), lr=1e-4)
  x, y = torch_networks.tensors(examples)
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
  """Gradient and squared norms from BackPACK."""
  model, criterion = extend(model), extend(nn.CrossEntropyLoss())

  def run():
    model.zero_grad()
    loss = criterion(model(x), y)
    with backpack(BatchL2Grad()):
      loss.backward()
    return sum(p.batch_l2.sum().item() for p in model.parameters())

  return run


def data(network: networks.Network) -> tuple[torch.Tensor, torch.Tensor]:
  """The same inputs and labels, channels first."""
  x, y = (
    torch.from_numpy(np.array(a)) for a in networks.examples(network).values()
  )
  x = x if network.image is None else x.float()
  if x.ndim == 4:
    x = x.permute(0, 3, 1, 2).contiguous()
  return x, y.long()


def functions(
  name: str, network: networks.Network
) -> dict[str, Callable[[], Any]]:
  """The functions of PyTorch and its libraries that support a network."""
  args = data(network)
  make = torch_networks.MODELS[name]
  found = {'torch plain gradient': plain(make(), *args)}
  if name in FUNC:
    found['torch.func'] = by_func(make(), *args)
  if name in BACKPACK:
    found['BackPACK'] = by_backpack(make(), *args)
  return found
