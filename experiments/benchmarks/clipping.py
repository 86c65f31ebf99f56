"""Times sums of clipped gradients against a plain gradient.

python -m adaopt.experiments.benchmarks.clipping [--clipping_peers]

Needs jax-privacy, which adaopt[test] installs.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from absl import flags
from jax_privacy import clipping as jax_privacy_clipping

import adaopt
from adaopt.experiments import command_line
from adaopt.experiments.benchmarks import timing, variants

_PEERS = flags.DEFINE_bool(
  'clipping_peers', False, 'Whether to time Opacus and BackPACK too.'
)

MAX_NORM = 1.0
PARTS = 2
"""The number of micro-batches."""


def ours(loss_fn: Callable) -> Callable:
  """adaopt's sum."""
  return adaopt.per_example.clipped_sum(loss_fn, MAX_NORM)


def in_micro_batches(loss_fn: Callable) -> Callable:
  """adaopt's sum of micro-batches, added up by optax."""
  kinds = optax.microbatching.AccumulationType
  whole = (kinds.MEAN, kinds.SUM, kinds.CONCAT)

  def clipped(params, batch):
    size = len(batch['label']) // PARTS
    return optax.microbatching.microbatch(ours(loss_fn), 1, size, whole)(
      params, batch
    )

  return clipped


def per_example(loss_fn: Callable) -> Callable:
  """The same from one gradient per example."""

  def clipped(params, batch):
    values, gradients = variants.of_examples(loss_fn)(params, batch)
    norms = jax.vmap(optax.tree.norm)(gradients)
    weights = jnp.minimum(1, MAX_NORM / norms)
    total = jax.tree.map(lambda g: jnp.tensordot(weights, g, 1), gradients)
    return jnp.mean(values), total, norms

  return clipped


OURS = 'clipped_sum'
VARIANTS = {
  variants.PLAIN: jax.value_and_grad,
  OURS: ours,
  f'in {PARTS} micro-batches': in_micro_batches,
  'vmap(grad)': per_example,
  'jax_privacy': functools.partial(
    jax_privacy_clipping.clipped_grad,
    l2_clip_norm=MAX_NORM,
    return_values=True,
    return_grad_norms=True,
  ),
}


def main() -> None:
  """Prints times, memory and compile times."""
  packages = 'torch, opacus and backpack-for-pytorch'
  peers = _PEERS.value and functools.partial(
    timing.load_peers('clipping_peers', packages).functions, max_norm=MAX_NORM
  )
  timing.print_machine()
  variants.measure(VARIANTS, peers, OURS)


if __name__ == '__main__':
  command_line.run(main, optional=['repeats', 'network'])
