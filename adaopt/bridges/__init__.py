"""Bridges: from a model of Flax and its loss to a loss_fn of adaopt."""

from adaopt.bridges.bridging import Bridge
from adaopt.bridges.linen_models import linen_loss
from adaopt.bridges.nnx_models import nnx_loss

__all__ = ['Bridge', 'linen_loss', 'nnx_loss']


def __dir__() -> list[str]:
  return __all__
