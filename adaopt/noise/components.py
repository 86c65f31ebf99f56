"""Noise of two levels: of groups, and of the members within each.

Prompts and the samples of each in reinforcement learning on a language model,
devices and their examples, documents and their passages. A balanced one-way
layout with random effects: member i of group k < K has the gradient

  g_ki = ∇F + u_k + e_ki,  E ‖u_k‖² = σ_b²,  E ‖e_ki‖² = σ_w²,  i < m,

so that the mean over all has the variance (σ_b² + σ_w² / m) / K.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from adaopt._common import arithmetic, arrays, checks
from adaopt.criteria import evidence


class TwoLevel(NamedTuple):
  """Components of the variance, traces over all coordinates.

  NaN, or −1 under jax_debug_nans or jax_debug_infs, is no evidence.
  """

  between: jax.Array  # [], σ_b²; below 0 by chance where there is none
  between_error: jax.Array  # [], its standard error
  within: jax.Array  # [], σ_w²
  within_error: jax.Array  # [], its standard error
  variance_of_mean: jax.Array  # [], of the mean over all members


def two_level(gradients: optax.Updates) -> TwoLevel:
  r"""The components of the variance between and within groups of gradients.

  With ḡ_k the mean of group k and ḡ that of all,

    MSB = m / (K − 1) Σ_k ‖ḡ_k − ḡ‖²,
    MSW = 1 / (K (m − 1)) Σ_k Σ_i ‖g_ki − ḡ_k‖²,
    σ_w² = MSW,  σ_b² = (MSB − MSW) / m,

  unbiased; the variance of ḡ is MSB / (K m). Standard errors are those of the
  jackknife over groups. MSB is also the v that `value_and_statistics` finds
  with group_size=m, or `between_micro_batches` of the ḡ_k.

  Members are taken to be independent given their group. Those that share a
  baseline made of them, such as their mean reward, have a covariance c, of
  −σ_w² / (m − 1) at least: what is found is then σ_b² + c and σ_w² − c. The
  variance of the mean is right in any case.

  Args:
    gradients: g_ki, stacked: like params, [K, m, ...].

  Returns:
    The components. The errors are NaN for K = 2.

  Raises:
    ValueError: If the leading axes differ between tensors, or are shorter than
      two.

  Example:
    >>> import adaopt
    >>> import jax
    >>> import jax.numpy as jnp
    >>> of_group, of_member = jax.random.split(jax.random.key(0))
    >>> gradients = (2 * jax.random.normal(of_group, [500, 1, 3])
    ...              + jax.random.normal(of_member, [500, 8, 3]))
    >>> found = jax.jit(adaopt.noise.two_level)(gradients)  # 3 · 2² and 3 · 1²
    >>> print(f'{found.between:.1f} ± {found.between_error:.1f}, '
    ...       f'{found.within:.2f} ± {found.within_error:.2f}')
    11.8 ± 0.5, 3.04 ± 0.04

  References:
    Searle et al., `Variance Components
    <https://doi.org/10.1002/9780470316856>`_, 1992
  """
  groups, members = _lengths(gradients)
  wide = jax.tree.map(
    lambda g: jnp.asarray(g, arithmetic.accumulator_dtype(g)), gradients
  )
  means = jax.tree.map(lambda g: jnp.mean(g, 1, keepdims=True), wide)

  def squares(x, center):
    """‖x_k − c‖² of every group, [K]."""
    return jnp.sum(arithmetic.abs_sq(x - center).reshape(groups, -1), 1)

  center = jax.tree.map(lambda g: jnp.mean(g, 0, keepdims=True), means)
  between = sum(jax.tree.leaves(jax.tree.map(squares, means, center)))
  within = sum(jax.tree.leaves(jax.tree.map(squares, wide, means)))
  return two_level_from_sums(between, within, group_size=members)


def _lengths(gradients):
  """K and m."""
  checks.num_examples(gradients, 'gradients')
  found = {jnp.shape(g)[:2] for g in jax.tree.leaves(gradients)}
  if len(found) > 1 or len(min(found)) < 2 or min(min(found)) < 2:
    raise ValueError(
      'gradients must be stacked by groups and members, [K, m, ...] with at '
      'least two of each, got leading axes of '
      f'{", ".join(str(list(shape)) for shape in sorted(found))}.'
    )
  return found.pop()


def two_level_from_sums(
  between: jax.typing.ArrayLike,
  within: jax.typing.ArrayLike,
  *,
  group_size: jax.typing.ArrayLike,
) -> TwoLevel:
  r"""`two_level` from two numbers of each group, for gradients that are gone.

  With D_k = ‖ḡ_k − ḡ‖² and W_k = Σ_i ‖g_ki − ḡ_k‖²,

    MSB = m Σ_k D_k / (K − 1),  MSW = Σ_k W_k / (K (m − 1)).

  Without group k the sum of D is Σ_{j≠k} D_j − D_k / (K − 1), which is what the
  jackknife takes.

  From norms and inner products, such as those of `per_example`, they are
  D_k = ‖ḡ_k‖² − 2 ⟨ḡ_k, ḡ⟩ + ‖ḡ‖² and W_k = Σ_i ‖g_ki‖² − m ‖ḡ_k‖².

  Args:
    between: D_k of every group. [K].
    within: W_k of every group. [K].
    group_size: m, at least 2.

  Returns:
    The components. The errors are NaN for K = 2.

  Raises:
    ValueError: If the two are not real and of the same K ≥ 2, or m is out of
      range.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> found = adaopt.noise.two_level_from_sums(
    ...   jnp.array([4.0, 0.0, 4.0]), jnp.array([2.0, 5.0, 2.0]), group_size=4)
    >>> print(found.between, found.within)  # MSB = 16 and MSW = 1
    3.75 1.0
  """
  between = arrays.array_of('numbers [K]', between=between)
  within = arrays.array_of('numbers [K]', within=within)
  arrays.check_real(between=between, within=within)
  checks.check_integer(2, group_size=group_size)
  if between.ndim != 1 or between.shape != within.shape or len(between) < 2:
    raise ValueError(
      'between and within must have a number for each of at least two groups, '
      f'[K], got {list(between.shape)} and {list(within.shape)}.'
    )
  dtype = arithmetic.common_dtype(between, within)
  d, w = between.astype(dtype), within.astype(dtype)
  m = jnp.asarray(group_size, dtype)
  groups = len(d)

  def components(sum_of_d, sum_of_w, groups):
    """σ_b² and σ_w² of so many groups."""
    msb = m * sum_of_d / (groups - 1)
    msw = sum_of_w / (groups * (m - 1))
    return jnp.stack([(msb - msw) / m, msw])

  sums = jnp.sum(d), jnp.sum(w)
  found = components(*sums, groups)
  errors = jnp.full(2, arithmetic.missing(), dtype)
  if groups > 2:
    rest = groups - 1
    without = components(sums[0] - d - d / rest, sums[1] - w, rest)  # [2, K]
    errors = jnp.sqrt(rest * jnp.var(without, 1))
  return TwoLevel(
    between=found[0],
    between_error=errors[0],
    within=found[1],
    within_error=errors[1],
    variance_of_mean=sums[0] / (groups * (groups - 1)),
  )


def best_group_size(
  components: TwoLevel,
  *,
  group_cost: jax.typing.ArrayLike,
  member_cost: jax.typing.ArrayLike,
) -> jax.Array:
  r"""How many members of each group make the mean most exact at a given cost.

  The variance (σ_b² + σ_w² / m) / K at the cost K (c_g + m c_m) is least at
  m = √(σ_w² c_g / (σ_b² c_m)), whatever the budget, and here at least 1.

  Args:
    components: Of `two_level`.
    group_cost: c_g > 0, of a group beside its members, such as the seconds of
      reading a prompt.
    member_cost: c_m > 0, of each member, such as the seconds of one sample.

  Returns:
    m, not rounded. []; ∞ where groups do not differ, and NaN where nothing
    does, or what stands for them under jax_debug_nans and jax_debug_infs.

  Raises:
    ValueError: If components are none, or a cost is not positive.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> found = adaopt.noise.two_level_from_sums(
    ...   jnp.array([4.0, 0.0, 4.0]), jnp.array([20.0, 50.0, 20.0]),
    ...   group_size=4)  # σ_b² = 1.5 and σ_w² = 10
    >>> print(adaopt.noise.best_group_size(
    ...   found, group_cost=2.4, member_cost=1.0))
    4.0

  References:
    Cochran, Sampling Techniques, 1977
  """
  if not isinstance(components, TwoLevel):
    raise ValueError(
      'components must be those of two_level(gradients), got '
      f'{arrays.described(components)}.'
    )
  checks.check_positive(group_cost=group_cost, member_cost=member_cost)
  ratio = evidence.ratio(
    jnp.maximum(components.within, 0), jnp.maximum(components.between, 0)
  )
  cost = jnp.asarray(group_cost / member_cost, ratio.dtype)
  known = ~arithmetic.is_missing(ratio)
  finite = known & (ratio < arithmetic.beyond(ratio.dtype))
  size = jnp.sqrt(jnp.where(finite, ratio, 0)) * jnp.sqrt(cost)
  return jnp.where(finite, jnp.maximum(size, 1), ratio)
