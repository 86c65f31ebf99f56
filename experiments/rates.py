"""Compares runs with theory: rates of ‖∇F‖², and whether tests held."""

from typing import NamedTuple

import numpy as np

from adaopt.experiments import results

FIRST = 30
"""Slopes are fitted to the steps from K / FIRST to K."""


class Trace(NamedTuple):
  """Measurements of a scheme's runs at x_1, …, x_K, before each update."""

  batch_size: np.ndarray  # b, [seeds, K]
  squared_norm: np.ndarray  # ‖∇F‖², [seeds, K]
  noise: np.ndarray  # E‖g_B − ∇F‖² / ‖∇F‖² over B of size b, [seeds, K]
  coordinates: np.ndarray  # the share that passes the test, [seeds, K]


class Result(NamedTuple):
  """One row: one scheme, one seed. Shares are in %; None if no step counts."""

  scheme: str
  seed: int
  steps: int
  examples: int
  step_slope: float  # of log min ‖∇F‖² against log K
  mean_slope: float  # of log mean ‖∇F‖² against log K
  example_slope: float  # of log min ‖∇F‖² against log examples
  squared_norm: float  # min ‖∇F‖²
  eta: float
  held: float  # steps with E‖g_B − ∇F‖² ≤ η² ‖∇F‖²
  below: float  # steps with b < n
  holds: float | None  # of those, E‖g_B − ∇F‖² ≤ η² ‖∇F‖²
  nearly: float | None  # of those, E‖g_B − ∇F‖² ≤ 2 η² ‖∇F‖²
  coordinates: float | None  # share that passes, mean over those steps
  all_coordinates: float | None  # of those steps, every coordinate passes


RATES = {
  'steps': ('K', '.0f'),
  'examples': ('examples', '.2e'),
  'step_slope': ('min: slope in K', '.2f'),
  'example_slope': ('in examples', '.2f'),
  'mean_slope': ('mean: slope in K', '.2f'),
  'squared_norm': ('min ‖∇F‖²', '.1e'),
}
TESTS = {
  'eta': ('η', '.3g'),
  'held': ('holds', '.1f'),
  'below': ('steps with b < n', '.1f'),
  'holds': ('there: holds', '.1f'),
  'nearly': ('within 2×', '.1f'),
  'coordinates': ('coordinates that hold', '.1f'),
  'all_coordinates': ('all do', '.1f'),
}


def running_min(squared_norm: np.ndarray) -> np.ndarray:
  """min_{k ≤ K} ‖∇F(x_k)‖² for every K, along the last axis."""
  return np.minimum.accumulate(squared_norm, -1)


def running_mean(squared_norm: np.ndarray) -> np.ndarray:
  """(1/K) Σ_{k ≤ K} ‖∇F(x_k)‖² for every K, along the last axis."""
  sums = np.cumsum(squared_norm, -1, dtype=np.float64)
  return sums / np.arange(1, sums.shape[-1] + 1)


def slope(x: np.ndarray, y: np.ndarray) -> float:
  """The slope of log y on log x, by least squares."""
  return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def fit_slope(x: np.ndarray, y: np.ndarray) -> float:
  """Fits the slope of a power law to the last part of a curve.

  Least squares of log y on log x at up to 50 of the K points, evenly spaced in
  log K from K / 30 on, so that late points do not dominate.

  Args:
    x: Abscissas. [K], positive.
    y: Ordinates. [K].

  Returns:
    The slope; NaN if a y is not positive.

  Example:
    >>> import numpy as np
    >>> from adaopt.experiments import rates
    >>> steps = np.arange(1, 1001)
    >>> print(f'{rates.fit_slope(steps, 3 / steps):.3f}')
    -1.000
  """
  last = len(y)
  ks = np.geomspace(max(last // FIRST, 1), last, 50)
  ks = np.unique(np.round(ks).astype(int)) - 1
  if len(ks) < 2 or not np.all(y[ks] > 0):
    return float('nan')
  return slope(x[ks], y[ks])


def _percent(passed: np.ndarray) -> float | None:
  return 100 * float(np.mean(passed)) if passed.size else None


def summarise(
  scheme: str, trace: Trace, *, eta: float, num_examples: int
) -> list[Result]:
  """The rows of a scheme.

  η is that of the exact-variance test, n the batch size without noise.
  """
  rows = []
  for seed, (sizes, norms, noise, coordinates) in enumerate(
    zip(*trace, strict=True)
  ):
    examples = np.cumsum(sizes, dtype=np.int64)
    steps, least = np.arange(1, len(sizes) + 1), running_min(norms)
    held, below = noise <= eta**2, sizes < num_examples
    noise, coordinates = noise[below], coordinates[below]
    rows.append(
      Result(
        scheme=scheme,
        seed=seed,
        steps=len(sizes),
        examples=int(examples[-1]),
        step_slope=fit_slope(steps, least),
        mean_slope=fit_slope(steps, running_mean(norms)),
        example_slope=fit_slope(examples, least),
        squared_norm=float(least[-1]),
        eta=eta,
        held=_percent(held),
        below=_percent(below),
        holds=_percent(held[below]),
        nearly=_percent(noise <= 2 * eta**2),
        coordinates=_percent(coordinates),
        all_coordinates=_percent(coordinates == 1),
      )
    )
  return rows


def tables(rows: list[Result]) -> str:
  """Both tables: the rates, and the shares of steps at which a test held."""
  return '\n\n'.join(
    results.averages(rows, columns) for columns in (RATES, TESTS)
  )
