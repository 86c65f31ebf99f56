"""The tables of a frontier: fixed batch sizes, and what each scheme saves."""

from collections.abc import Sequence

import numpy as np

from adaopt.experiments import results
from adaopt.experiments.frontier import saving, trials

LOSSES = {'train_loss': 'train loss', 'test_loss': 'test loss'}

Rows = dict[str, list[trials.Outcome]]
"""Scheme → its outcomes, in the order of the seeds."""


def point(outcomes: Sequence[trials.Outcome], loss: str) -> saving.Point:
  """Steps and one of the losses of the runs of a scheme."""
  return saving.Point(
    np.array([outcome.steps for outcome in outcomes], float),
    np.array([getattr(outcome, loss) for outcome in outcomes]),
  )


def savings(schemes: Rows, fixed: Rows, loss: str) -> dict[str, saving.Saving]:
  """What each scheme saves at equal loss, of those with all seeds."""
  against = [point(outcomes, loss) for outcomes in fixed.values()]
  return {
    name: saving.saving(point(outcomes, loss), against)
    for name, outcomes in schemes.items()
  }


def _mean(outcomes, name, style):
  values = [getattr(outcome, name) for outcome in outcomes]
  return results.mean_and_deviation(values, style)


def line(
  name: str, learning_rate: float, outcomes: Sequence[trials.Outcome]
) -> str:
  """One scheme in a line, for whoever waits."""
  return (
    f'{name}: learning rate {learning_rate:.3g}, '
    f'{_mean(outcomes, "steps", ".0f")} steps, test loss '
    f'{_mean(outcomes, "test_loss", ".4f")}'
  )


def _percent(found: saving.Saving) -> str:
  error = '' if np.isnan(found.error) else f' ± {100 * found.error:.0f}'
  return f'{found.bound}{" " * bool(found.bound)}{100 * found.share:.0f}{error}'


def table(schemes: Rows, fixed: Rows, rates: dict[str, float]) -> str:
  """Every scheme in Markdown, by rising steps.

  Args:
    schemes: The schemes.
    fixed: The fixed batch sizes, with the same seeds.
    rates: Scheme or fixed batch size → the learning rate of its runs.

  Returns:
    Mean ± standard deviation over seeds; steps saved at equal loss in %, with
    their standard error.
  """
  saved = {loss: savings(schemes, fixed, loss) for loss in LOSSES}
  every = fixed | schemes
  steps = lambda name: np.mean([outcome.steps for outcome in every[name]])
  lines = []
  for name in sorted(every, key=steps):
    outcomes = every[name]
    cells = {
      'scheme': name,
      'learning rate': f'{rates[name]:.3g}',
      'steps': _mean(outcomes, 'steps', '.0f'),
    }
    for loss, title in LOSSES.items():
      cells[title] = _mean(outcomes, loss, '.4f')
    cells['test accuracy'] = _mean(outcomes, 'test_accuracy', '.4f')
    cells['seconds'] = f'{np.mean([o.seconds for o in outcomes]):.1f}'
    for loss, title in LOSSES.items():
      share = _percent(saved[loss][name]) if name in schemes else ''
      cells[f'% saved at equal {title}'] = share
    lines.append(list(cells.values()))
  return results.markdown([list(cells), *lines])
