"""Sums of per-example gradients, each clipped or normalised."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from adaopt._common import base, checks
from adaopt.per_example import unit_sums


def clipped_sum(
  loss_fn: base.LossFn,
  max_norm: Any,
  *,
  group_size: int = 1,
  has_aux: bool = False,
) -> Callable[..., tuple[Any, optax.Updates, Any]]:
  """Σ_i min(1, C / ‖g_i‖) g_i: what one example adds has a norm of at most C.

  g_i is the gradient of loss_fn for example i alone: of a `WeightedLoss`
  ∇(a_i / w_i), which no other example changes, where `squared_norms` has
  (b / Σ w_i) ∇a_i. Bounds for parts of the parameters clip each part by its own
  norm. One example then adds at most `optax.tree.norm(max_norm)`, which is what
  noise for privacy is scaled to.

  Norms and sum are as exact as the products of matrices that make them. On GPUs
  and TPUs the bound holds to the rounding of float32 under
  jax.default_matmul_precision('highest').

  Args:
    loss_fn: As for `weighted_sum`.
    max_norm: C > 0, or bounds for parts of the parameters, a tree that is a
      prefix of theirs: {'body': 1.0, 'head': 0.1} for two parts, or like params
      for every tensor alone. ∞ clips nothing.
    group_size: q, as for `weighted_sum`: the examples of one person, if C is to
      bound what a person adds. All of them have to count: those of a person
      with fewer are repeated, not padded.
    has_aux: As for `weighted_sum`.

  Returns:
    f(params, batch, *args, key=, model_state=, mask=) → (loss or (loss, aux),
    the sum like params, ‖g_i‖ [b] for every bound, like max_norm), as for
    `weighted_sum`. An example of which a squared norm is not finite adds
    nothing.

  Raises:
    ValueError: If a constant is out of range; from f as for `squared_norms`,
      and if max_norm is no prefix of the parameters.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> loss_fn = lambda w, x: jnp.mean((x @ w) ** 2) / 2
    >>> x = jnp.array([[3.0, 4.0], [1.0, 0.0]])
    >>> w = jnp.array([1.0, 0.0])
    >>> clipped_sum = adaopt.per_example.clipped_sum(loss_fn, max_norm=7.5)
    >>> loss, total, norms = clipped_sum(w, x)
    >>> print(loss, total, norms)  # [9, 12] · 7.5 / 15 + [1, 0]
    2.5 [5.5 6. ] [15.  1.]

  References:
    Abadi et al., `Deep Learning with Differential Privacy
    <https://arxiv.org/abs/1607.00133>`_, 2016, algorithm 1

    Lee and Kifer, `Scaling up Differentially Private Deep Learning with Fast
    Per-Example Gradient Clipping <https://arxiv.org/abs/2009.03106>`_, 2020
  """
  unit_sums.check(loss_fn, has_aux, group_size)
  _check_max_norm(max_norm)

  def weigh(max_norm, squares, _):
    norms = _norms(max_norm, squares)
    finite = _all_finite(norms)

    def clip(bound, norm):
      clips = norm > bound
      weight = jnp.where(clips, bound, 1) / jnp.where(clips, norm, 1)
      return jnp.where(finite, weight, 0)

    return norms, jax.tree.map(clip, max_norm, norms)

  return _sum_of(loss_fn, weigh, max_norm, group_size, has_aux)


def normalized_sum(
  loss_fn: base.LossFn,
  gamma: jax.typing.ArrayLike = 0.01,
  *,
  group_size: int = 1,
  has_aux: bool = False,
) -> Callable[..., tuple[Any, optax.Updates, jax.Array]]:
  """Σ_i g_i / (‖g_i‖ + γ): clipping without a bound to choose.

  One example adds a norm below 1. With γ > 0 small gradients stay small.

  Args:
    loss_fn: As for `weighted_sum`.
    gamma: γ ≥ 0. With 0, a gradient of 0 adds 0.
    group_size: q, as for `weighted_sum`.
    has_aux: As for `weighted_sum`.

  Returns:
    f(params, batch, *args, key=, model_state=, mask=) → (loss or (loss, aux),
    the sum like params, ‖g_i‖ [b]), as for `clipped_sum`.

  Raises:
    ValueError: If a constant is out of range; from f as for `squared_norms`.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> loss_fn = lambda w, x: jnp.mean((x @ w) ** 2) / 2
    >>> x = jnp.array([[3.0, 4.0], [1.0, 0.0]])
    >>> w = jnp.array([1.0, 0.0])
    >>> _, total, _ = adaopt.per_example.normalized_sum(loss_fn, 1.0)(w, x)
    >>> print(total)  # [9, 12] / 16 + [1, 0] / 2
    [1.0625 0.75  ]

  References:
    Bu et al., `Automatic Clipping: Differentially Private Deep Learning Made
    Easier and Stronger <https://arxiv.org/abs/2206.07136>`_, 2022
  """
  unit_sums.check(loss_fn, has_aux, group_size)
  checks.check_not_negative(gamma=gamma)

  def weigh(gamma, squares, _):
    norms = unit_sums.norms_of(squares)
    counts = jnp.isfinite(norms) & (norms > 0)
    return norms, jnp.where(counts, 1 / jnp.where(counts, norms + gamma, 1), 0)

  return _sum_of(loss_fn, weigh, gamma, group_size, has_aux)


def _check_max_norm(max_norm):
  bounds = jax.tree.leaves(max_norm)
  if not bounds:
    raise ValueError(f'max_norm must be a bound or several, got {max_norm!r}.')
  for bound in bounds:
    infinite = isinstance(bound, float | np.floating) and bound == np.inf
    checks.check_not_negative(max_norm=0 if infinite else bound)
    if checks.is_concrete(bound) and (isinstance(bound, bool) or not bound > 0):
      raise ValueError(f'max_norm must be a number above 0, got {bound}.')


def _sum_of(loss_fn, weigh, constants, group_size, has_aux):
  """A sum with weights from norms and constants."""

  def summed(params, batch, *args, key=None, model_state=None, mask=None):
    return unit_sums.summed(
      *(loss_fn, weigh, constants, params, batch, *args),
      key=key,
      model_state=model_state,
      mask=mask,
      group_size=group_size,
      has_aux=has_aux,
    )

  return summed


def _norms(bounds, squares):
  """‖g_j‖ of every part of the parameters that has a bound."""
  try:
    parts = jax.tree.map(lambda _, part: [part], bounds, squares)
  except ValueError as error:
    raise ValueError(
      'max_norm must be one bound, or a tree of bounds for parts of the '
      f'parameters, a prefix of {jax.tree.structure(squares)}; got '
      f'{jax.tree.structure(bounds)}.'
    ) from error
  return jax.tree.map(lambda _, part: _norm(part), bounds, parts)


def _norm(part):
  if not jax.tree.leaves(part):
    raise ValueError(
      'max_norm must bound parts of the parameters that hold an array; got a '
      'bound for a part without any.'
    )
  return unit_sums.norms_of(part)


def _all_finite(norms):
  """Whether all norms of a unit are finite. [J]."""
  return jnp.all(jnp.stack([*map(jnp.isfinite, jax.tree.leaves(norms))]), 0)
