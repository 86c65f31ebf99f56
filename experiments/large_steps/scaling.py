"""Iterations against the number of features, of models linear and not."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adaopt import logistic
from adaopt.experiments import rates, results
from adaopt.experiments.large_steps import separable, sweeps

MODELS: dict[str, logistic.Model | None] = {
  'linear': None,
  'hadamard': logistic.hadamard(),
  'ReLU': logistic.two_layer(16, jax.random.key(0)),
}

METHODS: dict[str, sweeps.Sweep] = {
  'LR+GD': sweeps.SWEEPS['LR+GD'],
  'NLR': sweeps.SWEEPS['NLR'],
  'BP': sweeps.SWEEPS['BP'],
  'NBP': sweeps.SWEEPS['NBP'],
  'perceptron': sweeps.Sweep(
    lambda _: logistic.perceptron(),
    lambda n, r, mu, _: logistic.bounds.perceptron(n, r, mu),
    sweeps.LIMIT,
  ),
}


class Row(NamedTuple):
  """One method with one step size, of one model, on `one_feature(d)`."""

  model: str
  method: str
  num_features: int  # d
  step_size: float  # γ; infinite for the perceptrons
  iterations: int  # until the first solution, else all
  solved: bool


def measure(
  dimensions: Sequence[int],
  models: Sequence[str] = tuple(MODELS),
  methods: Sequence[str] = tuple(METHODS),
) -> list[Row]:
  """Runs every method of every model with all its step sizes for 2d updates.

  Features are padded by zeros, so that a method is one program for all d, and
  θ_0 of a network does not depend on d.
  """
  sets = [separable.one_feature(d) for d in dimensions]
  features = np.zeros([len(sets), 3, max(dimensions)])
  for row, examples in zip(features, sets, strict=True):
    row[:, : examples.features.shape[1]] = examples.features
  limits = 2 * np.array(dimensions)
  rows = []
  for model in models:
    for method in methods:
      found = _solve(model, method, features, sets[0], limits)
      for i, d in enumerate(dimensions):
        for j, step_size in enumerate(METHODS[method].step_sizes):
          iterations, solved = found.iterations[i, j], found.solved[i, j]
          rows.append(
            Row(model, method, d, step_size, int(iterations), bool(solved))
          )
  return rows


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
  rows: list[Row], model: str, method: str, step_size: float | None = None
) -> dict[int, int]:
  """Iterations by d, with one step size or with the best for each d.

  Unsolved d are left out.
  """
  found = {}
  for row in rows:
    chosen = step_size is None or row.step_size == step_size
    if (row.model, row.method) == (model, method) and chosen and row.solved:
      d = row.num_features
      found[d] = min(row.iterations, found.get(d, row.iterations))
  return found


def exponent(iterations: dict[int, int]) -> float:
  """α of iterations ∝ d^α, by least squares between the logarithms.

  Example:
    >>> from adaopt.experiments.large_steps import scaling
    >>> print(round(scaling.exponent({16: 8, 64: 16, 256: 32}), 6))
    0.5
  """
  return rates.slope(list(iterations), list(iterations.values()))


def curves(rows: list[Row]) -> dict[tuple[str, str, str], dict[int, int]]:
  """(model, method, γ) → iterations by d: with γ = 1, the best γ, and γ = ∞."""
  found = {}
  for model, method in dict.fromkeys((row.model, row.method) for row in rows):
    if METHODS[method].step_sizes == sweeps.LIMIT:
      found[model, method, '∞'] = curve(rows, model, method)
    else:
      found[model, method, '1'] = curve(rows, model, method, 1.0)
      found[model, method, 'best'] = curve(rows, model, method)
  return found


def table(rows: list[Row]) -> str:
  """Iterations by d, – if not solved in 2d, and α if all are; in Markdown."""
  dimensions = list(dict.fromkeys(row.num_features for row in rows))
  heads = ['model', 'method', 'γ', *(f'd = {d}' for d in dimensions), 'α']
  lines = [heads]
  for key, by in curves(rows).items():
    cells = [str(by.get(d, '–')) for d in dimensions]
    complete = len(by) == len(dimensions) > 1
    slope = f'{exponent(by):.2f}' if complete else '–'
    lines.append([*key, *cells, slope])
  return results.markdown(lines)
