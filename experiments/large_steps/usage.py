"""The examples that methods used, and how far they came with them."""

import pathlib
from typing import NamedTuple

import numpy as np

from adaopt.experiments import results
from adaopt.experiments.large_steps import walks


class Usage(NamedTuple):
  """One row: one method with one step size and one seed on one problem."""

  problem: str
  method: str
  step_size: str  # in words
  seed: int
  passes: float  # over the data until solved; infinite: never
  solved_by: float  # updates until then
  error: float  # share of the examples with m_i ≤ 0 in the end, %
  loss: float  # the mean log-loss in the end
  updates: int
  mean_batch_size: float
  rises: int  # checks between which the loss rose


def summarise(
  problem: str,
  method: str,
  step_sizes: list[str],
  seen: walks.Seen,
  num_examples: int,
) -> list[Usage]:
  """One row per step size and seed.

  The measurements are [step sizes, seeds, checks + 1] each.
  """
  rows = []
  for i, step_size in enumerate(step_sizes):
    for seed in range(seen.errors.shape[1]):
      run = walks.Seen(*(x[i, seed] for x in seen))
      solved = np.flatnonzero(run.errors == 0)[:1]
      examples, by = (
        float(x[solved[0]]) if len(solved) else np.inf
        for x in (run.examples, run.updates)
      )
      rows.append(
        Usage(
          problem=problem,
          method=method,
          step_size=step_size,
          seed=seed,
          passes=examples / num_examples,
          solved_by=by,
          error=float(100 * run.errors[-1] / num_examples),
          loss=float(run.loss[-1]),
          updates=int(run.updates[-1]),
          mean_batch_size=float(run.examples[-1] / run.updates[-1]),
          rises=int(np.sum(np.diff(run.loss) > 0)),
        )
      )
  return rows


def _solved(rows):
  return [row for row in rows if row.passes < np.inf]


def best(rows: list[Usage]) -> str:
  """The step size that solves most often, then soonest, then of least error.

  Example:
    >>> from adaopt.experiments.large_steps import usage
    >>> row = usage.Usage(
    ...   'digits', 'NLR', 'γ = 1', 0, passes=9.0, solved_by=9.0, error=0.0,
    ...   loss=0.1, updates=9, mean_batch_size=356, rises=0)
    >>> never = dict(passes=float('inf'), solved_by=float('inf'), error=0.3)
    >>> usage.best([row._replace(step_size='γ = 2', **never), row])
    'γ = 1'
  """

  def rank(step_size):
    of = [row for row in rows if row.step_size == step_size]
    solved = _solved(of)
    return (
      len(of) - len(solved),
      np.mean([row.passes for row in solved]) if solved else 0,
      np.mean([row.error for row in of]),
      np.mean([row.loss for row in of]),
    )

  return min(dict.fromkeys(row.step_size for row in rows), key=rank)


def _until_solved(rows, field, style):
  """The mean over the seeds that solved; how many never did, if some."""
  solved = _solved(rows)
  if not solved:
    return ''
  values = [getattr(row, field) for row in solved]
  cell = results.mean_and_deviation(values, style)
  missing = len(rows) - len(solved)
  return f'{cell} ({missing} never)' if missing else cell


COLUMNS = {
  'error': ('error, %', '.3f'),
  'loss': ('log-loss', '.3g'),
  'updates': ('updates', '.0f'),
  'mean_batch_size': ('mean batch', '.0f'),
  'rises': ('rises', '.0f'),
}


def table(rows: list[Usage]) -> str:
  """The best step size of every method, in Markdown; means over seeds."""
  titles = [title for title, _ in COLUMNS.values()]
  until = {'passes': '.1f', 'solved_by': '.0f'}
  until_solved = ['passes to solve', 'updates to solve']
  lines = [['problem', 'method', 'step size', *until_solved, *titles]]
  for problem, method in dict.fromkeys((r.problem, r.method) for r in rows):
    of = [r for r in rows if (r.problem, r.method) == (problem, method)]
    step_size = best(of)
    of = [row for row in of if row.step_size == step_size]
    cells = [
      results.mean_and_deviation([getattr(row, name) for row in of], style)
      for name, (_, style) in COLUMNS.items()
    ]
    solved = [_until_solved(of, *field) for field in until.items()]
    lines.append([problem, method, step_size, *solved, *cells])
  return results.markdown(lines)


def save(rows: list[Usage], folder: pathlib.Path) -> None:
  """Writes stochastic.csv, one line per run, and stochastic.md."""
  results.save(rows, table(rows), folder, 'stochastic')
