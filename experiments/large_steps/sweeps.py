"""The methods of the paper, the step sizes they run with, and their bounds."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from adaopt import logistic
from adaopt.experiments.large_steps import separable

STEP_SIZES = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
LIMIT = (float('inf'),)


class Sweep(NamedTuple):
  """A method, the step sizes it runs with, and its bound."""

  make: Callable[[jax.Array], logistic.Method]
  bound: Callable[..., jax.Array]  # (n, R, μ, γ) → iterations
  step_sizes: tuple[float, ...]


def limit(
  make: Callable[[], logistic.Method], bound: Callable[..., jax.Array]
) -> Sweep:
  """A perceptron, which has no step size."""
  return Sweep(lambda _: make(), lambda n, r, mu, _: bound(n, r, mu), LIMIT)


SWEEPS = {
  'LR+GD': Sweep(logistic.lr_gd, logistic.bounds.lr_gd, STEP_SIZES),
  'BP': limit(logistic.batch_perceptron, logistic.bounds.batch_perceptron),
  'NLR': Sweep(
    logistic.normalized_lr_gd, logistic.bounds.normalized_lr_gd, STEP_SIZES
  ),
  'NBP': limit(
    logistic.normalized_batch_perceptron,
    logistic.bounds.normalized_batch_perceptron,
  ),
}
LIMITS = {'LR+GD': 'BP', 'NLR': 'NBP'}
"""Methods with a step size → their limits as γ → ∞."""


@jax.jit(static_argnums=0, static_argnames=('num_steps', 'model'))
def run(
  sweep: Sweep,
  examples: separable.Examples,
  *,
  num_steps: int,
  model: logistic.Model | None = None,
) -> tuple[logistic.Solution, logistic.Trajectory]:
  """Runs a method with all its step sizes, in one program.

  Solutions and trajectories are [step sizes, ...] each.
  """
  record = lambda step_size: logistic.record(
    sweep.make(step_size),
    **examples._asdict(),
    num_steps=num_steps,
    model=model,
  )
  return jax.vmap(record)(jnp.array(sweep.step_sizes))


def separation(
  examples: separable.Examples, *, max_steps: int
) -> logistic.Separation | None:
  """The maximal margin, or None if no positive margin was found."""
  found = jax.jit(logistic.max_margin)(
    **examples._asdict(),
    max_steps=max_steps,
  )
  return found if found.margin > 0 else None
