"""Takeuchi's information criterion: the generalisation gap at a minimum.

Between the loss of the distribution and that of n examples the gap is about
tr(H⁻¹ C) / n, with H the Hessian and C = (1/b) Σ g_i g_iᵀ. The inverse of H is
out of reach; its trace and its diagonal are not.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from adaopt._common import (
  arithmetic,
  arrays,
  base,
  calls,
  checks,
  functions,
)
from adaopt.criteria import evidence
from adaopt.noise import snr
from adaopt.transforms import second_moments


def tic_trace(
  statistics: base.GradientStatistics,
  curvature: optax.Updates,
  *,
  damping: jax.typing.ArrayLike = 0.0,
) -> snr.PerTensor:
  r"""TIC by traces: Σ_k C_k / Σ_k (H_k + λ), with C_k = (1/b) Σ_i g_ik².

  It is exact where C or H is a multiple of the identity.

  Args:
    statistics: With `coordinate_variance`.
    curvature: H_k of every coordinate, like the gradient, such as
      `hessian_diagonal` estimates.
    damping: λ ≥ 0.

  Returns:
    The ratio for each tensor, and all; over n it is the gap. ∞ where the trace
    of H is not above 0.

  Raises:
    ValueError: If V was not computed, or the curvature is unlike the gradient.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> statistics = adaopt.GradientStatistics(
    ...   jnp.array(2), mean=jnp.array([0.0, 1.0]),
    ...   coordinate_variance=jnp.array([12.0, 4.0]))
    >>> h = jnp.array([1.0, 2.0])
    >>> print(adaopt.noise.tic_trace(statistics, h).total)  # (6 + 3) / (1 + 2)
    3.0

  References:
    Thomas et al., `On the interplay between noise and curvature and its effect
    on optimization and generalization <https://arxiv.org/abs/1906.07774>`_,
    2020

    Schneider et al., `Cockpit: A Practical Debugging Tool for the Training of
    Deep Neural Networks <https://arxiv.org/abs/2102.06604>`_, 2021
  """
  covariance, curvature = _checked(statistics, curvature, damping, 'tic_trace')
  c = jax.tree.map(_sum, covariance)
  h = jax.tree.map(jnp.sum, curvature)
  ratio = lambda c, h: evidence.ratio(c, jnp.maximum(h, 0))
  return snr.PerTensor(
    ratio(_total(c), arithmetic.total(h)), jax.tree.map(ratio, c, h)
  )


def tic_diagonal(
  statistics: base.GradientStatistics,
  curvature: optax.Updates,
  *,
  damping: jax.typing.ArrayLike = 0.0,
) -> snr.PerTensor:
  r"""TIC by diagonals: Σ_k C_k / (H_k + λ), with C_k = (1/b) Σ_i g_ik².

  It is exact where C or H is diagonal. A coordinate without gradients, C_k = 0,
  adds nothing.

  Args:
    statistics: As for `tic_trace`.
    curvature: As for `tic_trace`.
    damping: λ ≥ 0.

  Returns:
    The sum over each tensor, and over all; over n it is the gap. ∞ where a
    coordinate has gradients and no curvature above −λ.

  Raises:
    ValueError: As for `tic_trace`.

  Example:
    >>> import adaopt
    >>> import jax
    >>> import jax.numpy as jnp
    >>> def loss_fn(params, batch):  # H = diag(1, 4)
    ...   residuals = params[None] - batch
    ...   return jnp.mean(residuals[:, 0] ** 2 / 2 + 2 * residuals[:, 1] ** 2)
    >>> batch = jnp.array([[1.0, 1.0], [-1.0, -1.0]])
    >>> params = jnp.zeros(2)  # the minimum, with C = diag(1, 16)
    >>> _, statistics = adaopt.value_and_statistics(loss_fn)(params, batch)
    >>> h = adaopt.noise.hessian_diagonal(
    ...   lambda p: loss_fn(p, batch), params, jax.random.key(0))
    >>> print(h, adaopt.noise.tic_diagonal(statistics, h).total)
    [1. 4.] 5.0

  References:
    Thomas et al., `On the interplay between noise and curvature and its effect
    on optimization and generalization <https://arxiv.org/abs/1906.07774>`_,
    2020

    Schneider et al., `Cockpit: A Practical Debugging Tool for the Training of
    Deep Neural Networks <https://arxiv.org/abs/2102.06604>`_, 2021
  """
  covariance, curvature = _checked(
    statistics, curvature, damping, 'tic_diagonal'
  )

  def sums(c, h):
    return _sum(jnp.where(c == 0, 0, evidence.ratio(c, jnp.maximum(h, 0))))

  found = jax.tree.map(sums, covariance, curvature)
  return snr.PerTensor(_total(found), found)


def _sum(terms):
  """Σ of terms ≥ 0, missing where one is, and infinite where one is."""
  most = arithmetic.beyond(terms.dtype)
  unknown, infinite = arithmetic.is_missing(terms), terms >= most
  finite = jnp.sum(jnp.where(unknown | infinite, 0, terms))
  found = jnp.where(jnp.any(infinite), most, finite)
  return jnp.where(jnp.any(unknown), arithmetic.missing(), found)


def _total(sums):
  """`_sum` of those of all tensors."""
  return _sum(jnp.stack(jax.tree.leaves(sums)))


def _checked(statistics, curvature, damping, name):
  """C_k and H_k + λ of every coordinate."""
  evidence.coordinate_variance(statistics, name)
  checks.check_not_negative(damping=damping)
  checks.check_like(statistics.mean, curvature=curvature)
  for h in jax.tree.leaves(curvature):
    arrays.check_real(curvature=h)
  covariance = second_moments.mean_of_squares(statistics)
  damped = jax.tree.map(
    lambda c, h: jnp.asarray(h, c.dtype) + jnp.asarray(damping, c.dtype),
    covariance,
    curvature,
  )
  return covariance, damped


def hessian_diagonal(
  loss: Callable[[optax.Params], jax.Array],
  params: optax.Params,
  key: jax.Array,
  *,
  num_probes: int = 1,
) -> optax.Updates:
  r"""Hutchinson's estimate of the Hessian's diagonal: the mean of z ⊙ H z.

  z are vectors of ±1. It is unbiased, so that its sum is of the trace, and
  exact for a diagonal H; the variance of H_kk is Σ_{l≠k} H_kl² / num_probes.
  Each probe costs a derivative of the gradient, about two gradients.

  Args:
    loss: params → the loss, [] real, such as lambda p: loss_fn(p, batch).
    params: The parameters, real.
    key: A random key.
    num_probes: The number of vectors.

  Returns:
    The diagonal, like params, in float32 or wider. In half precision H z is of
    that precision.

  Raises:
    ValueError: If loss is not a function or not a real scalar, params are not
      real arrays, key is none, or num_probes is out of range.

  Example:
    >>> import adaopt
    >>> import jax
    >>> import jax.numpy as jnp
    >>> loss = lambda p: p[0] ** 2 + 3 * p[1] ** 2 + p[0] * p[1]
    >>> diagonal = adaopt.noise.hessian_diagonal(
    ...   loss, jnp.zeros(2), jax.random.key(0), num_probes=2000)
    >>> print(diagonal.round())
    [2. 6.]

  References:
    Bekas et al., `An estimator for the diagonal of a matrix
    <https://doi.org/10.1016/j.apnum.2007.01.003>`_, 2007
  """
  checks.check_callable('of params', loss=loss)
  functions.check_takes(1, loss=loss)
  checks.check_params(params)
  checks.check_integer(1, num_probes=num_probes)
  _check_not_complex(params)
  calls.check_key(key)
  gradient = jax.grad(lambda params: _checked_loss(loss(params)))
  leaves, structure = jax.tree.flatten(params)

  def probe(total, key):
    keys = structure.unflatten([*jax.random.split(key, len(leaves))])
    z = jax.tree.map(
      lambda p, key: jax.random.rademacher(
        key, jnp.shape(p), jnp.result_type(p)
      ),
      params,
      keys,
    )
    _, product = jax.jvp(gradient, (params,), (z,))
    add = lambda sum, z, h: sum + z.astype(sum.dtype) * h.astype(sum.dtype)
    return jax.tree.map(add, total, z, product), None

  zeros = jax.tree.map(
    lambda p: jnp.zeros_like(p, dtype=arithmetic.accumulator_dtype(p)), params
  )
  total, _ = jax.lax.scan(probe, zeros, jax.random.split(key, num_probes))
  return jax.tree.map(lambda x: x / num_probes, total)


def _check_not_complex(params: Any) -> None:
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    if jnp.iscomplexobj(leaf):
      raise ValueError(
        f'params{jax.tree_util.keystr(path)} must be real, got '
        f'{arrays.described(leaf)}; pass its real and imaginary parts.'
      )


def _checked_loss(value: Any) -> jax.Array:
  if not arrays.is_real_scalar(value):
    raise ValueError(
      'loss must return the loss, a real scalar, got '
      f'{arrays.described(value)}.'
    )
  return value
