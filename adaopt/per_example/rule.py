"""What a rule is, and what all rules share.

A rule is given a tail and the values of its factors, [J, ...], and reduces the
gradients g_j that the tail would make.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from adaopt._common import arithmetic
from adaopt.per_example import cut, program

Factors = dict[int, jax.Array]


class Rule(NamedTuple):
  """When a rule applies to a tail, and its reductions."""

  applies: Callable[[cut.Tail], bool]
  # Σ g_j, and ‖g_j‖² [J].
  norms: Callable[[cut.Tail, Factors], tuple[jax.Array, jax.Array]]
  # Σ g_j, and Σ |g_j|².
  squares: Callable[[cut.Tail, Factors], tuple[jax.Array, jax.Array]]
  # Re Σ g_j · u over all coordinates [J], for u like the gradient.
  products: Callable[[cut.Tail, Factors, jax.Array], jax.Array]


def widen(x: jax.Array) -> jax.Array:
  """At least float32."""
  return x.astype(arithmetic.accumulator_dtype(x))


def squared_rows(x: jax.Array) -> jax.Array:
  """Σ |x|² over the last axis, in the precision of x on every backend.

  A product, which XLA reads once, where it would store squares.
  """
  return jnp.real(jnp.vecdot(x, x, precision=jax.lax.Precision.HIGHEST))


def only(tail: cut.Tail, name: str) -> bool:
  """Whether the tail is one contraction of this name, moved around."""
  if [e.name for e in tail.contractions] != [name]:
    return False
  (contraction,) = tail.contractions
  return all(
    e is contraction or cut.is_move(tail.avals, e) for e in tail.equations
  )


def moved(tail: cut.Tail, array: jax.Array) -> jax.Array:
  """Moves a reduction of the only contraction to where the gradient is."""
  (contraction,) = tail.contractions
  known = {contraction.outputs[0]: array}
  # The reduction may be of a wider type than the gradient; it keeps it.
  keep = lambda source: lambda read: [read(source)]
  instead = {
    e.outputs: keep(e.inputs[0])
    for e in tail.equations
    if e.name in ('convert_element_type', 'copy')
  }
  moves = [e for e in tail.equations if e is not contraction]
  return program.evaluate(moves, known, [tail.output], instead)[0]


def moved_back(tail: cut.Tail, array: jax.Array) -> jax.Array:
  """Moves an array like the gradient to where the contraction is."""
  (contraction,) = tail.contractions
  shape = tail.shape(contraction.outputs[0])
  source = jax.ShapeDtypeStruct(shape, array.dtype)
  return jax.linear_transpose(lambda x: moved(tail, x), source)(array)[0]


def rowwise(squares: jax.Array) -> jax.Array:
  """Sums [J, ...] to [J]."""
  return jnp.sum(squares, tuple(range(1, squares.ndim)))
