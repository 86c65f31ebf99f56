"""The mean loss of large steps against the iteration, one panel for each γ."""

import pathlib
from collections.abc import Sequence

import numpy as np
from matplotlib import figure as mpl

LEAST, MOST = 1e-8, 1e8
"""Losses are drawn within these; 0 is drawn at the least."""


def save(
  curves: dict[str, np.ndarray],
  step_sizes: Sequence[float],
  path: pathlib.Path,
) -> None:
  """Draws every loss over its value at 0.

  Curves are [step sizes, num_steps + 1].
  """
  figure = mpl.Figure(figsize=(15, 3.8), layout='constrained')
  axes = figure.subplots(1, len(step_sizes), sharey=True)
  for i, (axis, step_size) in enumerate(zip(axes, step_sizes, strict=True)):
    for name, values in curves.items():
      share = np.nan_to_num(values[i] / values[i][0], nan=MOST, posinf=MOST)
      steps = np.arange(1, len(share))
      axis.plot(steps, np.clip(share[1:], LEAST, MOST), linewidth=1, label=name)
    axis.set(xlabel='iteration', title=f'γ = {step_size:g}')
    axis.set(xscale='log', yscale='log', ylim=(LEAST / 2, MOST * 2))
    axis.grid(alpha=0.3)
  axes[0].set_ylabel('mean loss over its value at θ = 0')
  axes[0].legend(frameon=False, fontsize='small')
  figure.savefig(path, dpi=100)
