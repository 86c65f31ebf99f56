"""Large steps on batches: fixed, random and adaptive, at one example budget.

python -m adaopt.experiments.large_steps.stochastic \
  --workdir=DIR --data_dir=DIR --seeds=3

Gradient descent sees all n examples in every step, LR+SGD and the perceptron a
few, and `adaopt.normalized_lr_gd` as many as a test of the gradient's noise
asks for. All may see the same number of examples, and each runs with every γ of
a grid; the table has the best. Features are divided by R = max ‖a_i‖.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from absl import flags

import adaopt
from adaopt import logistic
from adaopt.experiments import command_line, options, results
from adaopt.experiments.large_steps import separable, usage, walks
from adaopt.experiments.plots import large_steps as pictures

ETA = THETA = 0.9
INIT_BATCH_SIZE = 16
CHECKS = 40


PROBLEMS: dict[str, Callable[[str | None], separable.Examples]] = {
  'mnist_0_1': separable.PROBLEMS['mnist'],
  'mnist_4_9': functools.partial(
    separable.first_images, 'mnist', (4, 9), (2500, 2500)
  ),
  'mushrooms': separable.PROBLEMS['mushrooms'],
  'a9a': functools.partial(separable.libsvm_set, 'a9a'),
  'w8a': functools.partial(separable.libsvm_set, 'w8a'),
  'digits_1_8': separable.PROBLEMS['digits_1_8'],
}
"""data_dir → the examples, by name."""


class Contender(NamedTuple):
  """A method and what it is tried with."""

  make: walks.MakeWalk
  values: tuple[float, ...]  # γ, or what stands for it
  title: str  # of a value
  over: Callable[..., Any]  # how its runs share a program
  is_random: bool  # whether seeds differ


STEP_SIZES = (1.0, 10.0, 100.0, 1000.0)
NORMALIZED = (0.1, 1.0, 10.0, 100.0)


def _of_all(method, values, title='γ = {:g}'):
  return Contender(
    walks.on_all(method), values, title, walks.mapped, is_random=False
  )


def _of_batches(method, batch_size, values, title='γ = {:g}'):
  make = walks.on_batches(method, batch_size)
  return Contender(make, values, title, jax.vmap, is_random=True)


def _adapting(optimizer, criterion, values):
  make = walks.adapting(optimizer, criterion, INIT_BATCH_SIZE)
  return Contender(make, values, 'γ = {:g}', walks.mapped, is_random=True)


CONTENDERS = {
  'LR+GD': _of_all(logistic.lr_gd, STEP_SIZES),
  'LR+GD, increasing_steps': _of_all(
    lambda margin: logistic.lr_gd(logistic.increasing_steps(margin, 1.0)),
    (0.9,),
    'as for μ = {:g} R',
  ),
  'LR+GD, geometric steps': _of_all(
    lambda growth: logistic.lr_gd(lambda count: (1 + growth) ** count),
    (0.3, 0.6, 1.0),
    'γ = (1 + {:g})^t',
  ),
  'NLR': _of_all(logistic.normalized_lr_gd, NORMALIZED),
  'perceptron, b = 1': _of_batches(
    lambda _: logistic.perceptron(), 1, (1.0,), ''
  ),
  **{
    f'{name}, b = {size}': _of_batches(method, size, values)
    for name, method, values in (
      ('LR+SGD', logistic.lr_gd, STEP_SIZES),
      ('adaptive steps', logistic.adaptive_gd, NORMALIZED),
      ('NLR', logistic.normalized_lr_gd, NORMALIZED),
    )
    for size in (16, 256)
  },
  f'NLR, norm test, η = {ETA}': _adapting(
    adaopt.normalized_lr_gd, adaopt.norm_test(ETA), NORMALIZED[1:]
  ),
  f'NLR, inner-product test, θ = {THETA}': _adapting(
    adaopt.normalized_lr_gd, adaopt.inner_product_test(THETA), NORMALIZED[1:]
  ),
  f'LR+SGD, norm test, η = {ETA}': _adapting(
    optax.sgd, adaopt.norm_test(ETA), STEP_SIZES[1:]
  ),
}

_PROBLEMS = flags.DEFINE_multi_enum(
  'stochastic_problem',
  [name for name in PROBLEMS if not name.startswith('digits')],
  list(PROBLEMS),
  'Problem to run; may be repeated. Default: all but digits.',
)
_BUDGET = flags.DEFINE_integer(
  'examples', 100_000, 'Examples that every run may see.', lower_bound=1
)
_CONTENDERS = flags.DEFINE_multi_enum(
  'contender',
  list(CONTENDERS),
  list(CONTENDERS),
  'Method to run; may be repeated. Default: all.',
)


def scaled(examples: separable.Examples) -> logistic.Problem:
  """The problem with R = 1, in float32, without examples that are zero.

  Padding is, and some of w8a are: no θ puts them on their side.
  """
  norms = np.linalg.norm(examples.features, axis=1)
  kept = norms > 0
  features = jnp.asarray(examples.features[kept] / norms.max(), jnp.float32)
  return logistic.make_problem(features, jnp.asarray(examples.labels[kept]))


def main() -> None:
  """Runs every contender on every problem; writes tables and a picture."""
  frames, curves = [], {}
  for name in _PROBLEMS.value:
    begin = time.perf_counter()
    problem = scaled(options.load(PROBLEMS[name]))
    folder = options.make_workdir()
    curves[name] = {}
    for method in _CONTENDERS.value:
      contender = CONTENDERS[method]
      num_seeds = options.SEEDS.value if contender.is_random else 1
      seen = jax.device_get(
        walks.trace(
          contender.make,
          problem,
          jnp.array(contender.values),
          jnp.arange(num_seeds),
          budget=_BUDGET.value,
          checks=CHECKS,
          over=contender.over,
        )
      )
      titles = [contender.title.format(value) for value in contender.values]
      of = usage.summarise(name, method, titles, seen, len(problem.signs))
      best = titles.index(usage.best(of))
      curves[name][method] = jax.tree.map(lambda x, i=best: x[i], seen)
      frames.append(of)
    rows = pd.concat(frames)
    results.save(rows, usage.table(rows), folder, 'stochastic')
    pictures.stochastic(curves, folder / 'stochastic.png')
    print(f'{name}: {time.perf_counter() - begin:.1f} s', flush=True)
  print(usage.table(rows))
  print(f'Picture: {folder / "stochastic.png"}')


if __name__ == '__main__':
  command_line.run(main, ['workdir'], ['data_dir', 'seeds'])
