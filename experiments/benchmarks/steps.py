"""Training steps with a constant batch size, to be timed."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from flax import linen as nn

import adaopt
from adaopt import training

PASSED = adaopt.norm_test(eta=1e3)
"""A test that runs in every step, and passes."""


def mean_loss(model: nn.Module) -> adaopt.LossFn:
  """The mean cross-entropy of a model from 'input' to logits."""

  def loss_fn(params, batch):
    logits = model.apply(params, batch['input'])
    return optax.softmax_cross_entropy_with_integer_labels(
      logits, batch['label']
    ).mean()

  return loss_fn


def hold(
  criterion: adaopt.Criterion | None, batch_size: int
) -> optax.GradientTransformation:
  """Holds a batch size, tested in every step where there is a criterion."""
  if criterion is None:
    return adaopt.schedule_batch_size(batch_size)
  return adaopt.adapt_batch_size(
    criterion, init_batch_size=batch_size, max_batch_size=2 * batch_size
  )


def make_runner(
  model: nn.Module,
  examples: dict[str, jax.Array],
  batch_size: int,
  *,
  micro_batch_size: int,
  criterion: adaopt.Criterion | None,
  driver: Callable[..., training.Step] = training.automatic,
) -> Callable[[], Any]:
  """A function that makes the next step of a run and returns its metrics.

  `criterion` is tested in every step; without one there is only the mean.
  """
  optimizer = optax.chain(hold(criterion, batch_size), adaopt.adagrad(1e-4))
  step = adaopt.train_step(
    mean_loss(model),
    optimizer,
    micro_batch_size=micro_batch_size,
    driver=driver,
    donate=True,
  )
  params = model.init(jax.random.key(0), examples['input'][:1])
  state = adaopt.init_train_state(params, optimizer)

  def run():
    nonlocal state
    state, metrics = step(state, examples)
    return metrics

  return run
