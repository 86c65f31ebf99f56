"""Steps against loss, and seconds on several devices against loss."""

import pathlib

from matplotlib import figure as mpl

from experiments.frontier import reporting


def save(
  schemes: reporting.Rows, fixed: reporting.Rows, folder: pathlib.Path
) -> None:
  """Draws frontier.png."""
  figure = mpl.Figure(figsize=(9, 5), layout='constrained')
  figure.savefig(folder / 'frontier.png', dpi=120)
