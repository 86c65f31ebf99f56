"""Optimizers: chains of the transforms under the names of the literature.

A schedule of `adagrad`, `adagrad_norm` and `normalized_lr_gd`, which do not
know a batch size, counts updates, as in optax. One of `adaptive`, `adadagrad`
and `adadagrad_norm` counts examples. Within `optax.inject_hyperparams` every
schedule counts updates, since that wrapper evaluates it: inject a number.
"""

from adaopt.optimizers.with_batch_size import (
  adadagrad,
  adadagrad_norm,
  adaptive,
)
from adaopt.optimizers.without_batch_size import (
  adagrad,
  adagrad_norm,
  normalized_lr_gd,
)

__all__ = [
  'adadagrad',
  'adadagrad_norm',
  'adagrad',
  'adagrad_norm',
  'adaptive',
  'normalized_lr_gd',
]


def __dir__() -> list[str]:
  return __all__
