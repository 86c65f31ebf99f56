"""The update of the optimizer, with all that a step can pass to it."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import optax

from adaopt._common import base

TAKEN = frozenset(
  [
    'grad',
    'grad_fn',
    'opt_state',
    'params',
    'state',
    'statistics',
    'updates',
    'value',
    'value_fn',
  ]
)
"""What an update is passed by these names, which an aux cannot have."""


def update(
  optimizer: optax.GradientTransformationExtraArgs,
  gradient: optax.Updates,
  statistics: base.GradientStatistics,
  params: optax.Params,
  opt_state: optax.OptState,
  value: jax.Array,
  aux: Any,
  value_fn: Callable[[optax.Params], jax.Array],
) -> tuple[optax.Updates, optax.OptState]:
  """The updates of an optimizer and its next state.

  Args:
    optimizer: The optimizer, whose update takes any keyword.
    gradient: The mean gradient of the batch.
    statistics: Of the batch, of the tensors that are trained.
    params: The parameters.
    opt_state: The state of the optimizer.
    value: The loss of the batch.
    aux: The aux of the batch. The entries of a dict are passed by their names.
    value_fn: Parameters → the loss of the same batch, which has a gradient.

  Returns:
    Updates and state.
  """
  keywords = dict(
    statistics=statistics,
    opt_state=opt_state,
    grad_fn=lambda params, *_: jax.grad(value_fn)(params),
    **_by_name(aux),
  )
  try:
    return optimizer.update(
      gradient,
      opt_state,
      params,
      value=value,
      grad=gradient,
      value_fn=_taking(value_fn, keywords),
      **keywords,
    )
  except TypeError as error:
    if 'unexpected keyword argument' not in str(error):
      raise
    raise ValueError(
      f'{error}. A transform in the optimizer takes no such keyword, and a '
      'chain passes it all of them: put optax.GradientTransformation(*transform'
      ') in its place, which drops them, or give the transform to '
      'adaopt.adaptive, which passes those that it takes.'
    ) from error


def _by_name(aux):
  """What an update gets of aux: the entries of a dict."""
  if not isinstance(aux, dict):
    return {}
  taken = TAKEN.intersection(aux)
  if taken:
    raise ValueError(
      'the entries of a dict aux are passed to the optimizer by their names, '
      f'and its update has a {min(taken)} of its own; rename that entry.'
    )
  return {name: x for name, x in aux.items() if isinstance(name, str)}


def _taking(value_fn, keywords):
  """The function, seen to take keywords: optax's line searches insist on it."""

  def taking(params, **_):
    return value_fn(params)

  kind = inspect.Parameter
  names = [name for name in keywords if name.isidentifier()]
  taking.__signature__ = inspect.Signature(
    [kind('params', kind.POSITIONAL_OR_KEYWORD)]
    + [kind(name, kind.KEYWORD_ONLY) for name in names]
  )
  return taking
