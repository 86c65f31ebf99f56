"""Clipped sums of Opacus and BackPACK on the same networks in PyTorch."""

from collections.abc import Callable
from typing import Any

import torch
from backpack import backpack, extend
from backpack.extensions import BatchL2Grad
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import (
  DPLossFastGradientClipping,
)
from torch import nn
from torch.nn import functional

from adaopt.experiments.benchmarks import networks, peers, torch_networks

# BackPACK supports neither GroupNorm nor attention; Opacus knows the layers of
# images.
NETWORKS = ('logistic', 'mlp', 'cnn')


def by_ghost_norms(model, x, y, max_norm) -> Callable[[], Any]:
  """Opacus, two backward passes: norms, then the sum with weights."""
  clipped = GradSampleModuleFastGradientClipping(
    model, max_grad_norm=max_norm, loss_reduction='mean'
  )
  optimizer = DPOptimizerFastGradientClipping(
    torch.optim.SGD(model.parameters(), lr=0.0),
    noise_multiplier=0.0,
    max_grad_norm=max_norm,
    expected_batch_size=len(x),
    loss_reduction='mean',
  )
  criterion = DPLossFastGradientClipping(
    clipped, optimizer, nn.CrossEntropyLoss(reduction='mean')
  )

  def run():
    criterion(clipped(x), y).backward()
    return [p.grad for p in model.parameters()]

  return run


def by_gradients(model, x, y, max_norm) -> Callable[[], Any]:
  """Opacus, one gradient per example."""
  sampled = GradSampleModule(model, loss_reduction='mean')

  def run():
    sampled.zero_grad()
    functional.cross_entropy(sampled(x), y).backward()
    each = [p.grad_sample for p in model.parameters()]
    norms = sum(g.flatten(1).square().sum(1) for g in each).sqrt()
    weights = (max_norm / norms).clamp(max=1)
    return [torch.tensordot(weights, g, 1) for g in each]

  return run


def by_backpack(model, x, y, max_norm) -> Callable[[], Any]:
  """BackPACK, two backward passes: norms, then the sum with weights."""
  model, criterion = extend(model), extend(nn.CrossEntropyLoss())

  def run():
    model.zero_grad()
    with backpack(BatchL2Grad()):
      criterion(model(x), y).backward()
    norms = sum(p.batch_l2 for p in model.parameters()).sqrt() * len(x)
    weights = (max_norm / norms).clamp(max=1)
    model.zero_grad()
    losses = functional.cross_entropy(model(x), y, reduction='none')
    (weights.detach() * losses).sum().backward()
    return [p.grad for p in model.parameters()]

  return run


def functions(
  name: str, network: networks.Network, max_norm: float
) -> dict[str, Callable[[], Any]]:
  """The functions of PyTorch and its libraries that support a network."""
  args = peers.data(network)
  make = torch_networks.MODELS[name]
  found = {'torch plain gradient': peers.plain(make(), *args)}
  if name in NETWORKS:
    found['Opacus, ghost norms'] = by_ghost_norms(make(), *args, max_norm)
    found['Opacus, a gradient each'] = by_gradients(make(), *args, max_norm)
    found['BackPACK'] = by_backpack(make(), *args, max_norm)
  return found
