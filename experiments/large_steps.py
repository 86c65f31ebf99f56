"""Logistic regression with large steps, and the perceptrons it tends to.

python -m experiments.large_steps --workdir=DIR --data_dir=DIR

Runs LR+GD and Normalized LR+GD on every problem with step sizes from 0.001 to
100, and the batch perceptrons that are their limits as γ → ∞. All step sizes of
a method run in one program.
"""

import pathlib
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from absl import flags

from adaopt import logistic
from experiments import command_line, options, separable, solutions
from experiments.plots import large_steps as large_steps_plots

_PROBLEMS = flags.DEFINE_multi_enum(
  'problem',
  list(separable.PROBLEMS),
  list(separable.PROBLEMS),
  'Problem to run; may be repeated. Default: all.',
)
_ITERATIONS = flags.DEFINE_integer(
  'iterations', 1000, 'Iterations of every method.', lower_bound=1
)
_MARGIN_STEPS = flags.DEFINE_integer(
  'margin_steps', 200, 'Maximum iterations to find μ.', lower_bound=1
)

STEP_SIZES = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
LIMIT = (float('inf'),)


class Sweep(NamedTuple):
  """A method, the step sizes it runs with, and its bound."""

  make: Callable[[jax.Array], logistic.Method]
  bound: Callable[..., jax.Array]  # (n, R, μ, γ) → iterations
  step_sizes: tuple[float, ...]


SWEEPS = {
  'LR+GD': Sweep(logistic.lr_gd, logistic.bounds.lr_gd, STEP_SIZES),
  'BP': Sweep(
    lambda _: logistic.batch_perceptron(),
    lambda n, r, mu, _: logistic.bounds.batch_perceptron(n, r, mu),
    LIMIT,
  ),
  'NLR': Sweep(
    logistic.normalized_lr_gd, logistic.bounds.normalized_lr_gd, STEP_SIZES
  ),
  'NBP': Sweep(
    lambda _: logistic.normalized_batch_perceptron(),
    lambda n, r, mu, _: logistic.bounds.normalized_batch_perceptron(n, r, mu),
    LIMIT,
  ),
}


@jax.jit(static_argnums=0, static_argnames='num_steps')
def run(
  sweep: Sweep, examples: separable.Examples, *, num_steps: int
) -> tuple[logistic.Solution, logistic.Trajectory]:
  """Runs a method with all its step sizes, in one program.

  Args:
    sweep: The method.
    examples: The problem.
    num_steps: The number of iterations.

  Returns:
    Solutions and trajectories, [step sizes, ...] each.
  """

  def record(step_size, examples):
    return logistic.record(
      sweep.make(step_size),
      examples.features,
      examples.labels,
      weights=examples.weights,
      num_steps=num_steps,
    )

  return jax.vmap(record, (0, None))(jnp.array(sweep.step_sizes), examples)


def separation(
  examples: separable.Examples, *, max_steps: int
) -> logistic.Separation | None:
  """The maximal margin, or None if no positive margin was found."""
  found = jax.jit(logistic.max_margin)(
    examples.features,
    examples.labels,
    weights=examples.weights,
    max_steps=max_steps,
  )
  return found if found.margin > 0 else None


def summarise(
  problem: str,
  method: str,
  found: logistic.Solution,
  separated: logistic.Separation | None,
) -> list[solutions.Solution]:
  """One row per step size of a method.

  Args:
    problem: Its name.
    method: Its name, in `SWEEPS`.
    found: The solutions from `run`.
    separated: The margin for the bounds, if one is known.

  Returns:
    The rows.
  """
  sweep, rows = SWEEPS[method], []
  for i, step_size in enumerate(sweep.step_sizes):
    bound = ratio = float('inf')
    if separated is not None:
      known = separated[:3]
      bound = float(sweep.bound(*known, step_size))
      ratio = float(logistic.bounds.perceptron(*known))
    rows.append(
      solutions.Solution(
        problem=problem,
        method=method,
        step_size=step_size,
        iterations=int(found.iterations[i]),
        solved=bool(found.solved[i]),
        bound=bound,
        squared_ratio=ratio,
      )
    )
  return rows


def main(argv: list[str]) -> None:
  """Runs every method on every problem; writes tables and pictures."""
  del argv
  options.quiet()
  # The iteration counts of large steps depend on rounding.
  jax.config.update('jax_enable_x64', True)
  folder = pathlib.Path(options.WORKDIR.value)
  rows = []
  for problem in _PROBLEMS.value:
    begin = time.perf_counter()
    try:
      examples = separable.PROBLEMS[problem](options.DATA_DIR.value)
      folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
      sys.exit(str(error))
    examples = jax.device_put(examples)
    separated = separation(examples, max_steps=_MARGIN_STEPS.value)
    trajectories = {}
    for method, sweep in SWEEPS.items():
      found, trajectories[method] = run(
        sweep, examples, num_steps=_ITERATIONS.value
      )
      rows += summarise(problem, method, found, separated)
    solutions.save(rows, folder)
    large_steps_plots.save(
      trajectories,
      {method: sweep.step_sizes for method, sweep in SWEEPS.items()},
      folder / f'{problem}.png',
    )
    print(f'{problem}: {time.perf_counter() - begin:.1f} s', flush=True)
  print(solutions.tables(rows))
  print(f'Pictures: {folder}')


if __name__ == '__main__':
  command_line.run(main, ['workdir'], ['data_dir'])
