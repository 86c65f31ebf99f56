"""Large steps on two-layer models, beside the linear ones.

python -m adaopt.experiments.large_steps.networks --workdir=DIR [--data_dir=DIR]

Iterations against the number of features, on a set where linear models take
Ω(d); then LR+GD, Normalized LR+GD and the batch perceptrons on pairs of digits
and of images: linear scores beside u ∘ u − v ∘ v and a ReLU network.
"""

import time
from typing import Any

import jax
import pandas as pd
from absl import flags

from adaopt.experiments import command_line, options, results
from adaopt.experiments.large_steps import scaling, separable, solutions, sweeps
from adaopt.experiments.plots import iterations
from adaopt.experiments.plots import large_steps as pictures

_PROBLEMS = flags.DEFINE_multi_enum(
  'network_problem',
  ['digits_1_8', 'digits_3_9', 'mnist', 'fashion_mnist', 'cifar10'],
  list(separable.PROBLEMS),
  'Problem to run; may be repeated. Default: pairs of digits and images.',
)
_EXAMPLES = flags.DEFINE_integer(
  'network_examples', 1000, 'Examples of a problem, the first.', lower_bound=2
)
_ITERATIONS = flags.DEFINE_integer(
  'network_iterations', 300, 'Iterations of every method.', lower_bound=1
)
_MODELS = flags.DEFINE_multi_enum(
  'network_model',
  list(scaling.MODELS),
  list(scaling.MODELS),
  'Model to run; may be repeated. Default: all.',
)
_DOUBLINGS = flags.DEFINE_integer(
  'doublings',
  6,
  'k: sets of d = 17, 33, …, 16 · 2^k + 1 features.',
  lower_bound=0,
)


def cell(row: Any) -> str:
  """Iterations, or the best accuracy; a cycle of period 1 is a halt."""
  if row.solved:
    return str(row.iterations)
  halted = ' (halts)' if row.period == 1 else ''
  return f'{row.accuracy:.1%}{halted}'


def table(rows: pd.DataFrame) -> str:
  """Iterations of solved runs, the best accuracy of others, by γ."""
  return results.crossed(
    rows.assign(methods=rows.method.map(solutions.TITLES)),
    {'problem': 'problem', 'model': 'model', 'methods': 'methods'},
    solutions.step_size,
    cell,
  )


def main() -> None:
  """Writes scaling.* and networks.*, and a picture for every problem."""
  # The iteration counts of large steps depend on rounding.
  jax.config.update('jax_enable_x64', True)
  problems = {
    name: options.load(separable.PROBLEMS[name]) for name in _PROBLEMS.value
  }
  folder = options.make_workdir()
  dimensions = [2**k + 1 for k in range(4, 5 + _DOUBLINGS.value)]
  scaled = scaling.measure(dimensions, _MODELS.value)
  results.save(scaled, scaling.table(scaled), folder, 'scaling')
  iterations.features(scaled, folder / 'scaling.png')
  print(scaling.table(scaled), flush=True)
  frames = []
  for problem, examples in problems.items():
    begin = time.perf_counter()
    chosen = jax.device_put(
      separable.Examples(*(x[: _EXAMPLES.value] for x in examples))
    )
    for model in _MODELS.value:
      trajectories = {}
      for method, sweep in sweeps.SWEEPS.items():
        found, path = sweeps.run(
          sweep,
          chosen,
          num_steps=_ITERATIONS.value,
          model=scaling.MODELS[model],
        )
        trajectories[method] = path
        frames.append(
          solutions.summarise(
            problem,
            method,
            found,
            model=model,
            accuracy=path.accuracy.max(-1),  # of the best iterate
            period=found.period,  # iterates repeat after as many, 0: not seen
          )
        )
      pictures.sweep(trajectories, folder / f'{problem}_{model}.png')
    rows = pd.concat(frames)
    results.save(rows, table(rows), folder, 'networks')
    print(f'{problem}: {time.perf_counter() - begin:.1f} s', flush=True)
  print(table(rows))
  print(f'Pictures: {folder}')


if __name__ == '__main__':
  command_line.run(main, ['workdir'], ['data_dir'])
