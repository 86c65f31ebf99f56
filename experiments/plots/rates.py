"""Squared gradient norms, batch sizes and noise against steps."""

import pathlib

import numpy as np
from matplotlib import figure as mpl

from adaopt.experiments import rates, results


def _slope(rows: list[rates.Result], scheme: str, name: str) -> str:
  """A slope, formatted for the legend."""
  slopes = [getattr(row, name) for row in rows if row.scheme == scheme]
  return results.mean_and_deviation(slopes, '.2f').replace('-', '−')


def save(
  traces: dict[str, rates.Trace],
  rows: list[rates.Result],
  path: pathlib.Path,
) -> None:
  """Draws the measurements of every scheme, geometric means over seeds."""
  figure = mpl.Figure(figsize=(13.5, 7.2))
  axes = figure.subplots(2, 3).ravel()
  typical = lambda values: np.exp(np.mean(np.log(values), 0))
  num_steps = next(iter(traces.values())).squared_norm.shape[1]
  drawn = np.unique(np.geomspace(1, num_steps, 100).round().astype(int)) - 1
  for i, (scheme, trace) in enumerate(traces.items()):
    style = {'color': f'C{i}', 'linewidth': 1.3}
    if scheme.startswith('AdaGrad'):
      style |= {'linestyle': '--', 'linewidth': 1}
    least = typical(rates.running_min(trace.squared_norm))
    mean = typical(rates.running_mean(trace.squared_norm))
    examples = typical(np.cumsum(trace.batch_size, 1, dtype=np.int64))
    noise = np.median(trace.noise, 0)
    steps = np.arange(1, num_steps + 1)
    curves = (
      (steps, least),
      (steps, mean),
      (examples, least),
      (steps, typical(trace.batch_size)),
      (steps, np.where(noise > 0, noise, np.nan)),  # none where b = n
    )
    least_slope = _slope(rows, scheme, 'step_slope')
    mean_slope = _slope(rows, scheme, 'mean_slope')
    label = f'{scheme}\n    slopes: min {least_slope}, mean {mean_slope}'
    for axis, (x, y) in zip(axes, curves, strict=False):
      axis.plot(x[drawn], y[drawn], label=label, **style)
  _guides(axes[:2], num_steps)
  for eta in sorted({row.eta for row in rows}):
    axes[4].axhline(eta**2, color='black', linewidth=0.6)
    axes[4].annotate(
      f'η = {eta:.3g}',
      (1.01, eta**2),
      xycoords=axes[4].get_yaxis_transform(),
      fontsize=6,
      va='center',
    )
  labels = (
    ('K', r'$\min_{k \leq K}\ \|\nabla F(x_k)\|^2$'),
    ('K', r'mean over $k \leq K$ of $\|\nabla F(x_k)\|^2$'),
    ('examples', r'$\min_{k \leq K}\ \|\nabla F(x_k)\|^2$'),
    ('step k', 'batch size b'),
    ('step k', r'$E\,\|g_B - \nabla F\|^2\ /\ \|\nabla F\|^2$'),
  )
  for axis, (x, y) in zip(axes, labels, strict=False):
    axis.set(xlabel=x, ylabel=y, xscale='log', yscale='log')
    axis.minorticks_off()
  axes[5].axis('off')
  axes[5].legend(*axes[0].get_legend_handles_labels(), loc='center')
  figure.savefig(path, dpi=150)


def _guides(axes: np.ndarray, num_steps: int) -> None:
  """Lines with the theory's slopes above the fitted parts of the curves."""
  start = max(num_steps // rates.FIRST, 1)
  steps = np.array([start, num_steps])
  for axis in axes:
    top = 2 * max(np.interp(start, *line.get_data()) for line in axis.lines)
    for slope, text, dashes in ((-0.5, '−1/2', ':'), (-1, '−1', '-.')):
      axis.plot(
        steps,
        top * (steps / start) ** slope,
        color='black',
        linewidth=0.9,
        linestyle=dashes,
        label=f'guide of slope {text}',
      )
