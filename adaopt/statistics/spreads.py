"""The spreads of `Moments`: sums of products of deviations from a mean."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from adaopt._common import matrices


class Spread(NamedTuple):
  """A kind of spread, Σ_j product(d_j, d_j) / b_j of deviations d_j."""

  field: str  # of `Moments`
  statistic: str  # of `GradientStatistics`, which it becomes
  # Of two tensors of one shape, real-linear in each; None: of no such tensor.
  product: Callable[[jax.Array, jax.Array], jax.Array | None]
  # A sum less another, which may round to less than 0.
  clamped: Callable[[jax.Array], jax.Array]


def _by_coordinate(x, y):
  return jnp.real(x * jnp.conj(y))


def _not_negative(x):
  return jnp.maximum(x, 0)


TOTAL = Spread(
  'spread',
  'variance',
  lambda x, y: jnp.sum(_by_coordinate(x, y)),
  _not_negative,
)
BY_COORDINATE = Spread(
  'coordinate_spread', 'coordinate_variance', _by_coordinate, _not_negative
)
OF_MATRICES = Spread(
  'matrix_spread',
  'matrix_variance',
  matrices.product,
  lambda x: x,  # whoever takes eigenvalues clamps these
)
SPREADS = TOTAL, BY_COORDINATE, OF_MATRICES
