"""Steps against loss, and loss against seconds on machines of P devices."""

import pathlib

import numpy as np
import pandas as pd
from matplotlib import figure as mpl
from matplotlib import ticker

from adaopt.experiments.frontier import reporting, training

MARKERS = 'osD^vP*X'

CAPTION = (
  'seconds(P) = s Σ ⌈b / (P m)⌉ over the steps: every device takes '
  'micro-batches of m = {m} examples, an all-reduce is free;\n'
  's = {s:.1e}, the seconds of a run here over its Σ ⌈b / m⌉, of the fastest '
  'run of all; what a test adds is left out.'
)


def _families(schemes):
  """(name, colour, marker): a colour a family of names, a marker a member."""
  members = {}
  for name in schemes:
    members.setdefault(name.rpartition('_')[0] or name, []).append(name)
  return {
    name: {'color': f'C{i % 10}', 'marker': MARKERS[j + 3 * (i // 10)]}
    for i, family in enumerate(members.values())
    for j, name in enumerate(family)
  }


def _draw(axis, runs, fixed, x, loss):
  """The fixed batch sizes as a line and the schemes as points.

  Runs far above all fixed batch sizes, which diverged, are left out.
  """
  by_scheme = runs.groupby('scheme', sort=False)
  means = by_scheme[[x, loss]].mean()
  error = by_scheme[loss].sem().fillna(0)
  line = means.loc[list(fixed)]
  axis.errorbar(
    line[x],
    line[loss],
    error[line.index],
    color='black',
    marker='.',
    label='fixed',
    lw=1,
  )
  for name, *place in line.itertuples():
    axis.annotate(
      name.rpartition('_')[2],
      place,
      textcoords='offset points',
      xytext=(3, 4),
      fontsize=7,
    )
  points = means.drop(line.index)
  marks = {'linestyle': '', 'markersize': 5, 'lw': 0.8}
  for name, style in _families(points.index).items():
    place = points.loc[name]
    axis.errorbar(*place, error[name], **style, **marks, label=name)
  top, bottom = line[loss].max(), means[loss].min()
  room = max((top / bottom) ** 0.08, 1.001)
  axis.set(xscale='log', yscale='log', ylabel=loss.replace('_', ' '))
  axis.set_ylim(bottom / room, top * room)
  axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
  axis.yaxis.set_major_formatter('{x:g}')
  axis.yaxis.set_minor_formatter(ticker.NullFormatter())


def _save(figure, axis, path):
  """Saves it with one legend, of the labels of an axis."""
  figure.legend(
    *axis.get_legend_handles_labels(),
    loc='outside right center',
    ncols=1 + len(axis.containers) // 20,
  )
  figure.savefig(path, dpi=120)


def save(
  schemes: reporting.Rows,
  fixed: reporting.Rows,
  device_batch: int,
  folder: pathlib.Path,
) -> None:
  """Draws frontier.png and devices.png."""
  runs = pd.DataFrame(
    outcome._asdict() | {'scheme': name}
    for name, outcomes in (fixed | schemes).items()
    for outcome in outcomes
  )
  figure = mpl.Figure(figsize=(12, 4.8))
  axes = figure.subplots(1, 2)
  for axis, loss in zip(axes, reporting.LOSSES, strict=True):
    _draw(axis, runs, fixed, 'steps', loss)
    axis.set(xlabel='steps')
  _save(figure, axes[0], folder / 'frontier.png')
  rounds = np.array(runs.rounds.tolist())
  seconds = np.min(runs.seconds / rounds[:, 0])
  figure = mpl.Figure(figsize=(14, 5))
  axes = figure.subplots(1, 3, sharey=True)
  for i, (devices, axis) in enumerate(zip(training.DEVICES, axes, strict=True)):
    timed = runs.assign(seconds=rounds[:, i] * seconds)
    _draw(axis, timed, fixed, 'seconds', 'test_loss')
    axis.set(xlabel='seconds', title=f'P = {devices}')
  figure.supxlabel(CAPTION.format(m=device_batch, s=seconds), fontsize=8)
  _save(figure, axes[0], folder / 'devices.png')
