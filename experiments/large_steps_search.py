"""Searches for the classes and preprocessing of a row of Tyurin's Table 1.

python -m experiments.large_steps_search --data_dir=DIR --row=imbalanced

The paper gives five iteration counts for two classes of Fashion-MNIST, 5000
images, but not the classes or the preprocessing. The search tries every pair of
classes, in both orders if their shares differ. A pair is run for the next count
only if all previous counts are within --tolerance; a count just above the
tolerance means at least that many.

python -m experiments.large_steps_search --data_dir=DIR --row=balanced \
  --first_count=2500 --preprocessing=around_0 --first_class=0 \
  --second_class=8 --tolerance=1 --skip=1000

prints the five counts of one pair, for other images of it.
"""

import itertools
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from adaopt import logistic
from experiments import command_line, datasets, large_steps, options, separable


class Target(NamedTuple):
  """An iteration count in the table."""

  method: str
  step_size: float
  iterations: int


ROWS = {
  'imbalanced': (
    Target('NLR', 100, 311),
    Target('NLR', 10, 349),
    Target('NLR', 1, 353),
    Target('NLR', 0.1, 504),
    Target('LR+GD', 100, 538),
  ),
  'balanced': (
    Target('LR+GD', 10, 2778),
    Target('LR+GD', 100, 2928),
    Target('NLR', 100, 3160),
    Target('NLR', 1, 3351),
    Target('NLR', 10, 3359),
  ),
}
_ROW = flags.DEFINE_enum('row', 'imbalanced', list(ROWS), 'Table row.')
_FIRST_COUNT = flags.DEFINE_integer(
  'first_count',
  4500,
  'Images of the first class, out of 5000.',
  lower_bound=1,
  upper_bound=4999,
)
_PREPROCESSING = flags.DEFINE_enum(
  'preprocessing',
  'pixels',
  list(separable.PREPROCESSINGS),
  'Preprocessing of the pixels.',
)
_FIRST_CLASS, _SECOND_CLASS = (
  flags.DEFINE_multi_integer(
    name,
    list(range(10)),
    'Class to try; may be repeated. Default: all.',
    lower_bound=0,
    upper_bound=9,
  )
  for name in ('first_class', 'second_class')
)
_SKIP = flags.DEFINE_integer(
  'skip', 0, 'Images of each class to skip first.', lower_bound=0
)
_TOLERANCE = flags.DEFINE_float(
  'tolerance', 0.1, 'Maximum relative error of a count.', lower_bound=0
)
_SHOWN = flags.DEFINE_integer('shown', 10, 'Number of pairs to print.')


@jax.jit(static_argnums=0)
def count(method, step_size, examples, max_steps):
  """The iterations of one run, max_steps + 1 if it is unsolved."""
  found = logistic.solve(
    large_steps.SWEEPS[method].make(step_size),
    examples.features,
    examples.labels,
    weights=examples.weights,
    max_steps=max_steps,
  )
  return jnp.where(found.solved, found.iterations, max_steps + 1)


def follow(
  targets: tuple[Target, ...],
  examples: separable.Examples,
  tolerance: float,
) -> list[int]:
  """The counts of a pair, up to the first outside the tolerance.

  Args:
    targets: The counts to match.
    examples: The examples of the pair.
    tolerance: The maximum relative error.

  Returns:
    The counts that were tried.
  """
  counts = []
  for target in targets:
    slack = round(tolerance * target.iterations)
    most = target.iterations + slack
    found = count(target.method, target.step_size, examples, most)
    counts.append(int(found))
    if abs(counts[-1] - target.iterations) > slack:
      break
  return counts


def chosen_pairs(alike: bool) -> list[tuple[int, int]]:
  """The pairs that the flags allow; if `alike`, the smaller class first."""
  pairs = itertools.combinations if alike else itertools.permutations
  return [
    (a, b)
    for a, b in pairs(range(10), 2)
    if a in _FIRST_CLASS.value and b in _SECOND_CLASS.value
  ]


def main(argv: list[str]) -> None:
  """Prints the closest pairs."""
  del argv
  options.quiet()
  try:
    train = datasets.DATASETS['fashion_mnist'](options.DATA_DIR.value).train
  except (OSError, ValueError) as error:
    sys.exit(str(error))
  targets = ROWS[_ROW.value]
  counts = _FIRST_COUNT.value, 5000 - _FIRST_COUNT.value
  pairs = chosen_pairs(counts[0] == counts[1])
  if not pairs:
    sys.exit(
      'There is no such pair: the classes must differ, and if both have as '
      'many images, --first_class must be the smaller one.'
    )
  print('target:', [target.iterations for target in targets])
  found = {}
  for classes in pairs:
    try:
      examples = separable.image_pair(
        train,
        classes,
        counts,
        separable.PREPROCESSINGS[_PREPROCESSING.value],
        _SKIP.value,
      )
    except ValueError as error:
      sys.exit(f'{error} Lower --skip.')
    # Float32 halves the reads but changes the counts of large steps.
    examples = examples._replace(features=np.float32(examples.features))
    found[classes] = follow(targets, examples, _TOLERANCE.value)

  def distance(classes):
    first, *rest = found[classes]
    return -len(rest), abs(first - targets[0].iterations)

  for a, b in sorted(found, key=distance)[: _SHOWN.value]:
    print(f'{a} v {b}:', found[a, b])


if __name__ == '__main__':
  command_line.run(main, [], ['data_dir'])
