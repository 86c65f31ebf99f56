"""What an update is passed: gradient statistics, by their keyword."""

import inspect
from collections.abc import Mapping
from typing import Any

import optax

from adaopt._common import base

_HOW = (
  'In a loop of your own: loss, statistics = adaopt.value_and_statistics('
  'loss_fn)(params, batch), then optimizer.update(statistics.mean, opt_state, '
  'params, statistics=statistics). With nnx.Optimizer: optimizer.update(model, '
  'statistics.mean, statistics=statistics). With the TrainState of linen, '
  'whose apply_gradients passes nothing on: state.tx.update(statistics.mean, '
  'state.opt_state, state.params, statistics=statistics), then state.replace. '
  'A loop of plain gradients wraps its optimizer: adaopt.accumulate(optimizer, '
  'group_size=examples in a gradient).'
)


def statistics_in(
  extra_args: Mapping[str, Any], transform: str
) -> base.GradientStatistics | None:
  """The keyword `statistics` of an update, which may be None explicitly."""
  if 'statistics' not in extra_args:
    raise ValueError(
      f'{transform} needs the statistics of the gradient; pass statistics= to '
      f'update, or statistics=None to put a test off. {_HOW}'
    )
  statistics = extra_args['statistics']
  if statistics is not None and not isinstance(
    statistics, base.GradientStatistics
  ):
    raise ValueError(
      f'{transform} needs statistics= to be adaopt.GradientStatistics, such as '
      f'value_and_statistics returns, got {type(statistics).__name__}.'
    )
  return statistics


def batch_size_in(extra_args: Mapping[str, Any], transform: str) -> Any:
  """The number of examples behind an update."""
  statistics = statistics_in(extra_args, transform)
  if statistics is None:
    raise ValueError(
      f'{transform} needs the batch size in every update, got '
      'statistics=None; pass adaopt.GradientStatistics(batch_size, gradient) '
      'to pass no more than that.'
    )
  return statistics.batch_size


def without_statistics(extra_args: Mapping[str, Any]) -> dict[str, Any]:
  """The other keywords of an update."""
  return {k: v for k, v in extra_args.items() if k != 'statistics'}


def with_own_args(
  optimizer: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
  """The optimizer, whose update is passed only the keywords that it takes."""
  parameters = inspect.signature(optimizer.update).parameters.values()
  if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
    return optax.GradientTransformationExtraArgs(
      optimizer.init, optimizer.update
    )
  names = {
    p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY
  }

  def update_fn(updates, state, params=None, **extra_args):
    own = {name: x for name, x in extra_args.items() if name in names}
    return optimizer.update(updates, state, params, **own)

  return optax.GradientTransformationExtraArgs(optimizer.init, update_fn)
