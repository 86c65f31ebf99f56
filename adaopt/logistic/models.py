"""Scores f(a; θ) that are not linear in θ: two-layer models.

Gradient descent on the log-loss moves θ by (γ/n) Σ p_i y_i ∇f(a_i; θ), with
p_i = σ(−m_i). As γ grows, p_i tends to 1 where m_i < 0 and to 0 where m_i > 0:
the step is that of a batch perceptron with ∇f(a_i; θ) for a_i, γ times as long.

For linear scores γ only scales θ. Here it does not: a large γ can end in units
that are 0 for every example, where the iterates rest (`Solution.period` is 1),
and the perceptrons are the limits of a large θ_0, not of a large γ.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.experimental import sparse

from adaopt._common import calls, checks

Features: TypeAlias = jax.Array | sparse.BCOO
"""a_i as rows, [n, d]: dense, or BCOO; made of scipy's formats and of BCSR."""


@jax.tree_util.register_static
class Model(NamedTuple):
  """A score for every row of features, with all parameters in one vector."""

  start: Callable[[Features], jax.Array]  # features → θ_0, [p]
  scores: Callable[[jax.Array, Features], jax.Array]  # (θ, features) → f, [n]
  degree: float  # L of f(a; cθ) = c^L f(a; θ); margins are over ‖θ‖^L


def check_model(model: Model | None) -> None:
  """Raises ValueError unless it is a model or None."""
  if model is None:
    return
  if not isinstance(model, Model):
    name = getattr(model, '__name__', type(model).__name__)
    raise ValueError(
      'model must be a Model, such as two_layer(16, key), or None for linear '
      f'scores, got {name}.'
    )
  checks.check_callable('features -> params', **{'model.start': model.start})
  checks.check_callable(
    '(params, features) -> scores', **{'model.scores': model.scores}
  )
  checks.check_positive(**{'model.degree': model.degree})


def two_layer(
  width: int,
  key: jax.Array,
  *,
  activation: Callable[[jax.Array], jax.Array] = jax.nn.relu,
  scale: jax.typing.ArrayLike = 1.0,
) -> Model:
  r"""A hidden layer without bias: f(a; θ) = (1/√k) Σ_j v_j φ(⟨w_j, a⟩).

  θ = (w, v) has k (d + 1) numbers; at the start w_j ~ N(0, s² I / d) and v_j
  ~ N(0, s²).

  Args:
    width: k ≥ 1.
    key: Draws θ_0.
    activation: φ, homogeneous of degree 1 as ReLU is: `margin`, which divides
      by ‖θ‖², has a meaning only then.
    scale: s > 0.

  Returns:
    The model.

  Raises:
    ValueError: If the width or the scale is not positive, or the activation is
      not callable.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from adaopt import logistic
    >>> xor = jnp.array([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]])
    >>> found = logistic.solve(
    ...   logistic.normalized_lr_gd(1.0), xor, jnp.array([1, 1, -1, -1]),
    ...   model=logistic.two_layer(16, jax.random.key(0)), max_steps=1000)
    >>> print(found.iterations)
    3

  References:
    Tyurin, `Gradient Descent as a Perceptron Algorithm
    <https://arxiv.org/abs/2512.11587>`_, 2025
  """
  checks.check_integer(1, width=width)
  calls.check_key(key)
  checks.check_positive(scale=scale)
  checks.check_callable('of an array', activation=activation)

  def start(features):
    first, second = jax.random.split(key)
    d, dtype = features.shape[1], features.dtype
    w = jax.random.normal(first, [d, width], dtype) / math.sqrt(d)
    v = jax.random.normal(second, [width], dtype)
    return (scale * jnp.concatenate([w.ravel(), v])).astype(dtype)

  def scores(params, features):
    w = params[:-width].reshape(features.shape[1], width)
    hidden = activation(features @ w)
    return hidden @ params[-width:] / math.sqrt(width)

  return Model(start, scores, 2)


def hadamard(scale: jax.typing.ArrayLike = 1.0) -> Model:
  r"""Two diagonal layers: f(a; θ) = ⟨u ∘ u − v ∘ v, a⟩.

  θ = (u, v) has 2d numbers; at the start u = v = s. Small s favours few
  coordinates: each grows in proportion to itself.

  Args:
    scale: s > 0.

  Returns:
    The model.

  Raises:
    ValueError: If the scale is not positive.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt import logistic
    >>> features = jnp.array([[0.5, -1.0], [-0.5, -1.0]])
    >>> found = logistic.solve(
    ...   logistic.lr_gd(1.0), features, jnp.array([1, -1]),
    ...   model=logistic.hadamard(), max_steps=1000)
    >>> print(found.iterations, found.params.round(2))
    1 [1.5 1.  0.5 1. ]

  References:
    Woodworth et al., `Kernel and Rich Regimes in Overparametrized Models
    <https://arxiv.org/abs/2002.09277>`_, 2020
  """
  checks.check_positive(scale=scale)

  def start(features):
    return jnp.full(2 * features.shape[1], scale, features.dtype)

  def scores(params, features):
    u, v = jnp.split(params, 2)
    return features @ (u * u - v * v)

  return Model(start, scores, 2)
