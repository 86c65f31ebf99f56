"""Accuracy, loss and gradient norm of large steps against the iteration."""

import pathlib

import numpy as np
from matplotlib import figure as mpl

from adaopt import logistic
from adaopt.experiments.large_steps import sweeps

PANELS = {
  'accuracy': 'accuracy',
  'loss': 'log-loss',
  'gradient_norm': 'norm of its gradient',
}

LEAST = 1e-8
"""Smaller losses and gradients, which tend to 0, are drawn at this value."""


def _draw(axis, trajectory, name, index, **style):
  values = np.maximum(getattr(trajectory, name)[index], LEAST)
  axis.plot(np.arange(1, len(values)), values[1:], linewidth=1.1, **style)


def save(
  trajectories: dict[str, logistic.Trajectory],
  step_sizes: dict[str, tuple[float, ...]],
  path: pathlib.Path,
) -> None:
  """Draws a row for each method, with the perceptron that it tends to.

  The perceptron has only accuracy: the length of its θ has no meaning, and so
  its loss has none.

  Trajectories are [step sizes, num_steps + 1].
  """
  figure = mpl.Figure(figsize=(12, 6), layout='constrained')
  axes = figure.subplots(2, 3, sharex=True)
  for row, (method, limit) in zip(axes, sweeps.LIMITS.items(), strict=True):
    for name, axis in zip(PANELS, row, strict=True):
      for i, step_size in enumerate(step_sizes[method]):
        label = f'{method}, γ = {step_size:g}'
        _draw(axis, trajectories[method], name, i, color=f'C{i}', label=label)
    _draw(
      row[0],
      trajectories[limit],
      'accuracy',
      0,
      color='black',
      linestyle='--',
      label=limit,
    )
    row[0].legend(frameon=False, fontsize='small')
    for (name, label), axis in zip(PANELS.items(), row, strict=True):
      axis.set(ylabel=label, xscale='log')
      if name != 'accuracy':
        axis.set_yscale('log')
      axis.grid(alpha=0.3)
  for axis in axes[-1]:
    axis.set_xlabel('iteration')
  figure.savefig(path, dpi=100)
