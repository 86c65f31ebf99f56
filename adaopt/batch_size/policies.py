"""Policies: from the current batch size and the required one to the next.

`adapt_batch_size` rounds what they return up, clips it to its bounds, and does
not ask them without evidence. `jnp.maximum`, its default, grows to what is
required. A policy that can shrink, or only measures, is a `Policy`.
"""

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from adaopt._common import base, checks

AnyPolicy: TypeAlias = base.Policy | Callable[[jax.Array, jax.Array], jax.Array]


def declared(policy: AnyPolicy) -> base.Policy:
  """The policy with its declaration; a plain function is one that grows."""
  role = '(current, required) -> next, such as jnp.maximum or follow'
  rule = policy.next_size if isinstance(policy, base.Policy) else policy
  checks.check_made(role, policy=rule)
  if not _takes_two(rule):
    raise ValueError(
      f'policy must be a function {role}; {rule!r} does not take two '
      'arguments. Where it makes a policy, call it, as in capped_growth(2.0).'
    )
  if isinstance(policy, base.Policy):
    return policy

  def only_grows(current, required):
    return jnp.maximum(current, rule(current, required))

  return base.Policy(only_grows, tests_at_max=False)


def _takes_two(function: Callable[..., Any]) -> bool:
  try:
    inspect.signature(function).bind(None, None)
  except TypeError:
    return False
  except ValueError:  # A builtin without a signature.
    return True
  return True


def _check_factor(factor):
  checks.check_positive(factor=factor)
  if checks.is_concrete(factor) and not factor > 1:
    raise ValueError(f'factor must be above 1 and finite, got {factor}.')


follow = base.Policy(lambda current, required: required)
"""Goes where the criterion says, up and down, within the bounds.

Example:
  >>> import adaopt
  >>> print(adaopt.batch_size.follow.next_size(64, 12.0))
  12.0
"""

measure = base.Policy(lambda current, required: current)
"""Never moves: measures the noise of a baseline in every test.

Example:
  >>> import adaopt
  >>> print(adaopt.batch_size.measure.next_size(64, 12.0))
  64
"""


def hysteresis(factor: jax.typing.ArrayLike) -> base.Policy:
  """Grows to what is required, and shrinks to it where it is far below.

  Args:
    factor: f > 1. The size stays while current / f ≤ required ≤ current.

  Returns:
    A policy: required outside of that range, and else current.

  Raises:
    ValueError: If factor is not above 1 and finite.

  Example:
    >>> import adaopt
    >>> policy = adaopt.batch_size.hysteresis(4.0)
    >>> for required in (100.0, 20.0, 10.0):
    ...   print(policy.next_size(64, required))
    100.0
    64.0
    10.0
  """
  _check_factor(factor)

  def next_size(current, required):
    stays = (required <= current) & (required * factor >= current)
    return jnp.where(stays, current, required)

  return base.Policy(next_size)


def capped_growth(
  factor: jax.typing.ArrayLike,
) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """Grows to what is required, by at most `factor` at once.

  Args:
    factor: The largest ratio of two successive batch sizes, > 1.

  Returns:
    A policy, min(max(current, required), factor · current).

  Raises:
    ValueError: If factor is not above 1 and finite.

  Example:
    >>> import adaopt
    >>> print(adaopt.batch_size.capped_growth(4.0)(8, 1000.0))
    32.0
  """
  _check_factor(factor)

  def policy(current, required):
    return jnp.minimum(jnp.maximum(current, required), factor * current)

  return policy


def geometric_growth(
  factor: jax.typing.ArrayLike,
) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """Grows by a factor while a test fails, however much it asks for.

  Args:
    factor: The ratio of two successive batch sizes, > 1.

  Returns:
    A policy, factor · current where required > current, and else current.

  Raises:
    ValueError: If factor is not above 1 and finite.

  Example:
    >>> import adaopt
    >>> grow = adaopt.batch_size.geometric_growth(1.5)
    >>> print(grow(8, 1000.0), grow(8, 7.0))
    12.0 8.0

  References:
    De et al., `Big Batch SGD: Automated Inference using Adaptive Batch Sizes
    <https://arxiv.org/abs/1610.05792>`_, 2016
  """
  _check_factor(factor)

  def policy(current, required):
    return jnp.where(required > current, factor * current, current)

  return policy
