"""Costs as multiples of a baseline."""

import pathlib

from matplotlib import figure as mpl


def check_path(path: pathlib.Path) -> None:
  """Raises ValueError unless a picture can be saved at a path."""
  if not path.parent.is_dir():
    raise ValueError(f'the folder of {path} does not exist; create it first.')
  formats = mpl.Figure().canvas.get_supported_filetypes()
  if path.suffix[1:].lower() not in formats:
    raise ValueError(
      f'{path} has no known format; use one of the suffixes '
      f'{", ".join(sorted(formats))}.'
    )


def save(ratios: dict[str, dict[str, float]], path: pathlib.Path) -> None:
  """Draws costs as multiples of a baseline, on a logarithmic axis.

  `ratios` maps network → function → cost.
  """
  figure = mpl.Figure(figsize=(9, 3.2))
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
  axes.legend(ncols=len(functions))
  axes.margins(y=0.25)
  axes.grid(visible=False)
  figure.savefig(path, dpi=150)
