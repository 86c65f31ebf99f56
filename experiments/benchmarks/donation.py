"""Times steps of `adaopt.fit` that keep their state against steps that donate.

python -m adaopt.experiments.benchmarks.donation
"""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

import adaopt
from adaopt.experiments import command_line, models
from adaopt.experiments.benchmarks import steps, timing

# Model, optimizer, examples in a batch, examples in a micro-batch.
CASES = {
  'MLP 64, momentum': (models.MLP(), optax.sgd(1e-3, momentum=0.9), 32, 32),
  'CNN, Adam': (models.CNN(), optax.adam(1e-4), 256, 64),
  'MLP 1024 1024, AdamW': (
    models.MLP(widths=(1024, 1024)),
    optax.adamw(1e-4),
    256,
    256,
  ),
  'MLP 1024 1024, AdamW, b = 32': (
    models.MLP(widths=(1024, 1024)),
    optax.adamw(1e-4),
    32,
    32,
  ),
}


def make_runner(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  batch_size: int,
  micro_batch_size: int,
  *,
  donate: bool,
) -> tuple[Callable[[], Any], int]:
  """What makes the next step of a run, and the number of parameters."""
  keys = jax.random.split(jax.random.key(0))
  dataset = {
    'input': jax.random.uniform(keys[0], [4096, 28, 28]),
    'label': jax.random.randint(keys[1], [4096], 0, 10),
  }

  adapt = steps.hold(steps.PASSED, batch_size)
  params = model.init(jax.random.key(1), dataset['input'][:1])
  run = adaopt.fit(
    steps.mean_loss(model),
    optax.chain(adapt, optimizer),
    params,
    dataset,
    num_examples=2**30 - 1,
    max_micro_batch_size=micro_batch_size,
    donate=donate,
  )
  list(itertools.islice(run, 3))
  count = sum(jnp.size(leaf) for leaf in jax.tree.leaves(params))
  return lambda: next(run)[1].loss, count


def main() -> None:
  """Prints one row for every case."""
  timing.print_machine()
  timing.print_header(
    'model', 'parameters', 'b', 'donate, ms', 'keep, ms', 'keep / donate'
  )
  for name, case in CASES.items():
    runners = {}
    for donate in (False, True):
      runners[donate], count = make_runner(*case, donate=donate)
    times = timing.in_turns(runners)
    timing.print_row(
      name,
      count,
      case[2],
      f'{times[True]:.2f}',
      f'{times[False]:.2f}',
      f'{times[False] / times[True]:.2f}',
    )


if __name__ == '__main__':
  command_line.run(main, optional=['repeats'])
