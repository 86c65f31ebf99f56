"""The risk against the budget, transitions, and counts on the chain."""

import pathlib

import numpy as np
import pandas as pd
from matplotlib import figure as mpl


def _transitions(axis, stable):
  longest = stable.max(axis='columns')
  for margin in sorted(longest.index.unique('margin')):
    at_margin = longest.xs(margin, level='margin')
    order = at_margin.index / margin + 1 / margin**2
    axis.plot(order, at_margin, 'o-', label=f'μ = {margin:g}')
  ends = np.array(axis.get_xlim())
  axis.plot(ends, ends, color='black', linestyle='--', linewidth=1)


def save(
  risks: pd.DataFrame,
  stable: pd.DataFrame,
  counts: pd.DataFrame,
  path: pathlib.Path,
) -> None:
  """Draws what `large_steps.rates` finds, side by side."""
  figure = mpl.Figure(figsize=(14, 4.2), layout='constrained')
  first, second, third = figure.subplots(1, 3)
  first.plot(risks, marker='o', label=risks.columns)
  first.set(xlabel='T', ylabel='log-loss after T iterations')
  _transitions(second, stable)
  second.set(xlabel='n/μ + 1/μ²', ylabel='iterations until stable, worst γ')
  third.plot(counts, marker='o', label=counts.columns, alpha=0.7)
  third.plot(counts.index, counts.index, color='black', ls='--', label='k')
  third.set(xlabel='k', ylabel='iterations on the chain')
  for axis in (first, second, third):
    axis.set(xscale='log', yscale='log')
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize='small')
  third.set_xscale('linear')
  third.legend(frameon=False, fontsize='x-small')
  figure.savefig(path, dpi=100)
