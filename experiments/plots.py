"""The picture of an experiment: loss, accuracy and batch size by examples."""

import pathlib
from typing import Any

from matplotlib import figure as mpl


def save_curves(curves: dict[str, list[Any]], path: pathlib.Path) -> None:
  """Draws one line for every run, one colour for every scheme.

  Args:
    curves: For every scheme the `train.Curves` of each of its runs.
    path: The PNG to write.
  """
  figure = mpl.Figure(figsize=(13, 4), layout='constrained')
  axes = figure.subplots(1, 3)
  loss, accuracy, batch_size = axes
  for i, (scheme, runs) in enumerate(curves.items()):
    for j, (evaluations, batch_sizes) in enumerate(runs):
      style = {
        'color': f'C{i}',
        'alpha': 1 if len(runs) == 1 else 0.5,
        'label': None if j else scheme,
      }
      examples = [evaluation.examples for evaluation in evaluations]
      loss.plot(examples, [e.train_loss for e in evaluations], **style)
      accuracy.plot(examples, [e.test_accuracy for e in evaluations], **style)
      batch_size.step(*zip(*batch_sizes, strict=True), where='pre', **style)
  labels = ('train loss', 'test accuracy', 'batch size')
  scales = ('log', 'linear', 'log')
  for axis, label, scale in zip(axes, labels, scales, strict=True):
    axis.set(xlabel='examples', ylabel=label, yscale=scale)
    axis.grid(alpha=0.3)
    axis.ticklabel_format(axis='x', style='sci', scilimits=(0, 4))
  loss.legend(frameon=False, fontsize='small')
  figure.savefig(path, dpi=120)


def save_ratios(
  ratios: dict[str, dict[str, float]], path: pathlib.Path
) -> None:
  """Draws costs as multiples of one, on a logarithmic axis.

  Args:
    ratios: For every network the cost of every function.
    path: The picture to write; its ending is its format.
  """
  figure = mpl.Figure(figsize=(9, 3.2), layout='constrained')
  axes = figure.subplots()
  functions = list(next(iter(ratios.values())))
  width = 0.8 / len(functions)
  for i, function in enumerate(functions):
    places = [place + i * width for place in range(len(ratios))]
    heights = [costs[function] for costs in ratios.values()]
    bars = axes.bar(places, heights, 0.9 * width, label=function)
    axes.bar_label(bars, [f'{h:.3g}' for h in heights], fontsize=6, padding=1)
  axes.axhline(1, color='black', linewidth=0.8)
  middle = 0.4 - width / 2
  axes.set_xticks([place + middle for place in range(len(ratios))], ratios)
  axes.set(ylabel='time / plain gradient', yscale='log')
  axes.legend(frameon=False, fontsize='small', ncols=len(functions))
  axes.margins(y=0.25)
  figure.savefig(path, dpi=150)
