"""The learning rate of a fixed batch size: the best of a grid, not at its edge.

Rates are compared by the validation loss of the first seed.
"""

import math
from collections.abc import Callable

FACTOR = 2.0
"""Between neighbours of the grid."""

MOST = 12
"""Rates tried before a search gives up."""


def best_rate(loss_of: Callable[[float], float], guess: float) -> float:
  """The rate of least loss, both of whose neighbours in the grid are worse.

  The grid is guess · FACTOR^k. It starts at k = −1, 0, 1 and goes on at the
  edge that is best.

  A loss that is not finite is the worst there is. Of equal rates the smallest.

  Raises:
    ValueError: If the best of `MOST` rates is still at an edge.
  """

  def key(k):
    loss = loss_of(guess * FACTOR**k)
    return loss if math.isfinite(loss) else math.inf

  losses = {k: key(k) for k in (-1, 0, 1)}
  while len(losses) <= MOST:
    best = min(sorted(losses), key=losses.get)
    at_edge = {k for k in (best - 1, best + 1) if k not in losses}
    if not at_edge and math.isfinite(losses[best]):
      return guess * FACTOR**best
    for k in at_edge or {min(losses) - 1}:
      losses[k] = key(k)
  raise ValueError(
    f'among {len(losses)} learning rates around {guess:g} the best is at the '
    'edge of the grid; start nearer to it.'
  )
