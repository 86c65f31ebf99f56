"""Where the loss of a branch becomes worse than a tolerance allows."""

from typing import NamedTuple

import numpy as np


class Critical(NamedTuple):
  """The critical batch size at one point of a run."""

  batch_size: float  # NaN if the smallest batch size diverged
  error: float  # standard error of its logarithm; NaN for one seed
  bound: str  # '' or, beyond the ends of what was tried, '≥' or '≤'


def excess(losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """How far losses are above those of the smallest batch size, as a share.

  Args:
    losses: [sizes, seeds], where a seed is the same examples for all sizes.

  Returns:
    ⟨L_k⟩ / ⟨L_1⟩ − 1 of the means over seeds, and its standard error, of the
    paired differences L_k − L_1; NaN for one seed. [sizes] each.
  """
  first = np.mean(losses[0])
  differences = (losses - losses[0]) / first
  num_seeds = losses.shape[1]
  if num_seeds == 1:
    return differences[:, 0], np.full(len(losses), np.nan)
  deviation = np.std(differences, axis=1, ddof=1)
  return np.mean(differences, axis=1), deviation / np.sqrt(num_seeds)


def crossing(
  sizes: np.ndarray, above: np.ndarray, tolerance: float
) -> tuple[float, str]:
  """The largest batch size whose loss is not worse than allowed.

  Between that and the next size tried, it is where a line in the logarithm of
  the size reaches the tolerance.

  Args:
    sizes: Rising. [k]
    above: The excess of each; one that is not finite is worse. [k]
    tolerance: The largest excess allowed, > 0.

  Returns:
    The size, NaN if none passes, and how far it is a bound: '≥' if the largest
    size passes, '≤' if only the smallest does, which may be too large itself.
  """
  above = np.where(np.isfinite(above), above, np.inf)
  passing = np.flatnonzero(above <= tolerance)
  if not passing.size:
    return np.nan, ''
  last = passing[-1]
  if last == len(sizes) - 1:
    return float(sizes[-1]), '≥'
  low, high = above[last : last + 2]
  way = (tolerance - low) / (high - low)
  ratio = sizes[last + 1] / sizes[last]
  return float(sizes[last] * ratio**way), '≤' if last == 0 else ''


def critical(
  sizes: np.ndarray, losses: np.ndarray, tolerance: float
) -> Critical:
  """The critical batch size, with the jackknife's standard error over seeds.

  Example:
    >>> import numpy as np
    >>> from adaopt.experiments.branching import crossing
    >>> losses = np.array([[1.0], [1.0], [1.5]])
    >>> crossing.critical(np.array([8, 16, 64]), losses, 0.25)
    Critical(batch_size=32.0, error=nan, bound='')
  """

  def found(losses):
    return crossing(sizes, excess(losses)[0], tolerance)

  size, bound = found(losses)
  n = losses.shape[1]
  error = np.nan
  if n > 1:
    left_out = [found(np.delete(losses, i, axis=1))[0] for i in range(n)]
    error = float(np.sqrt((n - 1) * np.var(np.log(left_out))))
  return Critical(size, error, bound)
