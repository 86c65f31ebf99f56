"""Errors against the examples seen, a panel for each problem."""

import pathlib

import numpy as np
from matplotlib import figure as mpl

from adaopt.experiments.large_steps import walks

STYLES = ('-', '--', ':')
COLORS = 10


def save(curves: dict[str, dict[str, walks.Seen]], path: pathlib.Path) -> None:
  """Draws the share of errors so far at best, the mean over seeds.

  A method that solves a problem leaves the picture at the bottom. `curves` maps
  problem → method → measurements, [seeds, checks + 1] each.
  """
  columns = min(len(curves), 3)
  lines = -(-len(curves) // columns)
  figure = mpl.Figure(
    figsize=(5.5 * columns, 3.6 * lines + 1), layout='constrained'
  )
  axes = figure.subplots(lines, columns, squeeze=False).ravel()
  for axis, (problem, methods) in zip(axes, curves.items(), strict=False):
    for i, (method, seen) in enumerate(methods.items()):
      errors = np.minimum.accumulate(seen.errors, axis=-1).mean(0)
      axis.plot(
        seen.examples.mean(0),
        np.where(errors > 0, errors, np.nan),
        label=method,
        color=f'C{i % COLORS}',
        linestyle=STYLES[i // COLORS],
        linewidth=1.2,
      )
    axis.set(title=problem, yscale='log', xlabel='examples seen')
    axis.set_ylabel('errors, least so far')
    axis.grid(alpha=0.3)
  for axis in axes[len(curves) :]:
    axis.set_axis_off()
  handles, names = axes[0].get_legend_handles_labels()
  figure.legend(
    handles,
    names,
    loc='outside lower center',
    ncols=2 * columns,
    frameon=False,
    fontsize='small',
  )
  figure.savefig(path, dpi=100)
