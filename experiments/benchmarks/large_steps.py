"""Times a sweep to solution on all pairs of digits, in one program.

python -m experiments.benchmarks.large_steps

Every pair of scikit-learn's digits is solved with every step size. numpy does
one run after another, each as long as it takes; scikit-learn has neither
method, but other linear classifiers.
"""

import functools
import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from absl import app
from sklearn import exceptions, linear_model

from adaopt import logistic
from experiments import options, separable
from experiments.benchmarks import timing

STEP_SIZES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
MAX_STEPS = 10_000
METHODS = {'LR+GD': logistic.lr_gd, 'NLR': logistic.normalized_lr_gd}


def padded(pairs: list[separable.Examples]) -> separable.Examples:
  """Problems of unequal n as one, padded by examples that count 0 times.

  Args:
    pairs: The problems, of one d.

  Returns:
    Features [pairs, n, d] float32, labels and weights [pairs, n].
  """
  n = max(len(pair.labels) for pair in pairs)

  def stack(arrays, fill, dtype):
    rows = [
      np.pad(
        x,
        [(0, n - len(x))] + [(0, 0)] * (x.ndim - 1),
        constant_values=fill,
      )
      for x in arrays
    ]
    return np.stack(rows).astype(dtype)

  return separable.Examples(
    features=stack([pair.features for pair in pairs], 0, np.float32),
    labels=stack([pair.labels for pair in pairs], 1, np.int32),
    weights=stack([pair.weights for pair in pairs], 0, np.float32),
  )


def in_one_program(make, pairs: separable.Examples):
  """() → iterations [pairs, step sizes]."""

  def iterations(step_size, pair):
    return logistic.solve(
      make(step_size),
      pair.features,
      pair.labels,
      weights=pair.weights,
      max_steps=MAX_STEPS,
    ).iterations

  over_steps = jax.vmap(iterations, (0, None))
  sweep = jax.jit(jax.vmap(over_steps, (None, 0)))
  return functools.partial(
    sweep, jnp.array(STEP_SIZES), jax.tree.map(jnp.asarray, pairs)
  )


def numpy_iterations(method: str, rows: np.ndarray, step_size: float) -> int:
  """One run in numpy, on A = y a, [n, d]."""
  scale = np.float32(step_size / len(rows))
  theta, margins = np.zeros_like(rows[0]), np.zeros_like(rows[:, 0])
  for count in range(MAX_STEPS):
    if np.min(margins) > 0:
      return count
    residuals = 1 / (1 + np.exp(margins))
    change = scale * (residuals @ rows)
    if method == 'NLR':
      change /= np.mean(residuals)
    theta += change
    margins = rows @ theta
  return MAX_STEPS


def numpy_sweep(method: str, all_rows: list[np.ndarray]) -> np.ndarray:
  """Every pair with every step size, one after another."""
  with np.errstate(over='ignore'):  # e^m = ∞ gives p = 0, as it should
    return np.array(
      [
        [numpy_iterations(method, rows, step_size) for step_size in STEP_SIZES]
        for rows in all_rows
      ]
    )


def fit_sklearn(make, pairs: list[separable.Examples]) -> float:
  """One fit for each pair; the share of pairs that it separates."""
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', exceptions.ConvergenceWarning)
    fits = [make().fit(pair.features, pair.labels) for pair in pairs]
  return np.mean(
    [
      fit.score(pair.features, pair.labels) == 1
      for fit, pair in zip(fits, pairs, strict=True)
    ]
  )


SKLEARN = {
  'Perceptron': lambda: linear_model.Perceptron(
    fit_intercept=False, tol=None, max_iter=1000, n_iter_no_change=1000
  ),
  'LogisticRegression': lambda: linear_model.LogisticRegression(
    fit_intercept=False, C=1e8, max_iter=MAX_STEPS
  ),
}


def main(argv: list[str]) -> None:
  """Prints one row for every method, and one for each of scikit-learn's."""
  del argv
  options.quiet()
  pairs = [
    separable.digits_pair(pair) for pair in itertools.combinations(range(10), 2)
  ]
  single = [
    pair._replace(features=pair.features.astype(np.float32)) for pair in pairs
  ]
  all_rows = [
    pair.labels[:, None].astype(np.float32) * pair.features for pair in single
  ]
  runners = {}
  for method, make in METHODS.items():
    runners[method, 'one program'] = in_one_program(make, padded(pairs))
    runners[method, 'numpy'] = functools.partial(numpy_sweep, method, all_rows)
  for name, make in SKLEARN.items():
    runners[name] = functools.partial(fit_sklearn, make, single)
  medians = timing.in_turns(runners)
  timing.print_machine()
  timing.print_header(
    'method', 'runs', 'iterations', 'one program, ms', 'numpy, ms', 'ratio'
  )
  for method in METHODS:
    counts = np.asarray(runners[method, 'one program']())
    ours, theirs = (medians[method, k] for k in ('one program', 'numpy'))
    timing.print_row(
      method,
      counts.size,
      counts.sum(),
      f'{ours:.0f}',
      f'{theirs:.0f}',
      f'{theirs / ours:.1f}',
    )
  timing.print_header('scikit-learn', 'fits', 'pairs separated', 'ms')
  for name in SKLEARN:
    share = runners[name]()
    timing.print_row(
      name, len(pairs), f'{100 * share:.0f} %', f'{medians[name]:.0f}'
    )


if __name__ == '__main__':
  app.run(main)
