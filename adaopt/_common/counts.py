"""Counts of examples beyond 2³¹, in two words of 32 bits.

A count is turns · 2³¹ + examples: what is left of it, and how often it went
round. A schedule that has a parameter `turns` is passed both words; any other
is passed one, which stays at the largest integer.
"""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adaopt._common import arithmetic

TURN = 2**31
BITS = 62
"""Of the largest count that two words hold."""


def nothing() -> tuple[jax.Array, jax.Array]:
  """The count of no examples: (examples, turns)."""
  return jnp.zeros([], jnp.int32), jnp.zeros([], jnp.int32)


def added(
  examples: jax.Array, turns: jax.Array, used: jax.typing.ArrayLike
) -> tuple[jax.Array, jax.Array]:
  """The count and some examples more, 0 ≤ used < 2³¹."""
  used = arithmetic.saturating_int(used)
  room = arithmetic.LARGEST - examples
  goes_round = used > room
  rest = jnp.where(goes_round, used - room - 1, examples + used)
  return rest, turns + goes_round.astype(jnp.int32)


def reaches(examples: Any, turns: Any, threshold: int) -> Any:
  """Whether a count is at least a threshold below 2⁶², exactly.

  Args:
    examples: Of the count, int32; a number of Python or numpy, or one of JAX
      in more bits or floating, may be beyond 2³¹ itself. Any shape.
    turns: Of the count. [] int32, or an int.
    threshold: The threshold.

  Returns:
    Whether it is, bool.
  """
  if not isinstance(examples, jax.Array):
    return np.asarray(examples) >= threshold - TURN * turns
  if jnp.issubdtype(examples.dtype, jnp.floating):
    examples = examples.astype(arithmetic.accumulator_dtype(examples))
    gone = float(TURN) * jnp.asarray(turns, examples.dtype)
    return examples >= float(threshold) - gone
  if jnp.iinfo(examples.dtype).max >= TURN:
    more, examples = jnp.divmod(examples, jnp.asarray(TURN, examples.dtype))
    turns = turns + more.astype(jnp.int32)
  whole, rest = divmod(threshold, TURN)
  return (turns > whole) | ((turns == whole) & (examples >= rest))


def in_float(examples: Any, turns: Any) -> jax.Array:
  """The count rounded to float32. []."""
  turns = jnp.asarray(turns, jnp.float32)
  return turns * jnp.float32(TURN) + jnp.asarray(examples, jnp.float32)


def _takes_turns(schedule):
  try:
    return 'turns' in inspect.signature(schedule).parameters
  except (TypeError, ValueError):  # A builtin without a signature.
    return False


def at(
  schedule: Callable[..., Any], examples: jax.Array, turns: jax.Array
) -> Any:
  """What a schedule says at a count."""
  if _takes_turns(schedule):
    return schedule(examples, turns=turns)
  return schedule(jnp.where(turns > 0, arithmetic.LARGEST, examples))
