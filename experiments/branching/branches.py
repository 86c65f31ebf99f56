"""Branches of a run: equally many examples in batches of k times the size.

All branches are the program of the trunk: batch size and learning rate are
numbers in its state. Everything else in the state of the optimizer is kept,
momentum and second moments included.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from adaopt.experiments.frontier import plan as frontier
from adaopt.experiments.frontier import training

SHARE = 20
"""A branch takes at most 1 / SHARE of the budget unless told otherwise."""


MOMENTS = 8
"""Of the second half of a branch, over which its loss is averaged."""

ADAPTIVE = {'adaptive_1': 'adaptive, η = 1', 'adaptive_1p5': 'η = 1.5'}
"""Schemes of the frontier that differ in what their state holds; titles."""

Curve = list[tuple[int, int]]
"""(examples, batch size), some 60 points."""


class Plan(NamedTuple):
  """How a trunk is trained, and how it branches."""

  learning_rate: float  # of the trunk, constant
  num_examples: int  # of every branch
  num_seeds: int  # streams of examples at every point


class Point(NamedTuple):
  """What was measured at one point of the trunk."""

  examples: int  # of the trunk so far
  loss: float  # of the validation split, as all losses here
  batch_sizes: list[int]  # k b
  losses: list[list[float]]  # late in the branches. [sizes][seeds]
  noise_scale: float  # v / ‖∇F‖² over all training examples
  running_noise_scale: float  # ⟨v⟩ / ⟨‖∇F‖²⟩, as a test of the trunk sees it


def default_examples(config: ml_collections.ConfigDict) -> int:
  """The examples of a branch: b times a power of 2."""
  steps = max(config.num_examples // SHARE // config.init, 1)
  return config.init * 2 ** (steps.bit_length() - 1)


def sizes(config: ml_collections.ConfigDict, num_examples: int) -> list[int]:
  """b, 2 b, 4 b, … up to the batch that takes all examples of a branch.

  Raises:
    ValueError: If their number is not b times a power of 2.
  """
  steps, rest = divmod(num_examples, config.init)
  if rest or steps < 2 or steps.bit_count() != 1:
    raise ValueError(
      f'a branch of {num_examples} examples must be init={config.init} times a '
      'power of 2, at least 2, so that all batch sizes see the same ones.'
    )
  return [config.init * 2**i for i in range(steps.bit_length())]


def measuring(
  config: ml_collections.ConfigDict, splits: training.Splits
) -> ml_collections.ConfigDict:
  """A scheme that holds the batch size and learning rate of its state.

  It measures the noise scale, as `adaptive` does, and never moves.
  """
  return ml_collections.ConfigDict(
    config.optimizer.to_dict()
    | {
      'test': 'debiased',
      'eta': 1.0,
      'policy': 'measure',
      'init_batch_size': config.init,
      'max_batch_size': len(splits['train']['label']),
      'learning_rate': 1.0,
    }
  )


def make_trunk(
  config: ml_collections.ConfigDict, plan: Plan, splits: training.Splits
) -> Callable[[int], Point]:
  """A run that branches.

  Args:
    config: A config of a frontier; the trunk has the batch size `init`, and
      branches scale the learning rate by k^exponent.
    plan: The rest.
    splits: From `training.load`.

  Returns:
    examples → the point after so many; call it with rising numbers.

  Raises:
    ValueError: As `sizes` and `training.make_parts`.
  """
  parts = training.make_parts(config, measuring(config, splits), splits)
  batch_sizes = sizes(config, plan.num_examples)
  train, rungs = splits['train'], tuple(config.micro_batch_sizes)

  def advance(state, until):
    size = int(optax.tree.get(state.opt_state, 'batch_size'))
    burst = parts.burst_of(training.rung(size, rungs))
    # The burst overwrites what it is given.
    carry = jax.tree.map(jnp.copy, state), jnp.zeros(len(training.DEVICES), int)
    return burst(carry, until, train)[0]

  def loss(state):
    return parts.evaluate(state.params, splits['validation'])[0]

  def branch(state, size, seed):
    k = size / config.init
    rate = plan.learning_rate * k**config.exponent
    state = training.holding(state, batch_size=size, step_size=rate)
    state = state._replace(seed=jnp.asarray(seed, state.seed.dtype))
    begin, losses = int(state.examples), []
    for share in np.linspace(0.5, 1, MOMENTS + 1)[1:]:
      state = advance(state, begin + int(share * plan.num_examples))
      losses.append(loss(state))
    return float(np.mean(losses))

  def noise_scale(state):
    """By one step over the first epoch of the stream, which is not kept."""
    state = training.holding(state, batch_size=len(train['label']))
    state = state._replace(examples=jnp.zeros_like(state.examples))
    _, metrics = parts.step_of(rungs[-1])(state, train)
    return float(metrics.variance / metrics.squared_norm)

  state = parts.start({'step_size': plan.learning_rate}, config.seed)
  streams = [config.seed + 1 + i for i in range(plan.num_seeds)]

  def point(examples):
    nonlocal state
    state = advance(state, examples)
    return Point(
      examples=int(state.examples),
      loss=loss(state),
      batch_sizes=batch_sizes,
      losses=[
        [branch(state, size, seed) for seed in streams] for size in batch_sizes
      ],
      noise_scale=noise_scale(state),
      running_noise_scale=float(optax.tree.get(state.opt_state, 'required')),
    )

  return point


def make_adaptive(
  config: ml_collections.ConfigDict,
  learning_rate: float,
  splits: training.Splits,
) -> Callable[[str], Curve]:
  """Runs of `adaptive` that differ from the trunk only in their batch sizes.

  Returns one of `ADAPTIVE` → its batch sizes.
  """
  scheme, _ = frontier.scheme_of(config, next(iter(ADAPTIVE)))
  constant = ml_collections.ConfigDict(
    scheme.to_dict() | {'learning_rate': 1.0}
  )
  run = training.make_runner(config, constant, splits)

  def curve(name):
    _, held = frontier.scheme_of(config, name)
    outcome = run(held | {'step_size': learning_rate}, config.seed)
    return list(outcome.curve)

  return curve
