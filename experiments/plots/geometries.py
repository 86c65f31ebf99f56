"""The margins of steepest descent in several norms, against the iteration."""

import pathlib
from typing import Any

from matplotlib import figure as mpl

MAXIMISES = {
  'sum': {'coordinate descent'},
  'euclidean': {'normalised GD', 'normalised GD, β = 0.9'},
  'max': {'sign descent', 'sign descent, β = 0.9'},
  'spectral': {'spectral descent', 'Muon, β = 0.9'},
}
"""Norm → the methods that are to maximise its margin, drawn bold."""

STYLES = {
  'LR+GD, γ = 10': 'C7',
  'NLR, γ = 1': 'C5',
  'perceptron': 'C8',
  'coordinate descent': 'C4',
  'normalised GD': 'C0',
  'sign descent': 'C3',
  'spectral descent': 'C2',
}
MOMENTUM = {
  'normalised GD, β = 0.9': 'C0',
  'sign descent, β = 0.9': 'C3',
  'Muon, β = 0.9': 'C2',
}
"""Dashed, in the colour of the method without."""


def save(curves: dict[str, dict[str, Any]], path: pathlib.Path) -> None:
  """Draws a row for each problem, and a panel for each norm.

  `curves` maps problem → method → steps, and ratios by norm.
  """
  figure = mpl.Figure(figsize=(13, 3.2 * len(curves)), layout='constrained')
  axes = figure.subplots(len(curves), 3, squeeze=False, sharey=True)
  for row, (problem, methods) in zip(axes, curves.items(), strict=True):
    norms = next(iter(methods.values())).ratios
    for axis, norm in zip(row, norms, strict=True):
      for method, curve in methods.items():
        bold = method in MAXIMISES[norm]
        axis.plot(
          curve.steps,
          curve.ratios[norm],
          color=(STYLES | MOMENTUM)[method],
          linestyle='--' if method in MOMENTUM else '-',
          linewidth=2.5 if bold else 1,
          label=method,
        )
      axis.axhline(1, color='black', linewidth=0.8, linestyle=':')
      axis.set(xscale='log', ylim=(0, 1.05), title=f'{problem}: {norm} norm')
      axis.grid(alpha=0.3)
    row[0].set_ylabel('margin / maximum')
    row[-1].legend(
      frameon=False,
      fontsize='small',
      loc='upper left',
      bbox_to_anchor=(1, 1),
    )
  for axis in axes[-1]:
    axis.set_xlabel('iteration')
  figure.savefig(path, dpi=100)
