"""What a rule is, and what all rules share.

A rule is given a tail and the values of its factors, [J, ...], and returns
Σ g_j beside the squared norms ‖g_j‖² [J], or beside the squares Σ |g_j|².
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from adaopt import statistics
from adaopt.per_example import cut

Factors = dict[int, jax.Array]
Reduction = Callable[[cut.Tail, Factors], tuple[jax.Array, jax.Array]]


class Rule(NamedTuple):
  """When a rule applies to a tail, and its two reductions."""

  applies: Callable[[cut.Tail], bool]
  norms: Reduction
  squares: Reduction


def widen(x: jax.Array) -> jax.Array:
  """At least float32."""
  return x.astype(statistics.accumulator_dtype(x))


def only(tail: cut.Tail, name: str) -> bool:
  """Whether the tail is one contraction of this name, moved around."""
  contractions = [e.primitive.name for e in tail.contractions]
  moved = all(e.primitive.name in cut.MOVES for e in tail.rest)
  return contractions == [name] and moved


def move(tail: cut.Tail, array: jax.Array) -> jax.Array:
  """Moves a reduction of the only contraction to where the gradient is."""
  for equation in tail.rest:
    # The reduction may be of a wider type than the gradient; it keeps it.
    if equation.primitive.name not in ('convert_element_type', 'copy'):
      array = equation.primitive.bind(array, **equation.params)
  return array


def rowwise(squares: jax.Array) -> jax.Array:
  """Sums [J, ...] to [J]."""
  return jnp.sum(squares, tuple(range(1, squares.ndim)))
