"""How fast the risk and the errors fall: budgets, transitions, lower bounds.

python -m adaopt.experiments.large_steps.rates --workdir=DIR

Budgets: the log-loss after T iterations with a step size that is constant or in
proportion to T. Transitions: the iteration from which the loss of LR+GD falls
for good, on sets on a plane. Lower bound: the iterations of every method
on the chain, where none can take fewer than R²/(5 μ²).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from adaopt import logistic
from adaopt.experiments import command_line, files, options, rates, results
from adaopt.experiments.large_steps import separable
from adaopt.experiments.plots import iterations

BUDGETS = (100, 300, 1000, 3000, 10_000)
MAX_STEPS = 20_000
PAIR = (3, 9)

# The step size of a run of T iterations.
STEP_SIZES = {
  'γ = 1': lambda budget: 1.0,
  'γ = 10': lambda budget: 10.0,
  'γ = T/100': lambda budget: budget / 100,
}

SIZES = (4, 8, 16, 24, 32, 48)
METHODS = {
  'lr_gd(1)': logistic.lr_gd(1.0),
  'lr_gd(10⁴)': logistic.lr_gd(1e4),
  'normalized_lr_gd(1)': logistic.normalized_lr_gd(1.0),
  'normalized_lr_gd(100)': logistic.normalized_lr_gd(100.0),
  'adaptive_gd(100)': logistic.adaptive_gd(100.0),
  'averaged(adaptive_gd(100))': logistic.averaged(logistic.adaptive_gd(100.0)),
  'perceptron()': logistic.perceptron(),
  'batch_perceptron()': logistic.batch_perceptron(),
  'normalized_batch_perceptron()': logistic.normalized_batch_perceptron(),
  'nesterov()': logistic.nesterov(),
}

PLANES = tuple(
  (n, margin) for n in (4, 16, 64, 256) for margin in (0.1, 0.03, 0.01)
)
LARGE = (10.0, 100.0, 1e3, 1e4, 1e5)  # γ of the transitions


@jax.jit(static_argnames='num_steps')
def _losses(step_size, examples, num_steps):
  """L(θ_0), …, L(θ_T) of LR+GD."""
  method = logistic.lr_gd(step_size)
  _, trajectory = logistic.record(
    method, **examples._asdict(), num_steps=num_steps
  )
  return trajectory.loss


def budgets(examples: separable.Examples) -> pd.DataFrame:
  """L(θ_T) for every T of `BUDGETS`, by the kind of step size."""
  risk = lambda gamma, budget: float(_losses(gamma, examples, budget)[-1])
  return pd.DataFrame(
    {
      name: [risk(step_size(budget), budget) for budget in BUDGETS]
      for name, step_size in STEP_SIZES.items()
    },
    index=BUDGETS,
  )


def settled(losses: np.ndarray) -> int:
  """The first iteration from which a loss never rises."""
  rises = np.flatnonzero(np.diff(losses) > 0)
  return int(rises[-1]) + 1 if len(rises) else 0


def transitions() -> pd.DataFrame:
  """When LR+GD becomes stable, on planes with n examples and margin μ.

  A row for each plane, a column for each γ.
  """
  run = functools.partial(_losses, num_steps=MAX_STEPS)
  counts = []
  for n, margin in PLANES:
    examples = jax.device_put(separable.plane(n, margin))
    losses = jax.vmap(run, (0, None))(jnp.array(LARGE), examples)
    counts.append([settled(row) for row in np.asarray(losses)])
  planes = pd.MultiIndex.from_tuples(PLANES, names=['n', 'margin'])
  return pd.DataFrame(counts, planes, LARGE)


def lower_bounds() -> pd.DataFrame:
  """The iterations on the chain of every size, by method; NaN: unsolved."""

  def count(method, examples):
    found = logistic.solve(method, **examples._asdict(), max_steps=MAX_STEPS)
    return int(found.iterations) if found.solved else np.nan

  chains = [separable.chain(k) for k in SIZES]
  return pd.DataFrame(
    {
      name: [count(method, examples) for examples in chains]
      for name, method in METHODS.items()
    },
    index=SIZES,
  )


def difficulties() -> list[float]:
  """R²/μ² of the chain of every size."""
  chains = [separable.chain(k)._asdict() for k in SIZES]
  known = [logistic.max_margin(**examples) for examples in chains]
  return [float(jnp.square(x.radius / x.margin)) for x in known]


def tables(
  risks: pd.DataFrame,
  stable: pd.DataFrame,
  counts: pd.DataFrame,
  hardness: list[float],
) -> str:
  """The three tables in Markdown."""
  first = [['L(θ_T)', *(f'T = {budget}' for budget in BUDGETS), 'slope']]
  for name, values in risks.items():
    cells = [f'{value:.3g}' for value in values]
    first.append([name, *cells, f'{rates.slope(BUDGETS, values):.2f}'])
  second = [
    ['iterations until stable', *(f'γ = {x:g}' for x in LARGE), 'n/μ + 1/μ²']
  ]
  for (n, margin), *found in stable.itertuples():
    name, order = f'n = {n}, μ = {margin:g}', n / margin + 1 / margin**2
    second.append([name, *map(str, found), f'{order:.0f}'])
  third = [['iterations on the chain', *(f'k = {k}' for k in SIZES)]]
  third.append(['R²/(5 μ²)', *(f'{value / 5:.1f}' for value in hardness)])
  for name, values in counts.items():
    cells = [f'> {MAX_STEPS}' if np.isnan(x) else f'{x:.0f}' for x in values]
    third.append([name, *cells])
  return '\n\n'.join(map(results.markdown, (first, second, third)))


def main() -> None:
  """Prints and saves the tables, and draws them."""
  jax.config.update('jax_enable_x64', True)
  folder = options.make_workdir()
  risks = budgets(jax.device_put(separable.digits_pair(PAIR)))
  stable = transitions()
  counts = lower_bounds()
  text = tables(risks, stable, counts, difficulties())
  files.write(folder / 'rates.md', text + '\n')
  iterations.rates(risks, stable, counts, folder / 'rates.png')
  print(text)
  print(f'Picture: {folder / "rates.png"}')


if __name__ == '__main__':
  command_line.run(main, ['workdir'])
