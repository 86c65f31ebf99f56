"""Which method for which data, on sets that differ in one thing at a time.

python -m adaopt.experiments.large_steps.choosing --workdir=DIR

Random examples around a hyperplane through 0, divided by R: with a margin or
with flipped labels, balanced or not, many or few beside the features. Every
method makes 1000 iterations; the tables have the iterations until every margin
is positive, the margin over the largest possible, and the accuracy on as many
new examples.
"""

import functools
from typing import NamedTuple

import jax
import numpy as np
import pandas as pd

from adaopt import logistic
from adaopt.experiments import command_line, options, results
from adaopt.experiments.large_steps import separable, solutions

NUM_STEPS = 1000
SEED = 0


class Kind(NamedTuple):
  """How a set is made."""

  n: int = 500
  d: int = 50
  margin: float = 0.1  # in the unit of the deviation of a feature
  flipped: float = 0.0  # share of wrong labels, in the training examples
  positive: float = 0.5  # share of the class +1


KINDS = {
  'separable': Kind(),
  'imbalanced, 1 in 20': Kind(positive=0.05),
  'n ≫ d': Kind(n=5000, d=10),
  'n < d': Kind(n=100, d=500),
  'narrow margin': Kind(n=2000, d=20, margin=0.01),
  'nearly separable, 1 % flipped': Kind(flipped=0.01),
  'not separable, 15 % flipped': Kind(flipped=0.15),
  'not separable, imbalanced': Kind(flipped=0.05, positive=0.1),
}

METHODS = {
  'LR+GD, γ = 4': logistic.lr_gd(4.0),  # 1/L at R = 1
  'LR+GD, γ = 1000': logistic.lr_gd(1000.0),
  'NLR, γ = 1': logistic.normalized_lr_gd(1.0),
  'NLR, γ = 100': logistic.normalized_lr_gd(100.0),
  'mean of NLR, γ = 100': logistic.averaged(logistic.normalized_lr_gd(100.0)),
  'perceptron': logistic.perceptron(),
  'mean of perceptron': logistic.averaged(logistic.perceptron()),
  'dual momentum': logistic.dual_momentum(),
  'Nesterov': logistic.nesterov(),
  'LR+GD, γ = 100, λ = 0.001': logistic.regularized_lr_gd(100.0, 1e-3),
}


def draw(kind: Kind) -> tuple[separable.Examples, separable.Examples]:
  """Training and new examples, divided by the R of the training examples."""
  rng = np.random.default_rng(SEED)
  direction = rng.normal(size=kind.d)
  direction /= np.linalg.norm(direction)
  labels = np.where(rng.random(2 * kind.n) < kind.positive, 1, -1)
  features = rng.normal(size=(2 * kind.n, kind.d))
  along = features @ direction
  # Reflected to their side, and moved off the hyperplane.
  wanted = labels * (np.abs(along) + kind.margin)
  features += (wanted - along)[:, None] * direction
  radius = np.max(np.linalg.norm(features[: kind.n], axis=1))
  train, new = (
    separable.Examples(features[half] / radius, labels[half], np.ones(kind.n))
    for half in (slice(None, kind.n), slice(kind.n, None))
  )
  signs = np.where(rng.random(kind.n) < kind.flipped, -1, 1)
  return train._replace(labels=train.labels * signs), new


def run_all(name: str, num_steps: int = NUM_STEPS) -> pd.DataFrame:
  """A row for each method on a kind of data."""
  train, new = draw(KINDS[name])
  largest = np.nan
  if KINDS[name].flipped == 0:
    largest = float(logistic.max_margin(train.features, train.labels).margin)
  rows = []
  for method_name, method in METHODS.items():
    record = functools.partial(logistic.record, method, num_steps=num_steps)
    found, _ = jax.jit(record)(train.features, train.labels)
    scores = new.labels * (new.features @ np.asarray(found.params))
    rows.append(
      {
        'kind': name,
        'method': method_name,
        'iterations': int(found.iterations),
        'solved': bool(found.solved),
        # The largest margin over μ; NaN where nothing separates.
        'share': float(found.best_margin) / largest,
        'accuracy': np.mean(scores > 0),  # of the last iterate, on new examples
      }
    )
  return pd.DataFrame(rows)


CELLS: dict[str, results.Cell] = {
  'iterations': solutions.iterations,
  'margin over μ': lambda row: (
    f'{row.share:.3f}' if np.isfinite(row.share) else ''
  ),
  'accuracy, %': lambda row: f'{100 * row.accuracy:.1f}',
}


def tables(rows: pd.DataFrame) -> str:
  """Iterations, margins and accuracy, by kind of data and method."""
  return '\n\n'.join(
    results.crossed(rows, {title: 'method'}, lambda row: row.kind, cell)
    for title, cell in CELLS.items()
  )


def main() -> None:
  """Prints and saves the tables."""
  jax.config.update('jax_enable_x64', True)
  folder = options.make_workdir()
  rows = pd.concat(map(run_all, KINDS))
  results.save(rows, tables(rows), folder, 'choosing')
  print(tables(rows))


if __name__ == '__main__':
  command_line.run(main, ['workdir'])
