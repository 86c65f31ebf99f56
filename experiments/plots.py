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
