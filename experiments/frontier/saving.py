"""How many steps a scheme saves against the frontier of fixed batch sizes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Point(NamedTuple):
  """Runs of one scheme, in the order of their seeds. Arrays are [seeds]."""

  steps: np.ndarray
  loss: np.ndarray


class Saving(NamedTuple):
  """Steps saved at equal loss, as a share of those of a fixed batch size."""

  share: float
  error: float  # standard error over seeds; NaN for one seed
  bound: str  # '' or, beyond the ends of the frontier, '≥' or '≤'


def frontier(steps: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, ...]:
  """The least loss of fixed batch sizes within a number of steps.

  Args:
    steps: Of every batch size. [k]
    losses: Their losses. [k]

  Returns:
    The (steps, losses) that no fewer steps match, by falling steps. [j] each.
  """
  order = np.argsort(steps)
  steps, losses = steps[order], losses[order]
  kept = losses < np.minimum.accumulate(np.append(np.inf, losses[:-1]))
  return steps[kept][::-1], losses[kept][::-1]


def _log_ratio(scheme, fixed):
  """log(S / S_fixed) for mean steps S, and how far that is a bound."""
  steps, losses = frontier(
    np.array([np.mean(point.steps) for point in fixed]),
    np.array([np.mean(point.loss) for point in fixed]),
  )
  loss = np.mean(scheme.loss)
  equal = np.interp(loss, losses, np.log(steps))
  return (
    np.log(np.mean(scheme.steps)) - equal,
    loss < losses[0],
    loss > losses[-1],
  )


def _without(points, i):
  return [Point(*(np.delete(x, i) for x in point)) for point in points]


def saving(scheme: Point, fixed: Sequence[Point]) -> Saving:
  """The steps that a scheme saves at equal loss.

  1 − S / S_F(L), with S and L the mean steps and loss of the scheme, and S_F
  the steps of the frontier, interpolated linearly in log S between batch sizes.
  Its standard error is the jackknife's over seeds, which all points share, by
  the logarithm of S / S_F.

  Where L is below all losses of the frontier, S_F is that of its least loss,
  and the saving a lower bound '≥'; where L is above them all, it is an upper
  one, '≤'.
  """
  ratio, below, above = _log_ratio(scheme, fixed)
  n = len(scheme.loss)
  error = np.nan
  if n > 1:
    left_out = [
      _log_ratio(_without([scheme], i)[0], _without(fixed, i))[0]
      for i in range(n)
    ]
    error = np.sqrt((n - 1) * np.var(left_out)) * np.exp(ratio)
  return Saving(
    float(1 - np.exp(ratio)),
    float(error),
    '≥' * bool(below) + '≤' * bool(above),
  )
