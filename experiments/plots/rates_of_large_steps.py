"""The risk against the budget, transitions, and counts on the chain."""

import pathlib
from collections.abc import Sequence

import numpy as np
from matplotlib import figure as mpl


def _budgets(axis, budgets, risks):
  for name, values in risks.items():
    axis.plot(budgets, values, marker='o', label=name)
  axis.set(xlabel='T', ylabel='log-loss after T iterations')
  axis.legend(frameon=False, fontsize='small')


def _transitions(axis, found):
  margins = sorted({row.margin for row in found})
  for margin in margins:
    rows = [row for row in found if row.margin == margin]
    longest = [max(row.iterations) for row in rows]
    order = [row.n / row.margin + 1 / row.margin**2 for row in rows]
    axis.plot(order, longest, 'o-', label=f'μ = {margin:g}')
  ends = np.array(axis.get_xlim())
  axis.plot(ends, ends, color='black', linestyle='--', linewidth=1)
  axis.set(
    xlabel='n/μ + 1/μ²',
    ylabel='iterations until stable, worst γ',
  )
  axis.legend(frameon=False, fontsize='small')


def _chain(axis, sizes, counts):
  for name, values in counts.items():
    solved = [(k, x) for k, x in zip(sizes, values, strict=True) if x]
    axis.plot(*zip(*solved, strict=True), marker='o', label=name, alpha=0.7)
  axis.plot(sizes, sizes, color='black', linestyle='--', label='k')
  axis.set(xlabel='k', ylabel='iterations on the chain')
  axis.legend(frameon=False, fontsize='x-small')


def save(
  budgets: Sequence[int],
  risks: dict[str, list[float]],
  transitions: list,
  sizes: Sequence[int],
  counts: dict[str, list[int | None]],
  path: pathlib.Path,
) -> None:
  """Draws the three side by side.

  Counts on the chains are None where unsolved.
  """
  figure = mpl.Figure(figsize=(14, 4.2), layout='constrained')
  first, second, third = figure.subplots(1, 3)
  _budgets(first, budgets, risks)
  _transitions(second, transitions)
  _chain(third, sizes, counts)
  for axis in (first, second, third):
    axis.set(xscale='log', yscale='log')
    axis.grid(alpha=0.3)
  third.set_xscale('linear')
  figure.savefig(path, dpi=100)
