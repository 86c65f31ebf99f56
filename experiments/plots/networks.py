"""Iterations against the number of features, on logarithmic axes."""

import pathlib

import matplotlib.ticker
import numpy as np
import pandas as pd
from matplotlib import figure as mpl

from adaopt.experiments.large_steps import scaling

TITLES = {'1': 'γ = 1', 'best': 'the best γ', '∞': 'perceptrons'}
MARKERS = dict(zip(scaling.METHODS, 'osv^D', strict=True))


def save(rows: pd.DataFrame, path: pathlib.Path) -> None:
  """Draws a panel for γ = 1, for the best γ and for the perceptrons.

  Lines join the points of methods that solve the set for every d.
  """
  figure = mpl.Figure(figsize=(12, 4.2), layout='constrained')
  axes = dict(zip(TITLES, figure.subplots(1, 3, sharey=True), strict=True))
  dimensions = np.unique(rows.num_features)
  colors = {name: f'C{i}' for i, name in enumerate(scaling.MODELS)}
  for (model, method, step_size), by in scaling.curves(rows).items():
    if not by:
      continue
    complete = len(by) == len(dimensions) > 1
    note = (
      f'α = {scaling.exponent(by):.2f}'
      if complete
      else f'{len(by)} of {len(dimensions)} solved'
    )
    axes[step_size].plot(
      list(by),
      list(by.values()),
      color=colors[model],
      marker=MARKERS[method],
      markersize=4,
      linewidth=1.1,
      linestyle='-' if complete else 'none',
      label=f'{model}, {method}: {note}',
    )
  for name, axis in axes.items():
    for power, style in ((1, '--'), (0.5, ':')):
      axis.plot(
        dimensions,
        dimensions**power,
        color='black',
        linestyle=style,
        linewidth=0.8,
        label='d' if power == 1 else '√d',
      )
    axis.set(title=TITLES[name], xlabel='features d', xscale='log')
    axis.set(yscale='log')
    axis.set_xticks(dimensions, dimensions)
    axis.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize='x-small')
  axes['1'].set_ylabel('iterations until solved')
  figure.savefig(path, dpi=100)
