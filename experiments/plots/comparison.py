"""How schemes compare: learning, batch sizes and gradient noise."""

import pathlib

import numpy as np
from matplotlib import figure as mpl

from adaopt.experiments import records

NOISE = {'variance': 'v, variance of one gradient', 'squared_norm': '‖ḡ‖²'}
BINS = 150


def _legend_under(figure, axis):
  """One legend for all axes."""
  handles, labels = axis.get_legend_handles_labels()
  columns = min(6, len(labels))
  figure.legend(handles, labels, loc='outside lower center', ncols=columns)


def _styled(curves):
  """(run, style) for all runs: one colour and one label per scheme."""
  for i, (scheme, runs) in enumerate(curves.items()):
    for j, run in enumerate(runs):
      yield (
        run,
        {
          'color': f'C{i % 10}',
          'linestyle': ('-', '--', ':')[i // 10 % 3],
          'linewidth': 1.2 if len(runs) == 1 else 0.8,
          'alpha': 1 if len(runs) == 1 else 0.5,
          'label': None if j else scheme,
        },
      )


def _learning(curves):
  """Loss and accuracy, against examples and against steps."""
  figure = mpl.Figure(figsize=(11, 7.5))
  axes = figure.subplots(2, 2, sharey='row')
  names = ('train_loss', 'test_accuracy')
  for run, style in _styled(curves):
    ends, examples = run.train['examples'], run.eval['examples']
    steps = np.searchsorted(ends, examples, side='right').astype(float)
    steps[steps == 0] = np.nan  # an axis of logarithms has no 0
    for (by_example, by_step), name in zip(axes, names, strict=True):
      by_example.plot(examples, run.eval[name], **style)
      by_step.plot(steps, run.eval[name], **style)
  for (by_example, by_step), name in zip(axes, names, strict=True):
    by_example.set(xlabel='examples', ylabel=name.replace('_', ' '))
    by_step.set(xlabel='step', ylabel=name.replace('_', ' '), xscale='log')
  axes[0, 0].set_yscale('log')
  _legend_under(figure, axes[0, 0])
  return figure


def _batch_sizes(curves):
  """Batch sizes against examples; a step starts at its first example."""
  figure = mpl.Figure(figsize=(8, 4.5))
  axis = figure.subplots()
  for run, style in _styled(curves):
    sizes, ends = run.train['batch_size'], run.train['examples']
    starts = np.append(ends - sizes + 1, ends[-1])
    axis.step(starts, np.append(sizes, sizes[-1]), where='post', **style)
  axis.set(xlabel='examples', ylabel='batch size', xscale='log', yscale='log')
  _legend_under(figure, axis)
  return figure


def _binned(x, y):
  """Means of (x, y) in bins of equal width on a logarithmic axis of x."""
  x, y = x[np.isfinite(y)], y[np.isfinite(y)]
  if not len(x):
    return x, y
  at = np.log(x)
  bins = np.digitize(at, np.linspace(at[0], at[-1], BINS))
  counts = np.bincount(bins)
  filled = counts > 0
  return tuple(
    np.bincount(bins, values)[filled] / counts[filled] for values in (x, y)
  )


def _noise(curves):
  """v and ‖ḡ‖² against examples, where they were measured."""
  figure = mpl.Figure(figsize=(11, 4.5))
  axes = figure.subplots(1, 2)
  # Set log scales before drawing: often nothing was measured.
  for axis, label in zip(axes, NOISE.values(), strict=True):
    axis.set(xlabel='examples', ylabel=label, xscale='log', yscale='log')
  for run, style in _styled(curves):
    for axis, name in zip(axes, NOISE, strict=True):
      axis.plot(*_binned(run.train['examples'], run.train[name]), **style)
  _legend_under(figure, axes[0])
  return figure


COMPARISON = {
  'learning.png': _learning,
  'batch_sizes.png': _batch_sizes,
  'noise.png': _noise,
}


def save(curves: dict[str, list[records.Curves]], folder: pathlib.Path) -> None:
  """Draws one line per run, with one colour per scheme."""
  for name, draw in COMPARISON.items():
    draw(curves).savefig(folder / name, dpi=120)
