"""Clipped sums of Opacus and BackPACK on the same networks in PyTorch."""

from collections.abc import Callable
from typing import Any

import torch
from backpack import backpack, extend
from backpack.extensions import BatchL2Grad
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import (
  DPLossFastGradientClipping,
)
from torch import nn
from torch.nn import functional

from experiments.benchmarks import clipping, networks, peers, torch_networks

# BackPACK supports neither GroupNorm nor attention; Opacus knows the layers of
# images.
NETWORKS = ('logistic', 'mlp', 'cnn')


class _Optimizer:
  """What Opacus reads of an optimizer between the two backward passes."""

  def __init__(self, parameters):
    self.parameters = parameters

  def zero_grad(self):
    for parameter in self.parameters:
      parameter.grad = None


def by_ghost_norms(model, x, y) -> Callable[[], Any]:
  """Opacus, two backward passes: norms, then the sum with weights."""
  clipped = GradSampleModuleFastGradientClipping(
    model, max_grad_norm=clipping.MAX_NORM, loss_reduction='mean'
  )
  criterion = DPLossFastGradientClipping(
    clipped,
    _Optimizer(list(model.parameters())),
    nn.CrossEntropyLoss(reduction='mean'),
  )

  def run():
    criterion(clipped(x), y).backward()
    return [p.grad for p in model.parameters()]

  return run


def by_gradients(model, x, y) -> Callable[[], Any]:
  """Opacus, one gradient per example."""
  sampled = GradSampleModule(model, loss_reduction='mean')

  def run():
    sampled.zero_grad()
    functional.cross_entropy(sampled(x), y).backward()
    each = [p.grad_sample for p in model.parameters()]
    norms = sum(g.flatten(1).square().sum(1) for g in each).sqrt()
    weights = (clipping.MAX_NORM / norms).clamp(max=1)
    return [torch.tensordot(weights, g, 1) for g in each]

  return run


def by_backpack(model, x, y) -> Callable[[], Any]:
  """BackPACK, two backward passes: norms, then the sum with weights."""
  model, criterion = extend(model), extend(nn.CrossEntropyLoss())

  def run():
    model.zero_grad()
    with backpack(BatchL2Grad()):
      criterion(model(x), y).backward()
    norms = sum(p.batch_l2 for p in model.parameters()).sqrt() * len(x)
    weights = (clipping.MAX_NORM / norms).clamp(max=1)
    model.zero_grad()
    losses = functional.cross_entropy(model(x), y, reduction='none')
    (weights.detach() * losses).sum().backward()
    return [p.grad for p in model.parameters()]

  return run


def functions(
  name: str, network: networks.Network
) -> dict[str, Callable[[], Any]]:
  """The functions of PyTorch and its libraries that support a network."""
  x, y = peers.data(network)
  make = torch_networks.MODELS[name]
  found = {'torch plain gradient': peers.plain(make(), x, y)}
  if name in NETWORKS:
    found['Opacus, ghost norms'] = by_ghost_norms(make(), x, y)
    found['Opacus, a gradient each'] = by_gradients(make(), x, y)
    found['BackPACK'] = by_backpack(make(), x, y)
  return found
