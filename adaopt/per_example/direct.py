"""Rules for gradients that no contraction makes: biases and scales.

They are small enough to be made for every sample. So are, for want of a rule,
the gradients that an unknown primitive makes.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from adaopt import statistics
from adaopt.per_example import rule


def _direct(square: Callable) -> rule.Reduction:
  def reduce(tail, factors):
    gradients = rule.widen(factors[tail.output])
    return jnp.sum(gradients, 0), square(statistics.abs_sq(gradients))

  return reduce


DIRECT = rule.Rule(
  applies=lambda tail: not tail.contractions,
  norms=_direct(rule.rowwise),
  squares=_direct(lambda squares: jnp.sum(squares, 0)),
)


def absent(length: int, parameter: jax.Array) -> rule.Rule:
  """The rule for a parameter on which no sample's loss depends."""
  total = jnp.zeros_like(rule.widen(parameter))
  squares = statistics.abs_sq(total)
  return rule.Rule(
    applies=lambda tail: tail is None,
    norms=lambda tail, factors: (total, jnp.zeros(length, squares.dtype)),
    squares=lambda tail, factors: (total, squares),
  )
