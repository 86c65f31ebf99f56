"""Moments of samples: means and squared deviations from them, which merge.

A sample is one example, or a group of `group_size` examples whose gradients
are averaged. The moments of two micro-batches merge into those of their union,
so that exact statistics never need more than one micro-batch in memory, and
nothing cancels between micro-batches, however small the noise beside the
gradient.

Sample j over b_j examples has the gradient a_j of its total loss, and the
weight w_j. A mean over examples has a_j = b_j g_j and w_j = b_j.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from adaopt._common import arithmetic, base
from adaopt.statistics import spreads


class Moments(NamedTuple):
  """Moments of J samples.

  A spread that is not measured is None, all of it or the entry of a tensor.
  """

  examples: jax.Array  # n = Σ b_j, [] int32
  samples: jax.Array  # J, [] int32
  # W = Σ w_j and Q = Σ w_j² / b_j, [] float32 or wider; None: n, of a mean.
  weight: jax.Array | None
  squared_weight: jax.Array | None
  value: jax.Array  # the loss, Σ total / W, [] float32 or wider; NaN: not known
  aux: Any  # its weighted mean, float32 or wider
  mean: optax.Updates  # ḡ = Σ a_j / W, like params, float32 or wider
  # M = Σ ‖a_j − w_j ḡ‖² / b_j of every tensor, [] each.
  spread: optax.Updates | None
  coordinate_spread: optax.Updates | None  # M_k = Σ |a_jk − w_j ḡ_k|² / b_j
  # Σ (A_j − w_j Ḡ) (A_j − w_j Ḡ)ᴴ / b_j of matrices, [m, m]; else None.
  matrix_spread: optax.Updates | None = None
  # C = Σ w_j (a_j − w_j ḡ) / b_j, like params; None: 0, as of a mean.
  weighted_spread: optax.Updates | None = None
  moved: Any = ()  # the mean over examples of what they add to a model state
  moved_spread: Any = ()  # Σ b_j |moved_j − moved|²
  opened: Any = ()  # the mean gradient by parts of an opened loss


def number(moments: Moments) -> jax.Array:
  """n as a float, float32 or wider."""
  return moments.examples.astype(moments.value.dtype)


def weight(moments: Moments) -> jax.Array:
  """W."""
  return number(moments) if moments.weight is None else moments.weight


def squared_weight(moments: Moments) -> jax.Array:
  """Q."""
  if moments.squared_weight is None:
    return number(moments)
  return moments.squared_weight


def divided(total: jax.Array, weight: jax.Array) -> jax.Array:
  """total / weight; the total where no weight is, and then it is 0."""
  return total / jnp.where(weight == 0, jnp.ones_like(weight), weight).astype(
    total.dtype
  )


def from_sums(
  count: jax.Array,
  group_size: int,
  *,
  value: jax.Array,
  aux: Any,
  mean: optax.Updates,
  norms: optax.Updates,
  squares: optax.Updates,
  matrix_squares: optax.Updates | None = None,
  weights: tuple[jax.Array, jax.Array, optax.Updates] | None = None,
  moved: Any = (),
  squared_moved: Any = (),
) -> Moments:
  r"""The moments of J samples of one micro-batch, from their sums.

  With q examples in a sample, w = Σ_j w_j and s = Σ_j w_j²,

    M_k = (Σ_j |a_jk|² − 2 Re Σ_j w_j a_jk conj(ḡ_k) + s |ḡ_k|²) / q,

  and likewise the others, clamped at 0 where they are numbers, and exactly 0
  for J = 1; of a mean, with g_j = a_j / q,
  M_k = q (Σ_j |g_jk|² − J |ḡ_k|²). The rounding error is about 1e-7 · Q |ḡ_k|²,
  so it matters only where the noise is far below the signal and no test asks
  for more examples.

  Args:
    count: J, at least 1. [] int32.
    group_size: q.
    value: Σ loss, of means or of totals. [].
    aux: Σ aux, weighted.
    mean: Σ_j a_j / w, of the gradients of those losses, like params; of a mean
      Σ_j g_j / J. Where the weights add up to 0, it is 0.
    norms: Σ_j of their squared norms, of every tensor, [] each.
    squares: Σ_j of their squares, like params.
    matrix_squares: Σ_j A_j A_jᴴ, see `matrices`; None of what is no matrix.
    weights: Of weighted losses w, s and Σ_j w_j a_j, like params.
    moved: Σ_j of what samples add to the model state.
    squared_moved: Σ_j of its squares.

  Returns:
    The moments.
  """
  count_float = count.astype(jnp.result_type(float))
  factor = 1 / group_size if weights else group_size
  total_weight, squares_of_weights, products = weights or (
    count_float,
    count_float,
    jax.tree.map(lambda g: None, mean),  # J ḡ
  )
  of_several = lambda x: jnp.where(count > 1, x, jnp.zeros_like(x))

  def spread(kind, sums):
    def one(square, product, tensor):
      signal = kind.product(tensor, tensor)
      signal = squares_of_weights.astype(signal.dtype) * signal
      if product is not None:
        signal = 2 * kind.product(product, tensor) - signal
      return of_several(factor * kind.clamped(square - signal))

    return arithmetic.map_present(one, sums, products, mean)

  def weighted_spread(product, tensor):
    covariance = product - squares_of_weights.astype(product.dtype) * tensor
    return of_several(covariance / group_size)

  moved_mean = jax.tree.map(lambda x: divided(x, count_float), moved)
  return Moments(
    examples=group_size * count,
    samples=count,
    weight=total_weight if weights else None,
    squared_weight=squares_of_weights / group_size if weights else None,
    value=divided(value, total_weight),
    aux=jax.tree.map(lambda x: divided(x, total_weight), aux),
    mean=mean,
    spread=spread(spreads.TOTAL, norms),
    coordinate_spread=spread(spreads.BY_COORDINATE, squares),
    matrix_spread=spread(spreads.OF_MATRICES, matrix_squares),
    weighted_spread=jax.tree.map(weighted_spread, products, mean)
    if weights
    else None,
    moved=moved_mean,
    moved_spread=jax.tree.map(
      lambda s, x: of_several(
        group_size * jnp.maximum(s - count_float.astype(x.dtype) * x * x, 0)
      ),
      squared_moved,
      moved_mean,
    ),
  )


def zeros_like(sums: Any) -> Any:
  """The neutral element of `merge`, or of addition, from values or shapes."""
  return jax.tree.map(jnp.zeros_like, sums)


def fold(
  count: jax.Array, one: Callable[..., Any], add: Callable[..., Any], *args: Any
) -> Any:
  """Adds up one(i, *args) for i < count, in a loop with a traced trip count.

  Args:
    count: The number of terms. [] int32.
    one: (i, *args) → a term.
    add: (total, term) → total, such as `merge`.
    *args: The same for all terms.

  Returns:
    The total.
  """
  zeros = zeros_like(jax.eval_shape(one, 0, *args))
  body = lambda i, total: add(total, one(i, *args))
  return jax.lax.fori_loop(0, count, body, zeros)


def merge(a: Moments, b: Moments) -> Moments:
  r"""The moments of the union of two disjoint sets of samples.

  With W = W_a + W_b, and for each set the step δ = ḡ_a − ḡ from the new mean
  to its own,

    ḡ = ḡ_a + (W_b / W) (ḡ_b − ḡ_a),
    M = Σ_sets M_a + 2 Re C_a conj(δ) + Q_a |δ|²,  C = Σ_sets C_a + Q_a δ,

  and likewise of matrices, with C_a δᴴ + δ C_aᴴ + Q_a δ δᴴ.

  Args:
    a: Moments, such as `zeros_like`.
    b: Moments of the same structure, of at least one example.

  Returns:
    The moments, in the dtypes of a.

  References:
    Chan et al., `Algorithms for Computing the Sample Variance: Analysis and
    Recommendations <https://doi.org/10.1080/00031305.1983.10483115>`_, 1983
  """
  examples = arithmetic.saturating_add(a.examples, b.examples)
  by_weight = divided(weight(b), weight(a) + weight(b))
  by_examples = number(b) / (number(a) + number(b))

  def mean(share):
    def merged(x, y):
      return (x + share.astype(x.dtype) * (y - x)).astype(x.dtype)

    return merged

  center = jax.tree.map(mean(by_weight), a.mean, b.mean)

  plus = lambda x, y: (x + y).astype(x.dtype)

  def about(kind):
    both = about_mean(center, a, kind), about_mean(center, b, kind)
    return clamped(arithmetic.map_present(plus, *both), a, kind)

  def moved_spread(p, q, x, y):
    share = (number(a) * by_examples).astype(p.dtype)
    return (p + q + share * jnp.square(y - x)).astype(p.dtype)

  return Moments(
    examples=examples,
    samples=arithmetic.saturating_add(a.samples, b.samples),
    weight=arithmetic.map_present(plus, a.weight, b.weight),
    squared_weight=arithmetic.map_present(
      plus, a.squared_weight, b.squared_weight
    ),
    value=mean(by_weight)(a.value, b.value),
    aux=jax.tree.map(mean(by_weight), a.aux, b.aux),
    mean=center,
    **{kind.field: about(kind) for kind in spreads.SPREADS},
    weighted_spread=arithmetic.map_present(
      plus, weighted_about_mean(center, a), weighted_about_mean(center, b)
    ),
    moved=jax.tree.map(mean(by_examples), a.moved, b.moved),
    moved_spread=jax.tree.map(
      moved_spread, a.moved_spread, b.moved_spread, a.moved, b.moved
    ),
    opened=jax.tree.map(mean(by_weight), a.opened, b.opened),
  )


def about_mean(
  center: optax.Updates, moments: Moments, kind: spreads.Spread
) -> optax.Updates:
  """The spread of this kind about a new mean, before `clamped`."""

  def moved(spread, tensor, new, products):
    step = tensor - new
    change = squared_weight(moments).astype(step.dtype) * step
    if products is not None:
      change = change + 2 * products
    return spread + kind.product(change, step)

  products = moments.weighted_spread
  if products is None:
    products = jax.tree.map(lambda g: None, moments.mean)
  return arithmetic.map_present(
    moved, getattr(moments, kind.field), moments.mean, center, products
  )


def weighted_about_mean(
  center: optax.Updates, moments: Moments
) -> optax.Updates:
  """C about a new mean."""
  factor = squared_weight(moments)
  return arithmetic.map_present(
    lambda c, x, new: c + factor.astype(c.dtype) * (x - new),
    moments.weighted_spread,
    moments.mean,
    center,
  )


def clamped(
  spread: optax.Updates, moments: Moments, kind: spreads.Spread
) -> optax.Updates:
  """A sum of spreads about their mean, which may round to less than 0."""
  # Of means nothing is subtracted, and V has all derivatives where it is 0.
  if moments.weighted_spread is None:
    return spread
  return jax.tree.map(kind.clamped, spread)


def finish(
  moments: Moments, along_spread: jax.Array | None = None
) -> base.GradientStatistics:
  r"""Turns moments into statistics per example.

    V = (n / W)² M / (J − 1),  and likewise v∥ from its spread,

  Σ_j (⟨a_j, u⟩ − w_j ‖ḡ‖)² / b_j, with u = ḡ / ‖ḡ‖. A sample over b_j examples
  deviates from the mean by 1 / b_j of one example's variance, which b_j in M
  makes up for: of a mean, V is unbiased for any b_j.

  Args:
    moments: The merged moments.
    along_spread: The spread of v∥, [], if it was measured.

  Returns:
    The statistics. With a single sample the variances are NaN; the mean is NaN
    where the weights add up to 0. It is as wide as in the moments.
  """
  factor = number(moments) / weight(moments)
  degrees = jnp.maximum(moments.samples - 1, 1)

  def variance(spread, missing=jnp.nan):
    scaled = jnp.square(factor).astype(spread.dtype) * spread
    several = moments.samples > 1
    missing = jnp.asarray(missing, scaled.dtype)
    return jnp.where(several, scaled / degrees.astype(spread.dtype), missing)

  def excess(squares):
    balanced = jnp.square(weight(moments)) / number(moments)
    return variance(jnp.maximum(squares - balanced, 0), 0)

  return base.GradientStatistics(
    batch_size=moments.examples,
    mean=weighed_mean(moments.mean, moments),
    **{
      kind.statistic: jax.tree.map(variance, getattr(moments, kind.field))
      for kind in spreads.SPREADS
    },
    variance_along_mean=jax.tree.map(variance, along_spread),
    weight=moments.weight,
    weight_variance=jax.tree.map(excess, moments.squared_weight),
    weight_covariance=jax.tree.map(
      lambda c: variance(c, 0), moments.weighted_spread
    ),
  )


def weighed(mean: jax.Array, moments: Moments) -> jax.Array:
  """A mean over samples; NaN where the weights add up to 0."""
  nothing = weight(moments) == 0
  return jnp.where(nothing, jnp.full_like(mean, jnp.nan), mean)


def weighed_mean(mean: optax.Updates, moments: Moments) -> optax.Updates:
  """A mean gradient; NaN where the weights add up to 0.

  Without weights, one over no examples is NaN already.
  """
  if moments.weight is None:
    return mean
  return jax.tree.map(lambda g: weighed(g, moments), mean)
