"""What large steps do along a run: accuracy, losses, margins and errors."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import figure as mpl

from adaopt import logistic
from adaopt.experiments.large_steps import sweeps, walks

DRAWN = 1e-8, 1e12
"""Losses and gradients are drawn within these: some tend to 0, some to ∞."""

SHARES = 1e-8, 1e8
"""Of a loss over its value at 0, likewise."""

PANELS = {
  'accuracy': ('accuracy', 'linear'),
  'loss': ('log-loss', 'log'),
  'gradient_norm': ('norm of its gradient', 'log'),
}
"""Of a trajectory: the label and the scale of its axis."""


def _draw(axis, values, **line):
  steps = np.arange(1, len(values))
  axis.plot(steps, np.clip(values[1:], *DRAWN), linewidth=1.1, **line)


def sweep(
  trajectories: dict[str, logistic.Trajectory], path: pathlib.Path
) -> None:
  """Draws a row for each method, with the perceptron that it tends to.

  The perceptron has only accuracy: the length of its θ has no meaning, and so
  its loss has none.

  Trajectories are [step sizes, num_steps + 1].
  """
  figure = mpl.Figure(figsize=(12, 6))
  axes = figure.subplots(2, 3, sharex=True)
  for row, (method, limit) in zip(axes, sweeps.LIMITS.items(), strict=True):
    for axis, (name, (label, scale)) in zip(row, PANELS.items(), strict=True):
      curves = getattr(trajectories[method], name)
      for step_size, values in zip(sweeps.STEP_SIZES, curves, strict=True):
        _draw(axis, values, label=f'{method}, γ = {step_size:g}')
      axis.set(ylabel=label, xscale='log', yscale=scale)
    accuracy = trajectories[limit].accuracy[0]
    _draw(row[0], accuracy, color='black', linestyle='--', label=limit)
    row[0].legend()
  for axis in axes[-1]:
    axis.set_xlabel('iteration')
  figure.savefig(path)


def losses(
  curves: dict[str, np.ndarray],
  step_sizes: Sequence[float],
  path: pathlib.Path,
) -> None:
  """Draws every loss over its value at 0.

  Curves are [step sizes, num_steps + 1].
  """
  figure = mpl.Figure(figsize=(15, 3.8))
  axes = figure.subplots(1, len(step_sizes), sharey=True)
  for i, (axis, step_size) in enumerate(zip(axes, step_sizes, strict=True)):
    for name, values in curves.items():
      shares = np.nan_to_num(
        values[i, 1:] / values[i, 0], nan=np.inf, posinf=np.inf
      )
      steps = np.arange(1, len(shares) + 1)
      axis.plot(steps, np.clip(shares, *SHARES), linewidth=1, label=name)
    axis.set(xlabel='iteration', title=f'γ = {step_size:g}')
    axis.set(xscale='log', yscale='log', ylim=(SHARES[0] / 2, SHARES[1] * 2))
  axes[0].set_ylabel('mean loss over its value at θ = 0')
  axes[0].legend()
  figure.savefig(path)


MAXIMISES = {
  'LR+GD, γ = 10': ('C7', None),
  'NLR, γ = 1': ('C5', None),
  'perceptron': ('C8', None),
  'coordinate descent': ('C4', 'sum'),
  'normalised GD': ('C0', 'euclidean'),
  'normalised GD, β = 0.9': ('C0', 'euclidean'),
  'sign descent': ('C3', 'max'),
  'sign descent, β = 0.9': ('C3', 'max'),
  'spectral descent': ('C2', 'spectral'),
  'Muon, β = 0.9': ('C2', 'spectral'),
}
"""Method → its colour, and the norm whose margin it is to maximise."""


def geometries(curves: dict[str, dict[str, Any]], path: pathlib.Path) -> None:
  """Draws a row for each problem, and a panel for each norm.

  The methods that are to maximise a margin are bold, those with momentum are
  dashed. `curves` maps problem → method → steps, and ratios by norm.
  """
  figure = mpl.Figure(figsize=(13, 3.2 * len(curves)))
  axes = figure.subplots(len(curves), 3, squeeze=False, sharey=True)
  for row, (problem, methods) in zip(axes, curves.items(), strict=True):
    norms = next(iter(methods.values())).ratios
    for axis, norm in zip(row, norms, strict=True):
      for method, curve in methods.items():
        color, maximised = MAXIMISES[method]
        axis.plot(
          curve.steps,
          curve.ratios[norm],
          color=color,
          linestyle='--' if 'β' in method else '-',
          linewidth=2.5 if norm == maximised else 1,
          label=method,
        )
      axis.axhline(1, color='black', linewidth=0.8, linestyle=':')
      axis.set(xscale='log', ylim=(0, 1.05), title=f'{problem}: {norm} norm')
    row[0].set_ylabel('margin / maximum')
    row[-1].legend(loc='upper left', bbox_to_anchor=(1, 1))
  for axis in axes[-1]:
    axis.set_xlabel('iteration')
  figure.savefig(path)


def stochastic(
  curves: dict[str, dict[str, walks.Seen]], path: pathlib.Path
) -> None:
  """Draws the share of errors so far at best, the mean over seeds.

  A method that solves a problem leaves the picture at the bottom. `curves` maps
  problem → method → measurements, [seeds, checks + 1] each.
  """
  columns = min(len(curves), 3)
  lines = -(-len(curves) // columns)
  figure = mpl.Figure(figsize=(5.5 * columns, 3.6 * lines + 1))
  axes = figure.subplots(lines, columns, squeeze=False).ravel()
  for axis, (problem, methods) in zip(axes, curves.items(), strict=False):
    for i, (method, seen) in enumerate(methods.items()):
      errors = np.minimum.accumulate(seen.errors, axis=-1).mean(0)
      axis.plot(
        seen.examples.mean(0),
        np.where(errors > 0, errors, np.nan),
        label=method,
        color=f'C{i % 10}',
        linestyle=('-', '--', ':')[i // 10],
        linewidth=1.2,
      )
    axis.set(title=problem, yscale='log', xlabel='examples seen')
    axis.set_ylabel('errors, least so far')
  for axis in axes[len(curves) :]:
    axis.set_axis_off()
  figure.legend(
    *axes[0].get_legend_handles_labels(),
    loc='outside lower center',
    ncols=2 * columns,
  )
  figure.savefig(path)
