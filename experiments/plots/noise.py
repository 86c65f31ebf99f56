"""The noise scale of every tensor against examples, with its interval."""

import pathlib

import numpy as np
from matplotlib import figure as mpl

from adaopt import noise


def save(
  reports: list[noise.NoiseReport],
  exact: dict[str, np.ndarray],
  path: pathlib.Path,
) -> None:
  """Draws a panel for the whole network and for every tensor.

  `exact` has the noise scale over the data set at each report, by row; {} if it
  was not computed.
  """
  rows = [(report.total, *report.tensors) for report in reports]
  examples = [report.examples / 1000 for report in reports]
  columns = -(-len(rows[0]) // 2)
  figure = mpl.Figure(figsize=(3.2 * columns, 5.6))
  axes = figure.subplots(2, columns, sharex=True, sharey=True).ravel()
  for axis, tensor in zip(axes, zip(*rows, strict=True), strict=False):
    ends = np.array([[row.low, row.high] for row in tensor]).T
    known = ends[1][np.isfinite(ends[1])]
    top = 2 * np.max(known) if len(known) else 1e6
    low, high = np.where(np.isinf(ends), top, ends)
    axis.fill_between(examples, low, high, alpha=0.3, linewidth=0)
    scales = np.array([row.noise_scale for row in tensor])
    axis.plot(examples, np.where(np.isinf(scales), np.nan, scales))
    if tensor[0].name in exact:
      axis.plot(examples, exact[tensor[0].name], 'k.', markersize=5)
    sizes = [report.batch_size for report in reports]
    axis.plot(examples, sizes, color='black', linewidth=0.8, linestyle='--')
    axis.set_title(tensor[0].name, fontsize='medium')
    axis.set_yscale('log')
  for axis in axes[len(rows[0]) :]:
    axis.axis('off')
  figure.supxlabel(
    'thousands of examples; line and 95 %: the instrument, dots: the whole '
    'data set, dashes: the batch size',
    fontsize='small',
  )
  figure.supylabel('noise scale, examples')
  figure.savefig(path, dpi=120)
