"""Runs that differ only in their seed, as one program.

Their batch sizes must be the same in every step. An adaptive scheme gives each
seed its own sizes, so its seeds run one after the other.
"""

from typing import Any

import jax
import jax.numpy as jnp

import adaopt
from adaopt import training

# What all seeds have in common.
STATE = ('step', 'examples', 'last_batch_size')
METRICS = ('step', 'examples', 'batch_size', 'next_batch_size')


def _first(values: Any, names: tuple[str, ...]) -> Any:
  """Replaces the named fields by those of the first seed."""
  return values._replace(**{name: getattr(values, name)[0] for name in names})


def stack(states: list[adaopt.TrainState]) -> adaopt.TrainState:
  """Stacks the states of several seeds, which share their counts."""
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
  return _first(stacked, STATE)


def make_step(single: training.Step) -> training.Step:
  """A step of all seeds, which donates its state.

  Returns step(state, dataset) → (state, metrics), for a stacked state. Metrics
  that differ between seeds are [seeds].
  """
  lanes = adaopt.TrainState(*[0] * len(adaopt.TrainState._fields))
  lanes = lanes._replace(**dict.fromkeys(STATE))

  def step(state, dataset):
    state, metrics = jax.vmap(single, in_axes=(lanes, None))(state, dataset)
    return _first(state, STATE), _first(metrics, METRICS)

  return jax.jit(step, donate_argnums=0)
