"""The table of a branching run."""

from collections.abc import Sequence

import numpy as np

from adaopt.experiments import results
from adaopt.experiments.branching import branches, crossing

Curves = dict[str, branches.Curve]
"""Title of a scheme → its batch sizes."""


def critical(point: branches.Point, tolerance: float) -> crossing.Critical:
  """The critical batch size at a point."""
  sizes, losses = np.array(point.batch_sizes), np.array(point.losses)
  return crossing.critical(sizes, losses, tolerance)


def error_at(point: branches.Point, batch_size: float) -> float:
  """The standard error of the excess loss at the nearest larger k > 1 tried."""
  _, errors = crossing.excess(np.array(point.losses))
  at = np.searchsorted(point.batch_sizes, batch_size)
  return float(errors[np.clip(at, 1, len(errors) - 1)])


def size_at(curve: branches.Curve, examples: int) -> float:
  """The batch size after so many examples, interpolated in its logarithm."""
  x, size = np.array(curve, float).T
  return float(np.exp(np.interp(examples, x, np.log(size))))


def _size(found: crossing.Critical) -> str:
  bound = f'{found.bound} ' if found.bound else ''
  if np.isnan(found.error):
    return f'{bound}{found.batch_size:.0f}'
  error = found.batch_size * found.error
  return f'{bound}{found.batch_size:.0f} ± {error:.0f}'


def table(
  points: Sequence[branches.Point], curves: Curves, tolerance: float
) -> str:
  """Every point in Markdown.

  Args:
    points: Of one trunk.
    curves: Schemes to show beside it.
    tolerance: ε, by which the mean loss of a branch may exceed that of k = 1.

  Returns:
    Losses of the validation split, of the trunk and of the branch k = 1; the
    critical batch size ± the jackknife's standard error over seeds; the
    standard error of the excess loss there, above ε where the size is not
    resolved; the noise scale over all training examples, and as the running
    average of the trunk.
  """
  lines = []
  for point in points:
    found = critical(point, tolerance)
    cells = {
      'examples': f'{point.examples}',
      'loss': f'{point.loss:.4f}',
      'loss, k = 1': f'{np.mean(point.losses[0]):.4f}',
      'critical batch size': _size(found),
      f'error of loss, % (ε = {100 * tolerance:g})': (
        f'{100 * error_at(point, found.batch_size):.1f}'
      ),
      'noise scale': f'{point.noise_scale:.0f}',
      'running': f'{point.running_noise_scale:.0f}',
    }
    for title, curve in curves.items():
      cells[title] = f'{size_at(curve, point.examples):.0f}'
    lines.append(list(cells.values()))
  return results.markdown([list(cells), *lines])
