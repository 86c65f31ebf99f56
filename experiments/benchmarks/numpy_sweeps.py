"""Sweeps of step sizes to solution, in straightforward numpy.

A problem is A = y a, [n, d] float32; a method is 'LR+GD' or 'NLR'.
"""

from collections.abc import Callable, Sequence

import numpy as np


def iterations(
  method: str, rows: np.ndarray, step_size: float, max_steps: int
) -> int:
  """The iterations of one run."""
  scale = np.float32(step_size / len(rows))
  theta, margins = np.zeros_like(rows[0]), np.zeros_like(rows[:, 0])
  for count in range(max_steps):
    if np.min(margins) > 0:
      return count
    residuals = 1 / (1 + np.exp(margins))
    change = scale * (residuals @ rows)
    if method == 'NLR':
      change /= np.mean(residuals)
    theta += change
    margins = rows @ theta
  return max_steps


def in_turn(
  method: str, rows: np.ndarray, step_sizes: Sequence[float], max_steps: int
) -> list[int]:
  """One run after another."""
  return [iterations(method, rows, size, max_steps) for size in step_sizes]


def together(
  method: str, rows: np.ndarray, step_sizes: Sequence[float], max_steps: int
) -> np.ndarray:
  """All step sizes at once, dropping those that have ended. [step sizes]."""
  scales = np.float32(np.array(step_sizes) / len(rows))[:, None]
  counts = np.full(len(scales), max_steps)
  left = np.arange(len(scales))
  thetas = np.zeros([len(scales), rows.shape[1]], np.float32)
  margins = np.zeros([len(scales), len(rows)], np.float32)
  for count in range(max_steps):
    waiting = np.min(margins, 1) <= 0
    if not np.all(waiting):
      counts[left[~waiting]] = count
      left, scales, thetas, margins = (
        x[waiting] for x in (left, scales, thetas, margins)
      )
      if not len(left):
        break
    residuals = 1 / (1 + np.exp(margins))
    changes = scales * (residuals @ rows)
    if method == 'NLR':
      changes /= np.mean(residuals, 1, keepdims=True)
    thetas += changes
    margins = thetas @ rows.T
  return counts


LAYOUTS = {'numpy': in_turn, 'numpy, together': together}


def sweep(
  layout: Callable,
  method: str,
  problems: list[np.ndarray],
  step_sizes: Sequence[float],
  *,
  max_steps: int,
) -> np.ndarray:
  """Every problem with every step size, [problems, step sizes]."""
  with np.errstate(over='ignore'):  # e^m = ∞ gives p = 0, as it should
    return np.array(
      [layout(method, rows, step_sizes, max_steps) for rows in problems]
    )
