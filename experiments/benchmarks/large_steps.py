"""Times sweeps of step sizes to solution, in one program and in numpy.

python -m experiments.benchmarks.large_steps [--data_dir=DIR]

First all pairs of scikit-learn's digits, 45 small problems; then, where there
is a data folder, two classes of MNIST. numpy does one run after another, each
as long as it takes. scikit-learn has neither method, but other classifiers of
the same kind.
"""

import functools
import itertools
import sys
import warnings
from collections.abc import Callable

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


def _iterations(make, step_size, examples):
  return logistic.solve(
    make(step_size),
    examples.features,
    examples.labels,
    weights=examples.weights,
    max_steps=MAX_STEPS,
  ).iterations


def together(make: Callable) -> Callable:
  """Step sizes side by side: one pass over the data serves them all.

  Args:
    make: step size → method.

  Returns:
    (step sizes, examples) → iterations, [step sizes].
  """
  return jax.vmap(functools.partial(_iterations, make), (0, None))


def in_turn(make: Callable) -> Callable:
  """One run after another, so that none waits for the slowest."""
  single = functools.partial(_iterations, make)
  return lambda step_sizes, examples: jax.lax.map(
    lambda step_size: single(step_size, examples), step_sizes
  )


# (make) → (step sizes, pairs) → iterations, [pairs, step sizes].
LAYOUTS = {
  'vmap': lambda make: jax.vmap(together(make), (None, 0)),
  'map': lambda make: (
    lambda step_sizes, pairs: jax.lax.map(
      functools.partial(in_turn(make), step_sizes), pairs
    )
  ),
}


def runner(sweep: Callable, examples: separable.Examples) -> Callable:
  """() → what a compiled sweep gives for the step sizes."""
  return functools.partial(
    jax.jit(sweep), jnp.array(STEP_SIZES), jax.tree.map(jnp.asarray, examples)
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


def numpy_sweep(method: str, problems: list[np.ndarray]) -> np.ndarray:
  """Every problem with every step size, [problems, step sizes]."""
  with np.errstate(over='ignore'):  # e^m = ∞ gives p = 0, as it should
    return np.array(
      [
        [numpy_iterations(method, rows, step_size) for step_size in STEP_SIZES]
        for rows in problems
      ]
    )


def numpy_rows(examples: separable.Examples) -> np.ndarray:
  """A = y a, [n, d] float32."""
  return np.float32(examples.labels[:, None] * examples.features)


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


def _compare(layouts, examples, problems):
  """Times layouts against numpy for every method, and prints a row each."""
  runners = {}
  for method, make in METHODS.items():
    for layout, sweep in layouts.items():
      runners[method, layout] = runner(sweep(make), examples)
    runners[method, 'numpy'] = functools.partial(numpy_sweep, method, problems)
  medians = timing.in_turns(runners)
  timing.print_header(
    'method',
    'runs',
    'iterations',
    'numpy, ms',
    *(f'{layout}, ms' for layout in layouts),
    *(f'numpy / {layout}' for layout in layouts),
  )
  for method in METHODS:
    counts = runners[method, 'numpy']()
    baseline = medians[method, 'numpy']
    ours = [medians[method, layout] for layout in layouts]
    timing.print_row(
      method,
      counts.size,
      counts.sum(),
      f'{baseline:.0f}',
      *(f'{time:.0f}' for time in ours),
      *(f'{baseline / time:.2f}' for time in ours),
    )


def _time_sklearn(pairs):
  """Times scikit-learn's fits, one for each pair."""
  runners = {
    name: functools.partial(fit_sklearn, make, pairs)
    for name, make in SKLEARN.items()
  }
  medians = timing.in_turns(runners)
  timing.print_header('scikit-learn', 'fits', 'pairs separated', 'ms')
  for name, fit in runners.items():
    timing.print_row(
      name, len(pairs), f'{100 * fit():.0f} %', f'{medians[name]:.0f}'
    )


def main(argv: list[str]) -> None:
  """Prints a table of the digits, one of scikit-learn and one of MNIST."""
  del argv
  options.quiet()
  timing.print_machine()
  pairs = [
    separable.digits_pair(pair) for pair in itertools.combinations(range(10), 2)
  ]
  _compare(LAYOUTS, padded(pairs), [numpy_rows(pair) for pair in pairs])
  _time_sklearn(pairs)
  if options.DATA_DIR.value is None:
    return
  try:
    mnist = separable.PROBLEMS['mnist'](options.DATA_DIR.value)
  except (OSError, ValueError) as error:
    sys.exit(str(error))
  single = mnist._replace(features=np.float32(mnist.features))
  _compare({'vmap': together}, single, [numpy_rows(mnist)])


if __name__ == '__main__':
  app.run(main)
