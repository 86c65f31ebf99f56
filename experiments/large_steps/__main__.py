"""Logistic regression with large steps, and the perceptrons it tends to.

python -m adaopt.experiments.large_steps --workdir=DIR --data_dir=DIR

Runs LR+GD and Normalized LR+GD on every problem with step sizes from 0.001 to
100, and the batch perceptrons that are their limits as γ → ∞. All step sizes of
a method run in one program.
"""

import time

import jax
import pandas as pd
from absl import flags

from adaopt.experiments import command_line, options, results
from adaopt.experiments.large_steps import separable, solutions, sweeps
from adaopt.experiments.plots import large_steps as pictures

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


def main() -> None:
  """Runs every method on every problem; writes tables and pictures."""
  # The iteration counts of large steps depend on rounding.
  jax.config.update('jax_enable_x64', True)
  frames = []
  for problem in _PROBLEMS.value:
    begin = time.perf_counter()
    examples = jax.device_put(options.load(separable.PROBLEMS[problem]))
    folder = options.make_workdir()
    separated = sweeps.separation(examples, max_steps=_MARGIN_STEPS.value)
    trajectories = {}
    for method, sweep in sweeps.SWEEPS.items():
      found, trajectories[method] = sweeps.run(
        sweep, examples, num_steps=_ITERATIONS.value
      )
      bounds = solutions.bounds(method, separated)
      frames.append(solutions.summarise(problem, method, found, **bounds))
    rows = pd.concat(frames)
    results.save(rows, solutions.tables(rows), folder, 'large_steps')
    pictures.sweep(trajectories, folder / f'{problem}.png')
    print(f'{problem}: {time.perf_counter() - begin:.1f} s', flush=True)
  print(solutions.tables(rows))
  print(f'Pictures: {folder}')


if __name__ == '__main__':
  command_line.run(main, ['workdir'], ['data_dir'])
