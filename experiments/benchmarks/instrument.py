"""Times a training step with `adaopt.noise_scale` against the same without.

python -m adaopt.experiments.benchmarks.instrument

All times are the processor's, of all threads, run in turns, which what else
runs on the machine changes little.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import optax

import adaopt
from adaopt.experiments import command_line, models
from adaopt.experiments.benchmarks import networks, timing

NETWORKS = {
  'mlp': networks.NETWORKS['mlp'],
  'cnn': networks.NETWORKS['cnn'],
  'small transformer': networks.Network(
    models.MODELS['small_transformer'](), 32, None, 128
  ),
}


def plain(loss_fn: Callable, optimizer: optax.GradientTransformation) -> Any:
  """(params, state, batch) → the same after a step, jitted."""

  def step(params, state, batch):
    gradient = jax.grad(loss_fn)(params, batch)
    updates, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), state

  return jax.jit(step)


def measured(loss_fn: Callable, optimizer: optax.GradientTransformation) -> Any:
  """Like `plain`, for an optimizer that reads statistics."""

  def step(params, state, batch):
    _, found = adaopt.value_and_statistics(loss_fn)(params, batch)
    updates, state = optimizer.update(
      found.mean, state, params, statistics=found
    )
    return optax.apply_updates(params, updates), state

  return jax.jit(step)


def seconds(function: Callable[[], Any]) -> float:
  """Processor seconds of one run, of as many as fill a block."""
  begin, runs = time.process_time(), 0
  while not runs or time.process_time() < begin + timing.BLOCK:
    jax.block_until_ready(function())
    runs += 1
  return (time.process_time() - begin) / runs


def main() -> None:
  """Prints medians, and the median of the ratios of adjacent turns."""
  timing.print_machine()
  timing.print_header(
    'network', 'b', 'plain step, ms', 'with the instrument, ms', 'ratio'
  )
  instrument = adaopt.noise_scale(half_life=20_000)
  for name, network in NETWORKS.items():
    loss_fn, batch = networks.loss_of(network), networks.examples(network)
    params = network.model.init(jax.random.key(1), batch[0][:1])
    alone = optax.adam(1e-3)
    chained = optax.chain(instrument, alone)
    steps = [
      (plain(loss_fn, alone), alone.init(params)),
      (measured(loss_fn, chained), chained.init(params)),
    ]
    runs = [
      lambda step=step, state=state, params=params, batch=batch: step(
        params, state, batch
      )
      for step, state in steps
    ]
    for run in runs:
      jax.block_until_ready(run())
    turns = [tuple(map(seconds, runs)) for _ in range(timing.REPEATS.value)]
    without, within = map(statistics.median, zip(*turns, strict=True))
    ratio = statistics.median(b / a for a, b in turns)
    cells = f'{1e3 * without:.1f}', f'{1e3 * within:.1f}', f'{ratio:.2f}'
    timing.print_row(name, network.batch_size, *cells)


if __name__ == '__main__':
  command_line.run(main, optional=['repeats'])
