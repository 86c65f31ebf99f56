"""Iterations against the number of features, of models linear and not."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from adaopt import logistic
from adaopt.experiments import rates, results
from adaopt.experiments.large_steps import separable, sweeps

MODELS: dict[str, logistic.Model | None] = {
  'linear': None,
  'hadamard': logistic.hadamard(),
  'ReLU': logistic.two_layer(16, jax.random.key(0)),
}

METHODS: dict[str, sweeps.Sweep] = {
  **{name: sweeps.SWEEPS[name] for name in ('LR+GD', 'NLR', 'BP', 'NBP')},
  'perceptron': sweeps.limit(logistic.perceptron, logistic.bounds.perceptron),
}


def measure(
  dimensions: Sequence[int],
  models: Sequence[str] = tuple(MODELS),
  methods: Sequence[str] = tuple(METHODS),
) -> pd.DataFrame:
  """Runs every method of every model with all its step sizes for 2d updates.

  Features are padded by zeros, so that a method is one program for all d, and
  θ_0 of a network does not depend on d. There is a row for each run.
  """
  sets = [separable.one_feature(d) for d in dimensions]
  features = np.zeros([len(sets), 3, max(dimensions)])
  for row, examples in zip(features, sets, strict=True):
    row[:, : examples.features.shape[1]] = examples.features
  limits = 2 * np.array(dimensions)
  frames = []
  for model, method in itertools.product(models, methods):
    found = _solve(model, method, features, sets[0], limits)
    runs = itertools.product(dimensions, METHODS[method].step_sizes)
    d, step_sizes = zip(*runs, strict=True)
    frames.append(
      pd.DataFrame(
        {
          'model': model,
          'method': method,
          'num_features': d,
          'step_size': step_sizes,  # γ; infinite for the perceptrons
          'iterations': np.ravel(found.iterations),
          'solved': np.ravel(found.solved),  # else these are all iterations
        }
      )
    )
  return pd.concat(frames, ignore_index=True)


@jax.jit(static_argnums=(0, 1))
def _solve(model, method, features, examples, limits):
  """Solutions, [dimensions, step sizes]; all sets have the same labels."""

  def of_all_step_sizes(args):
    features, max_steps = args
    return jax.vmap(
      lambda step_size: logistic.solve(
        METHODS[method].make(step_size),
        features,
        examples.labels,
        weights=examples.weights,
        model=MODELS[model],
        max_steps=max_steps,
      )
    )(jnp.array(METHODS[method].step_sizes))

  return jax.lax.map(of_all_step_sizes, (features, limits))


def curve(
  rows: pd.DataFrame, model: str, method: str, step_size: float | None = None
) -> dict[int, int]:
  """Iterations by d, with one step size or with the best for each d.

  Unsolved d are left out.
  """
  found = rows[rows.solved & (rows.model == model) & (rows.method == method)]
  if step_size is not None:
    found = found[found.step_size == step_size]
  return found.groupby('num_features').iterations.min().to_dict()


def exponent(iterations: dict[int, int]) -> float:
  """α of iterations ∝ d^α, by least squares between the logarithms.

  Example:
    >>> from adaopt.experiments.large_steps import scaling
    >>> print(round(scaling.exponent({16: 8, 64: 16, 256: 32}), 6))
    0.5
  """
  return rates.slope(list(iterations), list(iterations.values()))


def curves(rows: pd.DataFrame) -> dict[tuple[str, str, str], dict[int, int]]:
  """(model, method, γ) → iterations by d: with γ = 1, the best γ, and γ = ∞."""
  found = {}
  for (model, method), _ in rows.groupby(['model', 'method'], sort=False):
    if METHODS[method].step_sizes == sweeps.LIMIT:
      found[model, method, '∞'] = curve(rows, model, method)
    else:
      found[model, method, '1'] = curve(rows, model, method, 1.0)
      found[model, method, 'best'] = curve(rows, model, method)
  return found


def table(rows: pd.DataFrame) -> str:
  """Iterations by d, – if not solved in 2d, and α if all are; in Markdown."""
  dimensions = rows.num_features.unique()
  heads = ['model', 'method', 'γ', *(f'd = {d}' for d in dimensions), 'α']
  lines = [heads]
  for key, by in curves(rows).items():
    cells = [str(by.get(d, '–')) for d in dimensions]
    complete = len(by) == len(dimensions) > 1
    slope = f'{exponent(by):.2f}' if complete else '–'
    lines.append([*key, *cells, slope])
  return results.markdown(lines)
