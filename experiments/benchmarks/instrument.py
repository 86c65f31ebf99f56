"""Times a training step with `adaopt.noise_scale` against the same without.

python -m adaopt.experiments.benchmarks.instrument

All times are the processor's, of all threads, run in turns, which what else
runs on the machine changes little.
"""

import time
from collections.abc import Callable

import jax
import optax

import adaopt
from adaopt.experiments import command_line, losses, models
from adaopt.experiments.benchmarks import networks, timing

NETWORKS = {
  'mlp': networks.NETWORKS['mlp'],
  'cnn': networks.NETWORKS['cnn'],
  'small transformer': networks.Network(
    models.MODELS['small_transformer'](), 32, None, 128
  ),
}
OPTIMIZER = optax.adam(1e-3)
MEASURED = optax.chain(adaopt.noise_scale(half_life=20_000), OPTIMIZER)


def plain(loss_fn: adaopt.LossFn) -> Callable:
  """(params, state, batch) → the same after a step."""

  def step(params, state, batch):
    gradient = jax.grad(loss_fn)(params, batch)
    updates, state = OPTIMIZER.update(gradient, state, params)
    return optax.apply_updates(params, updates), state

  return step


def measured(loss_fn: adaopt.LossFn) -> Callable:
  """Like `plain`, with the instrument."""

  def step(params, state, batch):
    _, found = adaopt.value_and_statistics(loss_fn)(params, batch)
    updates, state = MEASURED.update(
      found.mean, state, params, statistics=found
    )
    return optax.apply_updates(params, updates), state

  return step


STEPS = {
  'plain step': (plain, OPTIMIZER),
  'with the instrument': (measured, MEASURED),
}


def rows() -> timing.Rows:
  """Both steps of every network."""
  for name, network in NETWORKS.items():
    batch, params = networks.examples(network), networks.parameters(network)
    yield (
      (name, network.batch_size),
      {
        kind: timing.compiled(
          step(losses.mean(network.model)),
          params,
          optimizer.init(params),
          batch,
        )
        for kind, (step, optimizer) in STEPS.items()
      },
    )


def main() -> None:
  """Prints the table."""
  timing.print_machine()
  timing.print_ratios(('network', 'b'), rows(), time.process_time)


if __name__ == '__main__':
  command_line.run(main, optional=['repeats'])
