"""How many iterations large steps take, against what makes them hard."""

import pathlib

import numpy as np
import pandas as pd
from matplotlib import figure as mpl
from matplotlib import ticker

from adaopt.experiments.large_steps import scaling


def _transitions(axis, stable):
  longest = stable.max(axis='columns')
  for margin in sorted(longest.index.unique('margin')):
    at_margin = longest.xs(margin, level='margin')
    order = at_margin.index / margin + 1 / margin**2
    axis.plot(order, at_margin, 'o-', label=f'μ = {margin:g}')
  ends = np.array(axis.get_xlim())
  axis.plot(ends, ends, color='black', linestyle='--', linewidth=1)


def rates(
  risks: pd.DataFrame,
  stable: pd.DataFrame,
  counts: pd.DataFrame,
  path: pathlib.Path,
) -> None:
  """Draws what `large_steps.rates` finds, side by side."""
  figure = mpl.Figure(figsize=(14, 4.2))
  first, second, third = axes = figure.subplots(1, 3)
  first.plot(risks, marker='o', label=risks.columns)
  first.set(xlabel='T', ylabel='log-loss after T iterations')
  _transitions(second, stable)
  second.set(xlabel='n/μ + 1/μ²', ylabel='iterations until stable, worst γ')
  third.plot(counts, marker='o', label=counts.columns, alpha=0.7)
  third.plot(counts.index, counts.index, color='black', ls='--', label='k')
  third.set(xlabel='k', ylabel='iterations on the chain')
  for axis in axes:
    axis.set(xscale='log', yscale='log')
    axis.legend()
  third.set_xscale('linear')
  third.legend(fontsize='x-small')
  figure.savefig(path)


REST, NEITHER = 1, 300
"""Where a run that rests, and one without a cycle, are drawn."""


def regularized(
  rows: pd.DataFrame, cycles: pd.DataFrame, path: pathlib.Path
) -> None:
  """Draws what `large_steps.regularized` finds, side by side."""
  figure = mpl.Figure(figsize=(11, 4))
  left, right = figure.subplots(1, 2)
  for label, values in (('γ = 1/L', rows.classical), ('best γ', rows.best)):
    left.plot(rows.condition, values, marker='o', label=label)
  growth = rows.condition / rows.condition[0]
  for label, power, line in (('κ', 1, ':'), ('√κ', 0.5, '--')):
    scaled = rows.best[0] * growth**power
    left.plot(rows.condition, scaled, color='black', ls=line, label=label)
  left.set(xlabel='κ', ylabel='iterations', xscale='log', yscale='log')
  left.legend(fontsize='medium')
  for name, found in cycles.groupby('data', sort=False):
    period = np.where(found.period > 0, found.period, NEITHER)
    drawn = np.where(found.converged, REST, period)
    right.plot(found.share, drawn, '.-', linewidth=0.6, label=name)
  right.set(
    xlabel='γ over 2/λ',
    ylabel=f'period; {REST}: rests, {NEITHER}: no cycle seen',
    yscale='log',
  )
  right.legend()
  figure.savefig(path)


TITLES = {'1': 'γ = 1', 'best': 'the best γ', '∞': 'perceptrons'}
MARKERS = dict(zip(scaling.METHODS, 'osv^D', strict=True))
COLORS = {name: f'C{i}' for i, name in enumerate(scaling.MODELS)}


def features(rows: pd.DataFrame, path: pathlib.Path) -> None:
  """Draws a panel for γ = 1, for the best γ and for the perceptrons.

  Lines join the points of methods that solve the set for every d.
  """
  figure = mpl.Figure(figsize=(12, 4.2))
  axes = dict(zip(TITLES, figure.subplots(1, 3, sharey=True), strict=True))
  dimensions = np.unique(rows.num_features)
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
      color=COLORS[model],
      marker=MARKERS[method],
      markersize=4,
      linewidth=1.1,
      linestyle='-' if complete else 'none',
      label=f'{model}, {method}: {note}',
    )
  for name, axis in axes.items():
    for label, power, line in (('d', 1, '--'), ('√d', 0.5, ':')):
      axis.plot(
        dimensions,
        dimensions**power,
        color='black',
        ls=line,
        lw=0.8,
        label=label,
      )
    axis.set(title=TITLES[name], xlabel='features d')
    axis.set(xscale='log', yscale='log')
    axis.set_xticks(dimensions, dimensions)
    axis.xaxis.set_minor_locator(ticker.NullLocator())
    axis.legend(fontsize='x-small')
  axes['1'].set_ylabel('iterations until solved')
  figure.savefig(path)
