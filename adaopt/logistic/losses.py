"""Losses of the margin ℓ(m), by the entropy that makes them.

A convex φ on [0, 1] with φ(0) = φ(1) = 0 makes the Fenchel–Young loss and its
residual r = −ℓ', the probability of the wrong class:

  ℓ(m) = max_p (−m p − φ(p)),  r(m) = the p that attains it.

With finite slopes at the ends, ℓ and r are 0 for m ≥ κ = φ'(1): the loss has
the separation margin κ. An example with m ≥ κ no longer pulls.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from adaopt._common import checks

Scalar = Callable[[jax.Array], jax.Array]


class Loss(NamedTuple):
  """A loss of the margin and its residual, of any shape."""

  value: Scalar  # m → ℓ(m) ≥ 0
  residual: Scalar  # m → −ℓ'(m) ≥ 0
  separation: float  # κ, ℓ(m) = 0 for m ≥ κ; infinite if ℓ > 0


def logistic() -> Loss:
  """log(1 + e^{−m}), of Shannon's entropy; r = σ(−m).

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt import logistic
    >>> loss = logistic.losses.logistic()
    >>> print(loss.value(jnp.zeros(1)), loss.residual(jnp.zeros(1)))
    [0.6931472] [0.5]
  """
  return Loss(
    value=lambda m: jax.nn.softplus(-m),
    residual=lambda m: jax.nn.sigmoid(-m),
    separation=math.inf,
  )


def exponential() -> Loss:
  """e^{−m}, whose residual has no bound."""
  return Loss(
    value=lambda m: jnp.exp(-m),
    residual=lambda m: jnp.exp(-m),
    separation=math.inf,
  )


def squared_hinge() -> Loss:
  """max(0, 1 − m)² / 2, whose residual has no bound."""
  return Loss(
    value=lambda m: jnp.square(jnp.maximum(1 - m, 0)) / 2,
    residual=lambda m: jnp.maximum(1 - m, 0),
    separation=1.0,
  )


def hinge() -> Loss:
  """max(0, 1 − m), with r = 1 for m < 1: the perceptron with a margin."""
  return Loss(
    value=lambda m: jnp.maximum(1 - m, 0),
    residual=lambda m: (m < 1).astype(m.dtype),
    separation=1.0,
  )


def _root(slope, m):
  """The p of [0, 1] with slope(p) = −m, for an increasing slope; by halving.

  Its derivative is −1 / slope'(p).
  """
  halvings = jnp.finfo(m.dtype).nmant + 2

  def halve(_, bracket):
    low, high = bracket
    p = (low + high) / 2
    above = slope(p) > -m
    return jnp.where(above, low, p), jnp.where(above, p, high)

  low, high = jax.lax.fori_loop(
    0, halvings, halve, (jnp.zeros_like(m), jnp.ones_like(m))
  )
  p = jax.lax.stop_gradient((low + high) / 2)
  _, curvature = jax.jvp(slope, (p,), (jnp.ones_like(p),))
  curvature = jnp.where(curvature > 0, curvature, 1)
  return p - (m - jax.lax.stop_gradient(m)) / curvature


def _fenchel_young(entropy: Scalar, slope: Scalar, separation: float) -> Loss:
  """The loss of a symmetric φ and its derivative, with κ = φ'(1)."""

  def residual(m):
    inside = jnp.clip(m, -separation, separation)
    p = _root(slope, inside)
    p = jnp.where(m >= separation, 0, jnp.where(m <= -separation, 1, p))
    return jnp.where(jnp.isnan(m), m, p)

  def value(m):
    p = residual(m)
    pulled = jnp.where(p > 0, -m * p, 0)  # also at m = ∞
    return jnp.maximum(pulled - entropy(p), 0)

  return Loss(value, residual, separation)


def tsallis(q: float) -> Loss:
  r"""The loss of Tsallis' entropy, φ(p) = (p^q + (1 − p)^q − 1) / (q (q − 1)).

  κ = 1/(q − 1). q = 2 is the loss of sparsemax, (1 − m)²/4 for |m| ≤ 1 and −m
  below, also known as the modified Huber loss up to a factor; q → 1 tends to
  the logistic loss.

  Args:
    q: 1 < q; a number, not traced.

  Returns:
    The loss.

  Raises:
    ValueError: If q is not above 1 and finite.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt import logistic
    >>> loss = logistic.losses.tsallis(2.0)
    >>> print(loss.value(jnp.array([-2.0, 0.0, 0.5, 1.0])))
    [2.     0.25   0.0625 0.    ]

  References:
    Blondel et al., `Learning with Fenchel–Young losses
    <https://arxiv.org/abs/1901.02324>`_, 2020; Bao et al., `Any-stepsize
    Gradient Descent for Separable Data under Fenchel–Young Losses
    <https://arxiv.org/abs/2502.04889>`_, 2025
  """
  checks.check_positive(q=q)
  if not q > 1:
    raise ValueError(
      f'q must be above 1, where the loss has a separation margin, got {q}; '
      'q → 1 is losses.logistic().'
    )
  return _fenchel_young(
    lambda p: (p**q + (1 - p) ** q - 1) / (q * (q - 1)),
    lambda p: (p ** (q - 1) - (1 - p) ** (q - 1)) / (q - 1),
    1 / (q - 1),
  )


def renyi(q: float) -> Loss:
  r"""The loss of Rényi's entropy, φ(p) = log(p^q + (1 − p)^q) / (q − 1).

  κ = q/(q − 1). Near κ the loss of q = 2 falls like (κ − m)^{3/2}.

  Args:
    q: 1 < q ≤ 2, where φ is convex; a number, not traced.

  Returns:
    The loss.

  Raises:
    ValueError: If q is not above 1 and at most 2.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt import logistic
    >>> loss = logistic.losses.renyi(2.0)
    >>> print(loss.value(jnp.array([-3.0, 2.0])), loss.residual(jnp.zeros(1)))
    [3. 0.] [0.5]

  References:
    Bao et al., `Any-stepsize Gradient Descent for Separable Data under
    Fenchel–Young Losses <https://arxiv.org/abs/2502.04889>`_, 2025
  """
  checks.check_positive(q=q)
  if not 1 < q <= 2:
    raise ValueError(
      f'q must be above 1 and at most 2, where the entropy of two classes is '
      f'concave and has a separation margin, got {q}.'
    )

  def slope(p):
    numerator = p ** (q - 1) - (1 - p) ** (q - 1)
    return q / (q - 1) * numerator / (p**q + (1 - p) ** q)

  return _fenchel_young(
    lambda p: jnp.log(p**q + (1 - p) ** q) / (q - 1), slope, q / (q - 1)
  )


__all__ = [
  'Loss',
  'exponential',
  'hinge',
  'logistic',
  'renyi',
  'squared_hinge',
  'tsallis',
]


def __dir__() -> list[str]:
  return __all__
