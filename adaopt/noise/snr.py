"""Signal to noise of every coordinate: whether a gradient is evidence at all.

With ḡ the mean over b examples and V_k the variance of one of them, ḡ_k² / V_k
is 1 / b on average where there is no signal. A coordinate without both, such as
the weight of a pixel that is always black, is no evidence and does not count.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from adaopt._common import arithmetic, base
from adaopt.criteria import evidence


class PerTensor(NamedTuple):
  """A number of all tensors together, and of every one.

  NaN, or −1 under jax_debug_nans or jax_debug_infs, is no evidence.
  """

  total: jax.Array  # [], over the coordinates of all tensors
  tensors: optax.Updates  # a tree like params of []


def gradient_snr(statistics: base.GradientStatistics) -> PerTensor:
  r"""The gradient signal-to-noise ratio, GSNR: the mean of r_k = ḡ_k² / V_k.

  It estimates (∇F)_k² / V_k, whose size the paper relates to how well a step
  generalises, from above: without signal it is 1 / b.

  Args:
    statistics: With `coordinate_variance`.

  Returns:
    The mean over the d coordinates of each tensor, and of all; ∞ where one has
    a signal and no noise.

  Raises:
    ValueError: If V was not computed.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> statistics = adaopt.GradientStatistics(
    ...   jnp.array(8), mean={'w': jnp.array([3.0, 1.0]), 'c': jnp.array(0.0)},
    ...   coordinate_variance={'w': jnp.array([9.0, 2.0]), 'c': jnp.array(4.0)})
    >>> found = adaopt.noise.gradient_snr(statistics)
    >>> print(found.total, found.tensors['w'], found.tensors['c'])
    0.5 0.75 0.0

  References:
    Liu et al., `Understanding Why Neural Networks Generalize Well Through GSNR
    of Parameters <https://arxiv.org/abs/2001.07384>`_, 2020

    Schneider et al., `Cockpit: A Practical Debugging Tool for the Training of
    Deep Neural Networks <https://arxiv.org/abs/2102.06604>`_, 2021
  """
  return _averaged(statistics, 'gradient_snr', lambda b: (0, 1))


def debiased_gradient_snr(statistics: base.GradientStatistics) -> PerTensor:
  r"""`gradient_snr` without the noise in ḡ²: the mean of r_k − 1 / b.

  E ḡ_k² = (∇F)_k² + V_k / b, so that without signal it is about 0 on average.
  The estimate of V in the denominator leaves a factor of 1 + 2 / (b − 3) on r_k
  of Gaussian gradients, and a larger one where few examples make V.

  Args:
    statistics: As for `gradient_snr`.

  Returns:
    As `gradient_snr`; below 0 by chance.

  Raises:
    ValueError: If V was not computed.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> statistics = adaopt.GradientStatistics(
    ...   jnp.array(8), mean=jnp.array([3.0, 1.0]),
    ...   coordinate_variance=jnp.array([9.0, 2.0]))
    >>> print(adaopt.noise.debiased_gradient_snr(statistics).total)
    0.625

  References:
    Liu et al., `Understanding Why Neural Networks Generalize Well Through GSNR
    of Parameters <https://arxiv.org/abs/2001.07384>`_, 2020
  """
  return _averaged(statistics, 'debiased_gradient_snr', lambda b: (-1 / b, 1))


def stopping_evidence(statistics: base.GradientStatistics) -> PerTensor:
  r"""The evidence-based criterion for stopping: 1 − (b / d) Σ_k ḡ_k² / V_k.

  Where it exceeds 0 the gradient is no longer than its noise makes it, so that
  it is no evidence of a slope of the true risk: stop, or stop training that
  tensor. Over the whole training set it comes to 1 at the minimum of that.
  Batches drawn from more without a signal make it 0 on average, −2 / (b − 3) of
  Gaussian gradients by the estimate of V, and single ones exceed it by chance.

  Args:
    statistics: As for `gradient_snr`.

  Returns:
    The criterion over the d coordinates of each tensor, and of all, below 1;
    −∞ where one has a signal and no noise.

  Raises:
    ValueError: If V was not computed.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> statistics = adaopt.GradientStatistics(
    ...   jnp.array(8), mean={'w': jnp.array([3.0, 1.0]), 'c': jnp.array(0.5)},
    ...   coordinate_variance={'w': jnp.array([9.0, 2.0]), 'c': jnp.array(4.0)})
    >>> found = adaopt.noise.stopping_evidence(statistics)
    >>> print(found.tensors['w'], found.tensors['c'])  # 1 − 8 / 2 · 1.5
    -5.0 0.5

  References:
    Mahsereci et al., `Early Stopping without a Validation Set
    <https://arxiv.org/abs/1703.09580>`_, 2017
  """
  return _averaged(statistics, 'stopping_evidence', lambda b: (1, -b))


def _averaged(
  statistics: base.GradientStatistics,
  name: str,
  line: Callable[[jax.Array], tuple[Any, Any]],
) -> PerTensor:
  """c + a r of the mean r of ḡ_k² / V_k over coordinates with evidence.

  Args:
    statistics: With `coordinate_variance`.
    name: The name of who asks, for the message.
    line: b → (c, a).

  Returns:
    The numbers.
  """
  variance = evidence.coordinate_variance(statistics, name)

  def sums(g, v):
    snr = evidence.ratio(arithmetic.abs_sq(g), v)
    known = ~arithmetic.is_missing(snr)
    endless = known & (snr >= arithmetic.beyond(snr.dtype))
    count = lambda these: jnp.sum(these, dtype=snr.dtype)
    total = jnp.sum(jnp.where(known & ~endless, snr, 0))
    return jnp.stack([total, count(known), count(endless)])

  def mean(found):
    total, known, endless = found
    b = jnp.asarray(statistics.batch_size, total.dtype)
    offset, slope = line(b)
    average = offset + slope * total / jnp.maximum(known, 1)
    beyond = jnp.sign(slope) * arithmetic.beyond(total.dtype)
    average = jnp.where(endless > 0, beyond, average)
    return jnp.where(known > 0, average, arithmetic.missing())

  found = jax.tree.map(sums, statistics.mean, variance)
  return PerTensor(mean(sum(jax.tree.leaves(found))), jax.tree.map(mean, found))
