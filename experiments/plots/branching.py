"""Critical batch sizes along a run, and the losses that they come from."""

import pathlib
from collections.abc import Sequence

import numpy as np
from matplotlib import figure as mpl

from adaopt.experiments.branching import branches, crossing, reporting

BOUNDS = {'': 'o', '≥': '^', '≤': 'v'}
"""The marker of a size, and of one that is a bound."""


def _sizes(axis, points, curves, tolerance):
  examples = np.array([point.examples for point in points])
  found = [reporting.critical(point, tolerance) for point in points]
  size, error = np.array([one[:2] for one in found]).T
  ends = size * np.exp([-np.nan_to_num(error), np.nan_to_num(error)])
  axis.errorbar(
    examples,
    size,
    np.abs(ends - size),
    color='black',
    capsize=3,
    label=f'critical by branching, ε = {100 * tolerance:g} %',
  )
  for point, one in zip(points, found, strict=True):
    resolved = reporting.error_at(point, one.batch_size) <= tolerance
    axis.plot(
      point.examples,
      one.batch_size,
      BOUNDS[one.bound],
      color='black',
      markerfacecolor='black' if resolved else 'white',
    )
  exact = [point.noise_scale for point in points]
  running = [point.running_noise_scale for point in points]
  axis.plot(
    examples, exact, 's-', color='C3', label='noise scale, all examples'
  )
  axis.plot(examples, running, 'x--', color='C3', label='noise scale, running')
  for i, (title, curve) in enumerate(curves.items()):
    x, y = np.array(curve).T
    axis.step(x, y, where='post', color=f'C{i}', linewidth=1, label=title)
  axis.set(
    xlabel='examples',
    ylabel='batch size',
    xscale='log',
    yscale='log',
    xlim=(0.5 * examples[0], 1.3 * examples[-1]),
  )


def _losses(axis, points, tolerance):
  for i, point in enumerate(points):
    above, error = crossing.excess(np.array(point.losses))
    axis.errorbar(
      point.batch_sizes,
      100 * above,
      100 * np.nan_to_num(error),
      marker='.',
      linewidth=1,
      color=f'C{i}',
      label=f'after {point.examples} examples',
    )
  axis.axhline(100 * tolerance, color='black', linestyle=':', linewidth=1)
  axis.set(
    xlabel='batch size k b of the branch',
    ylabel='loss above that of k = 1, %',
    xscale='log',
    ylim=(-1000 * tolerance, 3e4 * tolerance),
  )
  axis.set_yscale('symlog', linthresh=100 * tolerance)


def save(
  points: Sequence[branches.Point],
  curves: reporting.Curves,
  tolerance: float,
  path: pathlib.Path,
) -> None:
  """Draws the sizes against examples, and the losses against the size.

  A triangle is a bound: upwards from below. A hollow marker is one whose loss
  has a standard error above ε.
  """
  figure = mpl.Figure(figsize=(12, 4.8))
  axes = figure.subplots(1, 2)
  _sizes(axes[0], points, curves, tolerance)
  _losses(axes[1], points, tolerance)
  for axis in axes:
    axis.minorticks_off()
    axis.legend()
  figure.savefig(path, dpi=120)
