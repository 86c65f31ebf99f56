"""Iterations against the condition number, and periods against the step."""

import pathlib

import numpy as np
import pandas as pd
from matplotlib import figure as mpl

REST, NEITHER = 1, 300
"""Where a run that rests, and one without a cycle, are drawn."""


def save(rows: pd.DataFrame, cycles: pd.DataFrame, path: pathlib.Path) -> None:
  """Draws what `large_steps.regularized` finds, side by side."""
  figure = mpl.Figure(figsize=(11, 4), layout='constrained')
  left, right = figure.subplots(1, 2)
  left.plot(rows.condition, rows.classical, marker='o', label='γ = 1/L')
  left.plot(rows.condition, rows.best, marker='o', label='best γ')
  growth = rows.condition / rows.condition[0]
  for label, power, style in (('κ', 1, ':'), ('√κ', 0.5, '--')):
    scaled = rows.best[0] * growth**power
    left.plot(rows.condition, scaled, color='black', ls=style, label=label)
  left.set(xlabel='κ', ylabel='iterations', xscale='log', yscale='log')
  left.legend(frameon=False)
  for name, found in cycles.groupby('data', sort=False):
    period = np.where(found.period > 0, found.period, NEITHER)
    drawn = np.where(found.converged, REST, period)
    right.plot(found.share, drawn, '.-', linewidth=0.6, label=name)
  right.set(
    xlabel='γ over 2/λ',
    ylabel=f'period; {REST}: rests, {NEITHER}: no cycle seen',
    yscale='log',
  )
  right.legend(frameon=False, fontsize='small')
  for axis in (left, right):
    axis.grid(alpha=0.3)
  figure.savefig(path, dpi=100)
