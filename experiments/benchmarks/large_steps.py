"""Times sweeps of step sizes to solution, in one program and in numpy.

python -m adaopt.experiments.benchmarks.large_steps [--data_dir=DIR]

First all pairs of scikit-learn's digits, 45 small problems; then, if there is a
data folder, two classes of MNIST. numpy runs to solution one step size after
another, or all step sizes of a problem at once, dropping those that have ended.
scikit-learn's classifiers are in adaopt.experiments.large_steps.classifiers.
"""

import functools
import math
from collections.abc import Callable

import jax
import numpy as np

from adaopt import logistic
from adaopt.experiments import command_line, options
from adaopt.experiments.benchmarks import numpy_sweeps, timing
from adaopt.experiments.large_steps import separable

STEP_SIZES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
MAX_STEPS = 10_000
METHODS = {'LR+GD': logistic.lr_gd, 'NLR': logistic.normalized_lr_gd}
# More than cores: a core whose problems are short then serves other devices.
DEVICES = 9


def stacked(pairs: list[separable.Examples]) -> separable.Examples:
  """Stacks pairs of digits along a leading axis, in float32."""
  alike = [separable.padded(pair, separable.LONGEST) for pair in pairs]
  return jax.tree.map(lambda *arrays: np.float32(np.stack(arrays)), *alike)


def in_turn(
  make: Callable, step_sizes: jax.Array, examples: separable.Examples
) -> jax.Array:
  """The iterations of one run after another. [step sizes]."""

  def run(step_size):
    return logistic.solve(
      make(step_size),
      examples.features,
      examples.labels,
      weights=examples.weights,
      max_steps=MAX_STEPS,
    ).iterations

  return jax.lax.map(run, step_sizes)


def together(
  make: Callable, step_sizes: jax.Array, examples: separable.Examples
) -> jax.Array:
  """All step sizes at once, otherwise as `in_turn`."""
  return logistic.sweep(
    make,
    step_sizes,
    examples.features,
    examples.labels,
    weights=examples.weights,
    max_steps=MAX_STEPS,
  ).iterations


LAYOUTS = {'map': in_turn, 'sweep': together}


def over_pairs(
  layout: Callable,
  make: Callable,
  step_sizes: jax.Array,
  pairs: separable.Examples,
) -> jax.Array:
  """A layout on one problem after another. [pairs, step sizes]."""
  return jax.lax.map(functools.partial(layout, make, step_sizes), pairs)


def make_mesh(count: int) -> jax.sharding.Mesh:
  """As many devices as divide the problems evenly."""
  devices = jax.devices()[: math.gcd(count, jax.device_count())]
  return jax.sharding.Mesh(devices, ('pairs',))


def over_devices(
  mesh: jax.sharding.Mesh,
  layout: Callable,
  make: Callable,
  step_sizes: jax.Array,
  pairs: separable.Examples,
) -> jax.Array:
  """As `over_pairs`, with the problems divided between devices."""
  spread = jax.P('pairs')
  return jax.shard_map(
    functools.partial(over_pairs, layout, make),
    mesh=mesh,
    in_specs=(jax.P(), spread),
    out_specs=spread,
    check_vma=False,  # a run starts at constants, equal on all devices
  )(step_sizes, pairs)


def numpy_rows(examples: separable.Examples) -> np.ndarray:
  """A = y a, [n, d] float32."""
  return np.float32(examples.labels[:, None] * examples.features)


def _compare(programs, problems):
  """Times programs and numpy for every method, and prints one row each.

  `programs` has by name what takes `make` first, and its further arguments.
  """
  runners = {}
  for method, make in METHODS.items():
    for name, layout in numpy_sweeps.LAYOUTS.items():
      runners[method, name] = functools.partial(
        numpy_sweeps.sweep,
        layout,
        method,
        problems,
        STEP_SIZES,
        max_steps=MAX_STEPS,
      )
    for name, (program, args) in programs.items():
      runners[method, name] = timing.compiled(
        functools.partial(program, make), *args
      )
  medians = timing.in_turns(runners)
  timing.print_header(
    'method', 'program', 'runs', 'iterations', 'ms', 'numpy / it'
  )
  for (method, name), run in runners.items():
    counts, time = np.asarray(run()), medians[method, name]
    ratio = medians[method, 'numpy'] / time
    cells = counts.size, counts.sum(), f'{time:.1f}', f'{ratio:.2f}'
    timing.print_row(method, name, *cells)


def _compare_digits(pairs):
  """Times the programs on all pairs of digits."""
  args = jax.device_put((np.float32(STEP_SIZES), stacked(pairs)))
  mesh = make_mesh(len(pairs))
  spread = tuple(
    jax.sharding.NamedSharding(mesh, spec) for spec in (jax.P(), jax.P('pairs'))
  )
  programs = {
    name: (functools.partial(over_pairs, layout), args)
    for name, layout in LAYOUTS.items()
  }
  programs[f'sweep, {mesh.size} devices'] = (
    functools.partial(over_devices, mesh, together),
    jax.device_put(args, spread),
  )
  _compare(programs, [numpy_rows(pair) for pair in pairs])


def _compare_mnist(mnist):
  """Times the programs on two classes of MNIST."""
  single = mnist._replace(features=np.float32(mnist.features))
  args = jax.device_put((np.float32(STEP_SIZES), single))
  programs = {name: (layout, args) for name, layout in LAYOUTS.items()}
  _compare(programs, [numpy_rows(mnist)])


def main() -> None:
  """Prints tables for the digits and for MNIST."""
  jax.config.update('jax_num_cpu_devices', DEVICES)
  timing.print_machine()
  pairs = [separable.digits_pair(pair) for pair in separable.DIGITS]
  _compare_digits(pairs)
  if options.DATA_DIR.value is None:
    return
  _compare_mnist(options.load(separable.PROBLEMS['mnist']))


if __name__ == '__main__':
  command_line.run(main, optional=['data_dir', 'repeats'])
