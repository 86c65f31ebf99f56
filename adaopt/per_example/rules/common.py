"""The type of a rule, and what several rules use.

A rule takes a tail and the arrays of its factors, [J, ...], and reduces the
gradients g_j that the tail would make.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from adaopt._common import arithmetic
from adaopt.per_example import cut
from adaopt.per_example.program import ir

Factors = dict[int, Any]
"""The arrays of factors, [J, ...], and of shared values, by number; of a stack
what it is reduced to."""


class Shared(NamedTuple):
  """In place of a tail: gradients w_j g that differ by their weights alone."""

  weights: jax.Array  # w_j, [J]
  gradient: jax.Array  # g


AnyTail = cut.Tail | cut.Stacked | Shared


def shared(weights: jax.Array, factors: Factors, gradient: ir.Value) -> Shared:
  """Gradients w_j g, for weights [J] and the value g."""
  (g,) = ir.evaluate((), factors, [gradient])
  return Shared(weights, jnp.asarray(g))


class Sums(NamedTuple):
  """Sums over gradients g_j, of one tensor or of trees of them.

  A rule states all six. Whoever reads only some of them lets
  `pruning.pruned` or `jax.jit` remove the others.
  """

  total: Any  # Σ_j g_j, or the same over W; float32 or wider
  weighted: Any  # Σ_j c_j g_j for coefficients c_j, likewise
  norms: Any  # ‖g_j‖², [J]
  squares: Any  # Σ_j |g_j|², like the tensor
  signs: Any  # Σ_j sgn g_j, like the tensor; sgn z = z / |z| if complex
  matrix_squares: Any  # Σ_j g_j g_jᴴ, see `matrices`; None unless g is one


class Reduced(NamedTuple):
  """The reductions of a stack, in the place of its factors."""

  sums: Sums
  products: jax.Array | None  # Re Σ g_j · u [J]; None without a direction
  each: jax.Array  # g_j, [J, ...]; for stacks of vectors, which are matrices


class Rule(NamedTuple):
  """When a rule applies to a tail, and its reductions."""

  applies: Callable[[AnyTail], bool]
  # Sums for coefficients c_j, [J] real.
  sums: Callable[[AnyTail, Factors, jax.Array], Sums]
  # Re Σ g_j · u over all coordinates [J], for u like the gradient.
  products: Callable[[AnyTail, Factors, jax.Array], jax.Array]


def widen(x: jax.Array) -> jax.Array:
  """Casts to float32 or wider."""
  return x.astype(arithmetic.accumulator_dtype(x))


def squared_rows(x: jax.Array) -> jax.Array:
  """Σ |x|² over the last axis, in the precision of x on every backend.

  Uses a dot product, since XLA would store the squares before a sum of them.
  """
  return jnp.real(jnp.vecdot(x, x, precision=jax.lax.Precision.HIGHEST))


def only(tail: cut.Tail, name: str) -> bool:
  """Whether a tail is one contraction of this name, and moves."""
  if [e.name for e in tail.contractions] != [name]:
    return False
  (contraction,) = tail.contractions
  return all(
    e is contraction or cut.is_move(tail.avals, e) for e in tail.equations
  )


_KEEPERS = 'convert_element_type', 'copy'
"""Moves that leave every element in its place."""


def moved(tail: cut.Tail | cut.Stacked, array: jax.Array) -> jax.Array:
  """Applies the moves of a tail to a reduction of what they start from."""
  source, moves = _moves(tail)
  # A reduction keeps its type, which may be wider than the gradient's.
  keep = lambda source: lambda read: [read(source)]
  instead = {e.outputs: keep(e.inputs[0]) for e in moves if e.name in _KEEPERS}
  return ir.evaluate(moves, {source: array}, [tail.output], instead)[0]


def moved_back(tail: cut.Tail | cut.Stacked, array: jax.Array) -> jax.Array:
  """Undoes the moves of a tail for an array like the gradient."""
  source, _ = _moves(tail)
  # Like it; its numbers are not read.
  like = jnp.reshape(array, tail.avals[source].shape)
  return jax.linear_transpose(lambda x: moved(tail, x), like)(array)[0]


def _moves(tail):
  """What the moves of a tail start from, its only contraction; and these."""
  if isinstance(tail, cut.Stacked):
    return tail.source, tail.moves
  (contraction,) = tail.contractions
  moves = tuple(e for e in tail.equations if e is not contraction)
  return contraction.outputs[0], moves


def squared_axis(tail: cut.Tail, shape: tuple[int, int]) -> int | None:
  """Which axis of a contracted matrix the square of the gradient is of.

  Args:
    tail: With one contraction.
    shape: What the contraction makes, as its rule sees it.

  Returns:
    0, its rows, or 1; None if more happens to the matrix than a transposition.
  """
  source, moves = _moves(tail)
  names = [e.name for e in moves]
  if tail.shape(source) != shape or not {*names} <= {*_KEEPERS, 'transpose'}:
    return None
  rows, columns = shape
  if rows == columns:
    return names.count('transpose') % 2
  return 0 if rows < columns else 1


def signs(x: jax.Array) -> jax.Array:
  """sgn x, in float32 or wider, so that many can be added."""
  return jnp.sign(widen(x))


def scaled(coefficients: jax.Array, x: jax.Array) -> jax.Array:
  """c_j x_j for x [J, ...]."""
  shape = (-1, *[1] * (x.ndim - 1))
  return coefficients.astype(x.dtype).reshape(shape) * x


def rowwise(squares: jax.Array) -> jax.Array:
  """Sums [J, ...] to [J]."""
  return jnp.sum(squares, tuple(range(1, squares.ndim)))
