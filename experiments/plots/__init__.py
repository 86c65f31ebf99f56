"""The pictures of the experiments, in one style."""

import matplotlib

matplotlib.rcParams.update(
  {
    'axes.grid': True,
    'figure.constrained_layout.use': True,
    'grid.alpha': 0.3,
    'legend.fontsize': 'small',
    'legend.frameon': False,
    'savefig.dpi': 100,
  }
)
