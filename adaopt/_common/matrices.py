"""Squares of matrices, G Gᴴ, and their roots.

The square of a matrix with more rows than columns is that of its transpose, so
that it is [m, m] with the smaller side m. A tensor is a matrix if it has two
axes; the square of any other is None.
"""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp

from adaopt._common import arithmetic


def is_matrix(x: Any) -> bool:
  """Whether an array, or its shape, has two axes."""
  return len(x.shape) == 2


def product(x: jax.Array, y: jax.Array) -> jax.Array | None:
  """(x yᴴ + y xᴴ) / 2 of two matrices of one shape.

  Args:
    x: [r, c].
    y: [r, c].

  Returns:
    [m, m], float32 or wider; None of other tensors.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt._common import matrices
    >>> x = jnp.array([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]])
    >>> print(matrices.product(x, x))
    [[5. 2.]
     [2. 2.]]
  """
  if not is_matrix(x):
    return None
  found = sum_of_products(x[None], y[None])
  return (found + jnp.conj(found.T)) / 2


def sum_of_products(x: jax.Array, y: jax.Array) -> jax.Array:
  """Σ_j x_j y_jᴴ of matrices [J, r, c]. [m, m], float32 or wider."""
  _, rows, columns = x.shape
  return contracted('jrc,jsc->rs' if rows <= columns else 'jcr,jcs->rs', x, y)


def contracted(equation: str, x: jax.Array, y: jax.Array) -> jax.Array:
  """An einsum of x and conj y, in full precision: most may be subtracted."""
  x, y = (jnp.asarray(a, arithmetic.accumulator_dtype(a)) for a in (x, y))
  highest = jax.lax.Precision.HIGHEST
  return jnp.einsum(equation, x, jnp.conj(y), precision=highest)


def shape_of_square(x: Any) -> jax.ShapeDtypeStruct | None:
  """The square of such a matrix; None of other tensors."""
  if not is_matrix(x):
    return None
  m = min(x.shape)
  return jax.ShapeDtypeStruct((m, m), arithmetic.accumulator_dtype(x))


def raveled(squares: Any) -> jax.Array | None:
  """All squares of a tree in one array, [Σ m²]; None for None."""
  if squares is None:
    return None
  flat = [jnp.ravel(x) for x in jax.tree.leaves(squares)]
  return jnp.concatenate(flat) if flat else jnp.zeros([0])


def unraveled(flat: jax.Array | None, tensors: Any) -> Any:
  """The squares of tensors from one array of them all; None for None."""
  if flat is None:
    return None
  shapes, structure = jax.tree.flatten(jax.tree.map(shape_of_square, tensors))
  ends = itertools.accumulate((math.prod(s.shape) for s in shapes), initial=0)
  found = [
    flat[begin:end].reshape(s.shape).astype(s.dtype)
    for s, (begin, end) in zip(shapes, itertools.pairwise(ends), strict=True)
  ]
  return structure.unflatten(found)


def trace_of_root(square: jax.Array) -> jax.Array:
  """tr C^(1/2) of a Hermitian matrix C ≥ 0: of a square of G, ‖G‖_*.

  Args:
    square: C, [m, m]. Eigenvalues that round to less than 0 count as 0.

  Returns:
    The trace, [] real. It rounds by up to about 3e-4 m √‖C‖ in float32, where
    most eigenvalues of C are 0.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt._common import matrices
    >>> print(matrices.trace_of_root(jnp.diag(jnp.array([9.0, 4.0, 0.0]))))
    5.0
  """
  return jnp.sum(jnp.sqrt(jnp.maximum(jnp.linalg.eigvalsh(square), 0)))
