"""Policies: from the current batch size and the required one to the next.

`adapt_batch_size` rounds what they return up, clips it to its bounds, and does
not ask them without evidence. By default a size grows to what is required, as
by `jnp.maximum`. A policy that can shrink, or only measures, is a `Policy`.

The current size is an exact integer, and what is required a float32. Those here
return integers; of one that returns floats, the current size rounded to float32
stands for the current size.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from adaopt._common import arithmetic, base, checks, functions

AnyPolicy: TypeAlias = base.Policy | Callable[[jax.Array, jax.Array], jax.Array]


def declared(policy: AnyPolicy) -> base.Policy:
  """The policy with its declaration; a plain function is one that grows."""
  role = '(current, required) -> next, such as jnp.maximum or follow'
  rule = policy.next_size if isinstance(policy, base.Policy) else policy
  checks.check_made(role, policy=rule)
  if not functions.takes(rule, 1, 2):
    raise ValueError(
      f'policy must be a function {role}; {rule!r} does not take two '
      'arguments. Where it makes a policy, call it, as in capped_growth(2.0).'
    )
  if isinstance(policy, base.Policy):
    return policy
  if policy is jnp.maximum:  # Which in float32 would round the current size.
    return grow

  def only_grows(current, required):
    proposed = functions.number('policy', rule(current, required))
    return jnp.maximum(jnp.asarray(current, proposed.dtype), proposed)

  return base.Policy(only_grows, tests_at_max=False)


def _check_factor(factor):
  checks.check_positive(factor=factor)
  if checks.is_concrete(factor) and not factor > 1:
    raise ValueError(f'factor must be above 1 and finite, got {factor}.')


def _rounded_up(size):
  """A size as an integer; an infinite one as the largest."""
  return arithmetic.saturating_int(jnp.ceil(size))


def _times(factor, current):
  """factor · current: exact for a whole factor, and else by float32."""
  factor = jnp.asarray(factor, jnp.float32)
  whole = _rounded_up(factor)
  exact = jnp.where(
    current > arithmetic.LARGEST // whole,
    arithmetic.LARGEST,
    whole * arithmetic.saturating_int(current),
  )
  product = _rounded_up(factor * jnp.asarray(current, jnp.float32))
  return jnp.where(jnp.floor(factor) == factor, exact, product)


def _check_asked(required):
  if required is None:
    raise ValueError(
      'a policy needs the current batch size and the required one, got only '
      f'the first. {checks.injected("criterion", "policy")}'
    )


grow = base.Policy(
  lambda current, required: jnp.maximum(
    arithmetic.saturating_int(current), _rounded_up(required)
  ),
  tests_at_max=False,
)
"""Grows to what is required, and never shrinks: the default, exactly."""

follow = base.Policy(lambda current, required: _rounded_up(required))
"""Goes where the criterion says, up and down, within the bounds.

Example:
  >>> import adaopt
  >>> print(adaopt.batch_size.follow.next_size(64, 12.0))
  12
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
    100
    64
    10
  """
  _check_factor(factor)

  def next_size(current, required):
    current, asked = arithmetic.saturating_int(current), _rounded_up(required)
    within = jnp.minimum(required, 2.0**31) * factor
    largest = arithmetic.saturating_int(jnp.floor(within))
    return jnp.where((asked <= current) & (largest >= current), current, asked)

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
    32
  """
  _check_factor(factor)

  def policy(current, required=None):
    _check_asked(required)
    current = arithmetic.saturating_int(current)
    asked = jnp.maximum(current, _rounded_up(required))
    return jnp.minimum(asked, _times(factor, current))

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
    12 8

  References:
    De et al., `Big Batch SGD: Automated Inference using Adaptive Batch Sizes
    <https://arxiv.org/abs/1610.05792>`_, 2016
  """
  _check_factor(factor)

  def policy(current, required=None):
    _check_asked(required)
    current = arithmetic.saturating_int(current)
    fails = _rounded_up(required) > current
    return jnp.where(fails, _times(factor, current), current)

  return policy
