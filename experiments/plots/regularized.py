"""Iterations against the condition number, and periods against the step."""

import pathlib

import numpy as np
from matplotlib import figure as mpl

REST, NEITHER = 1, 300
"""Where a run that rests, and one without a cycle, are drawn."""


def save(
  rows: list,
  shares: np.ndarray,
  cycles: dict,
  path: pathlib.Path,
) -> None:
  """Draws both side by side.

  Shares are of 2/λ; cycles have converged and period, [shares].
  """
  figure = mpl.Figure(figsize=(11, 4), layout='constrained')
  left, right = figure.subplots(1, 2)
  condition = np.array([row.condition for row in rows])
  for name, field in (('γ = 1/L', 'classical'), ('best γ', 'best')):
    values = [getattr(row, field) for row in rows]
    left.plot(condition, values, marker='o', label=name)
  for power, style in ((1, ':'), (0.5, '--')):
    label = 'κ' if power == 1 else '√κ'
    scaled = rows[0].best * (condition / condition[0]) ** power
    left.plot(condition, scaled, color='black', linestyle=style, label=label)
  left.set(xlabel='κ', ylabel='iterations', xscale='log', yscale='log')
  left.legend(frameon=False)
  for name, found in cycles.items():
    period = np.where(found.period > 0, found.period, NEITHER)
    drawn = np.where(found.converged, REST, period)
    right.plot(shares, drawn, '.-', linewidth=0.6, label=name)
  right.set(
    xlabel='γ over 2/λ',
    ylabel=f'period; {REST}: rests, {NEITHER}: no cycle seen',
    yscale='log',
  )
  right.legend(frameon=False, fontsize='small')
  for axis in (left, right):
    axis.grid(alpha=0.3)
  figure.savefig(path, dpi=100)
