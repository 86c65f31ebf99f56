"""Which losses of the margin keep large steps stable.

python -m adaopt.experiments.large_steps.losses --workdir=DIR

Gradient descent with step sizes from 0.1 to 10⁴ on two of scikit-learn's
digits, by the loss: iterations until every margin is positive, and the mean
loss after all iterations.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from adaopt import logistic
from adaopt.experiments import command_line, options, results
from adaopt.experiments.large_steps import separable, solutions
from adaopt.experiments.plots import large_steps as pictures
from adaopt.logistic import losses as margin_losses

LOSSES = {
  'logistic': margin_losses.logistic(),
  'tsallis(1.5)': margin_losses.tsallis(1.5),
  'tsallis(2)': margin_losses.tsallis(2.0),
  'renyi(1.5)': margin_losses.renyi(1.5),
  'renyi(2)': margin_losses.renyi(2.0),
  'hinge': margin_losses.hinge(),
  'squared_hinge': margin_losses.squared_hinge(),
  'exponential': margin_losses.exponential(),
}
STEP_SIZES = (0.1, 1.0, 10.0, 100.0, 1e4)
PAIR = (3, 9)
NUM_STEPS = 10_000


def trajectories(
  loss: margin_losses.Loss, examples: separable.Examples, num_steps: int
) -> tuple[logistic.Solution, jax.Array]:
  """The solutions and the mean losses [step sizes, num_steps + 1]."""

  def run(step_size):
    method = logistic.gd(loss, step_size)
    problem = logistic.make_problem(examples.features, examples.labels)

    def advance(state, _):
      return method.step(state, problem), jnp.mean(loss.value(state.margins))

    start = method.init(problem)
    _, values = jax.lax.scan(advance, start, length=num_steps + 1)
    found = logistic.solve(
      method, examples.features, examples.labels, max_steps=num_steps
    )
    return found, values

  return jax.jit(jax.vmap(run))(jnp.array(STEP_SIZES))


def summarise(
  name: str,
  found: logistic.Solution,
  values: np.ndarray,
  separation: logistic.Separation,
) -> pd.DataFrame:
  """A row for each step size."""
  loss, bound = LOSSES[name], np.inf
  # Of squared_hinge, r grows without bound.
  if np.isfinite(loss.separation) and loss.residual(jnp.array(-1e6)) <= 1:
    bound = logistic.bounds.gd(
      *separation[:3],
      step_size=np.array(STEP_SIZES),
      separation=loss.separation,
    )
  with np.errstate(invalid='ignore'):
    rises = np.sum(~(np.diff(values) <= 0), -1)
  return pd.DataFrame(
    {
      'loss': name,
      'step_size': STEP_SIZES,
      'iterations': found.iterations,
      'solved': found.solved,
      'first': values[:, 0],  # ℓ(0)
      # The mean loss after all iterations; not finite: it overflows.
      'last': values[:, -1],
      'rises': rises,  # iterations after which the mean loss was larger
      'bound': bound,  # on the iterations; infinite if none is known
    }
  )


CELLS: dict[str, results.Cell] = {
  'iterations until solved': solutions.iterations,
  'loss after all iterations (how often it rose)': lambda row: (
    f'{row.last:.2g} ({row.rises})' if np.isfinite(row.last) else 'overflows'
  ),
}


def tables(rows: pd.DataFrame) -> str:
  """Iterations, and the loss after all of them, by loss and step size."""
  kappas = {
    name: solutions.number(loss.separation, 'g')
    for name, loss in LOSSES.items()
  }
  named = rows.assign(kappa=rows.loss.map(kappas))
  return '\n\n'.join(
    results.crossed(
      named, {title: 'loss', 'κ': 'kappa'}, solutions.step_size, cell
    )
    for title, cell in CELLS.items()
  )


def main() -> None:
  """Prints and saves the tables, and draws the losses."""
  jax.config.update('jax_enable_x64', True)
  folder = options.make_workdir()
  examples = jax.device_put(separable.digits_pair(PAIR))
  separation = logistic.max_margin(examples.features, examples.labels)
  frames, curves = [], {}
  for name, loss in LOSSES.items():
    found, values = trajectories(loss, examples, NUM_STEPS)
    curves[name] = np.asarray(values)
    frames.append(summarise(name, found, curves[name], separation))
  rows = pd.concat(frames)
  results.save(rows, tables(rows), folder, 'losses')
  pictures.losses(curves, STEP_SIZES, folder / 'losses.png')
  print(tables(rows))
  print(f'Picture: {folder / "losses.png"}')


if __name__ == '__main__':
  command_line.run(main, ['workdir'])
