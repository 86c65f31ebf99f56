"""Times steps of `adaopt.fit` that keep their state against steps that donate.

python -m adaopt.experiments.benchmarks.donation
"""

import itertools
from collections.abc import Callable
from typing import Any

import optax

import adaopt
from adaopt.experiments import command_line, losses, models
from adaopt.experiments.benchmarks import networks, steps, timing

MLP, WIDE, CNN = (
  networks.Network(model, 4096, (28, 28))
  for model in (models.MLP(), models.MLP(widths=(1024, 1024)), models.CNN())
)
# Network, optimizer, examples in a batch, examples in a micro-batch.
CASES = {
  'MLP 64, momentum': (MLP, optax.sgd(1e-3, momentum=0.9), 32, 32),
  'CNN, Adam': (CNN, optax.adam(1e-4), 256, 64),
  'MLP 1024 1024, AdamW': (WIDE, optax.adamw(1e-4), 256, 256),
  'MLP 1024 1024, AdamW, b = 32': (WIDE, optax.adamw(1e-4), 32, 32),
}


def make_runner(
  network: networks.Network,
  optimizer: optax.GradientTransformation,
  batch_size: int,
  micro_batch_size: int,
  *,
  donate: bool,
) -> Callable[[], Any]:
  """What makes the next step of a run."""
  run = adaopt.fit(
    losses.mean(network.model),
    optax.chain(steps.hold(steps.PASSED, batch_size), optimizer),
    networks.parameters(network),
    networks.examples(network),
    num_examples=2**30 - 1,
    max_micro_batch_size=micro_batch_size,
    donate=donate,
  )
  list(itertools.islice(run, 3))
  return lambda: next(run)[1].loss


def rows() -> timing.Rows:
  """Both kinds of steps in every case."""
  for name, case in CASES.items():
    size = optax.tree.size(networks.parameters(case[0]))
    yield (
      (name, size, case[2]),
      {
        kind: make_runner(*case, donate=donate)
        for kind, donate in (('donate', True), ('keep', False))
      },
    )


def main() -> None:
  """Prints the table."""
  timing.print_machine()
  timing.print_ratios(('model', 'parameters', 'b'), rows())


if __name__ == '__main__':
  command_line.run(main, optional=['repeats'])
