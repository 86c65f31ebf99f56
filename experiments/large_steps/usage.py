"""The examples that methods used, and how far they came with them."""

import numpy as np
import pandas as pd

from adaopt.experiments import results
from adaopt.experiments.large_steps import walks


def summarise(
  problem: str,
  method: str,
  step_sizes: list[str],
  seen: walks.Seen,
  num_examples: int,
) -> pd.DataFrame:
  """A row for each step size and seed.

  The measurements are [step sizes, seeds, checks + 1] each.
  """
  solved = seen.errors == 0
  first = np.argmax(solved, -1, keepdims=True)

  def until_solved(x):
    at_first = np.take_along_axis(x, first, -1)[..., 0]
    return np.where(np.any(solved, -1), at_first, np.inf)

  last = walks.Seen(*(x[..., -1] for x in seen))
  columns = {
    # Over the data until solved; infinite: never.
    'passes': until_solved(seen.examples) / num_examples,
    'solved_by': until_solved(seen.updates),  # updates until then
    'error': 100 * last.errors / num_examples,  # m_i ≤ 0 in the end, %
    'loss': last.loss.astype(float),  # the mean log-loss in the end
    'updates': last.updates,
    'mean_batch_size': last.examples / last.updates,
    # Checks between which the loss rose.
    'rises': np.sum(np.diff(seen.loss) > 0, -1),
  }
  runs = {
    'problem': [problem],
    'method': [method],
    'step_size': step_sizes,  # in words
    'seed': range(solved.shape[1]),
  }
  return pd.DataFrame(
    {name: np.ravel(values) for name, values in columns.items()},
    index=pd.MultiIndex.from_product([*runs.values()], names=[*runs]),
  ).reset_index()


def best(rows: pd.DataFrame) -> str:
  """The step size that solves most often, then soonest, then of least error.

  Example:
    >>> import pandas as pd
    >>> from adaopt.experiments.large_steps import usage
    >>> rows = pd.DataFrame({
    ...   'step_size': ['γ = 2', 'γ = 1'], 'passes': [float('inf'), 9.0],
    ...   'error': [0.3, 0.0], 'loss': 0.1})
    >>> usage.best(rows)
    'γ = 1'
  """
  never = rows.passes == np.inf
  by = {'never': never, 'passes': rows.passes.mask(never)}
  means = (
    rows.assign(**by)
    .groupby('step_size', sort=False)[['never', 'passes', 'error', 'loss']]
    .mean()
  )
  return means.sort_values(list(means)).index[0]


UNTIL_SOLVED = {
  'passes': ('passes to solve', '.1f'),
  'solved_by': ('updates to solve', '.0f'),
}
AFTER_ALL = {
  'error': ('error, %', '.3f'),
  'loss': ('log-loss', '.3g'),
  'updates': ('updates', '.0f'),
  'mean_batch_size': ('mean batch', '.0f'),
  'rises': ('rises', '.0f'),
}


def _cells(rows):
  """Means over the seeds, or those that solved; how many never did, if some."""
  solved = rows[rows.passes < np.inf]
  missing = len(rows) - len(solved)
  note = f' ({missing} never)' if missing and len(solved) else ''
  for name, (_, style) in UNTIL_SOLVED.items():
    yield results.mean_and_deviation(solved[name], style) + note
  for name, (_, style) in AFTER_ALL.items():
    yield results.mean_and_deviation(rows[name], style)


def table(rows: pd.DataFrame) -> str:
  """The best step size of every method, in Markdown; means over seeds."""
  titles = [title for title, _ in (UNTIL_SOLVED | AFTER_ALL).values()]
  lines = [['problem', 'method', 'step size', *titles]]
  for key, of in rows.groupby(['problem', 'method'], sort=False):
    step_size = best(of)
    lines.append([*key, step_size, *_cells(of[of.step_size == step_size])])
  return results.markdown(lines)
