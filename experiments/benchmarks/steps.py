"""Training steps with a constant batch size, to be timed."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from flax import linen as nn

import adaopt
from adaopt import training
from adaopt.experiments import losses

PASSED = adaopt.norm_test(eta=1e3)
"""A test that runs in every step, and passes."""


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
  loss: Callable[[nn.Module], adaopt.LossFn] = losses.mean,
) -> Callable[[], Any]:
  """A function that makes the next step of a run and returns its metrics.

  It has made one, so that it is compiled. `criterion` is tested in every step;
  without one there is only the mean.
  """
  optimizer = optax.chain(hold(criterion, batch_size), adaopt.adagrad(1e-4))
  step = adaopt.train_step(
    loss(model),
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

  run()
  return run
