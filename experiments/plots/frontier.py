"""Steps against loss, and loss against seconds on machines of P devices."""

import pathlib

import numpy as np
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


def _mean_and_error(values):
  values = np.asarray(values, float)
  error = (
    np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0
  )
  return np.mean(values), error


def _draw(axis, schemes, fixed, x_of, loss):
  """The fixed batch sizes as a line and the schemes as points."""
  at = lambda outcomes: (
    np.mean([x_of(outcome) for outcome in outcomes]),
    *_mean_and_error([getattr(outcome, loss) for outcome in outcomes]),
  )
  x, y, error = np.array([at(outcomes) for outcomes in fixed.values()]).T
  axis.errorbar(x, y, error, color='black', marker='.', label='fixed', lw=1)
  for name, *place in zip(fixed, x, y, strict=True):
    axis.annotate(
      name.rpartition('_')[2],
      place,
      textcoords='offset points',
      xytext=(3, 4),
      fontsize=7,
    )
  for name, style in _families(schemes).items():
    x, y, error = at(schemes[name])
    axis.errorbar(
      x, y, error, **style, linestyle='', markersize=5, lw=0.8, label=name
    )
  axis.set(xscale='log', yscale='log', ylabel=loss.replace('_', ' '))
  axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
  axis.yaxis.set_major_formatter('{x:g}')
  axis.yaxis.set_minor_formatter(ticker.NullFormatter())


def _limits(axis, fixed, schemes, loss):
  """Leaves out runs far above all fixed batch sizes, which diverged."""
  of = lambda rows: [
    np.mean([getattr(o, loss) for o in outcomes]) for outcomes in rows.values()
  ]
  top, bottom = max(of(fixed)), min(of(fixed) + of(schemes))
  room = max((top / bottom) ** 0.08, 1.001)
  axis.set_ylim(bottom / room, top * room)


def _legend(figure, axis):
  figure.legend(
    *axis.get_legend_handles_labels(),
    loc='outside right center',
    ncols=1 + len(axis.containers) // 20,
  )


def _steps(schemes, fixed):
  figure = mpl.Figure(figsize=(12, 4.8))
  axes = figure.subplots(1, 2)
  for axis, loss in zip(axes, reporting.LOSSES, strict=True):
    _draw(axis, schemes, fixed, lambda outcome: outcome.steps, loss)
    _limits(axis, fixed, schemes, loss)
    axis.set(xlabel='steps')
  _legend(figure, axes[0])
  return figure


def _devices(schemes, fixed, device_batch):
  figure = mpl.Figure(figsize=(14, 5))
  axes = figure.subplots(1, 3, sharey=True)
  every = [o for outcomes in (fixed | schemes).values() for o in outcomes]
  seconds = min(outcome.seconds / outcome.rounds[0] for outcome in every)
  for i, (devices, axis) in enumerate(zip(training.DEVICES, axes, strict=True)):
    _draw(
      axis,
      schemes,
      fixed,
      lambda outcome, i=i: outcome.rounds[i] * seconds,
      'test_loss',
    )
    _limits(axis, fixed, schemes, 'test_loss')
    axis.set(xlabel='seconds', title=f'P = {devices}')
  figure.supxlabel(CAPTION.format(m=device_batch, s=seconds), fontsize=8)
  _legend(figure, axes[0])
  return figure


def save(
  schemes: reporting.Rows,
  fixed: reporting.Rows,
  device_batch: int,
  folder: pathlib.Path,
) -> None:
  """Draws frontier.png and devices.png."""
  _steps(schemes, fixed).savefig(folder / 'frontier.png', dpi=120)
  _devices(schemes, fixed, device_batch).savefig(
    folder / 'devices.png', dpi=120
  )
