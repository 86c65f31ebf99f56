"""Adam, by which second moment of the gradients its preconditioner averages.

A second moment is a function from `GradientStatistics` to a tree like the
gradient, real and at least 0. With g_i the gradient of example i, ḡ their mean
over b examples and V their variance by coordinate, all of them are of the form
a ḡ² + c V:

| second moment | formula | expectation |
|---|---|---|
| `square_of_mean` | ḡ² | (∇F)² + V / b |
| `mean_of_squares` | (1/b) Σ g_i² = ḡ² + (1 − 1/b) V | (∇F)² + V |
| `variance_of_gradients` | V | V |
| `square_at_batch_size(n)` | ḡ² + (1/n − 1/b) V, floored | (∇F)² + V / n |
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from adaopt._common import arithmetic, arrays, base, checks, functions, passing
from adaopt.criteria import averaging, evidence, selecting

SecondMoment = Callable[[base.GradientStatistics], optax.Updates]


def square_of_mean(statistics: base.GradientStatistics) -> optax.Updates:
  """|ḡ|² of every coordinate, which Adam averages: (∇F)² + V / b.

  Args:
    statistics: The statistics, of which only the mean is read.

  Returns:
    Like the gradient, real, in float32 or wider.

  Raises:
    ValueError: If they are not statistics.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> statistics = adaopt.GradientStatistics(
    ...   batch_size=jnp.array(4), mean=jnp.array([3.0, 0.0]),
    ...   coordinate_variance=jnp.array([4.0, 8.0]))
    >>> print(adaopt.transforms.square_of_mean(statistics))
    [9. 0.]
  """
  evidence.check_statistics(statistics, 'square_of_mean')
  return jax.tree.map(arithmetic.abs_sq, statistics.mean)


def variance_of_gradients(statistics: base.GradientStatistics) -> optax.Updates:
  """V of every coordinate, of one example's gradient.

  A coordinate on which all examples agree has the moment 0, and then an update
  of m̂ / ε.

  Args:
    statistics: With `coordinate_variance`.

  Returns:
    Like the gradient, real, in float32 or wider.

  Raises:
    ValueError: If V was not computed.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> statistics = adaopt.GradientStatistics(
    ...   batch_size=jnp.array(4), mean=jnp.array([3.0, 0.0]),
    ...   coordinate_variance=jnp.array([4.0, 8.0]))
    >>> print(adaopt.transforms.variance_of_gradients(statistics))
    [4. 8.]
  """
  return evidence.coordinate_variance(statistics, 'variance_of_gradients')


def mean_of_squares(statistics: base.GradientStatistics) -> optax.Updates:
  """(1/b) Σ_i |g_i|² = |ḡ|² + (1 − 1/b) V of every coordinate.

  Its expectation (∇F)² + V is that of every size; of one example it is |ḡ|².

  Args:
    statistics: With `coordinate_variance`.

  Returns:
    Like the gradient, real, in float32 or wider.

  Raises:
    ValueError: If V was not computed.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> statistics = adaopt.GradientStatistics(
    ...   batch_size=jnp.array(4), mean=jnp.array([3.0, 0.0]),
    ...   coordinate_variance=jnp.array([4.0, 8.0]))
    >>> print(adaopt.transforms.mean_of_squares(statistics))
    [12.  6.]
  """
  return _square_at(1, statistics, 'mean_of_squares', 1)


def square_at_batch_size(
  batch_size: jax.typing.ArrayLike, *, floor: jax.typing.ArrayLike = 0.01
) -> SecondMoment:
  """The square of the mean that a batch of n examples would have.

  max(|ḡ|² + (1/n − 1/b) V, floor · |ḡ|²), which is `mean_of_squares` at n = 1
  and `square_of_mean` at n = b. In expectation it is (∇F)² + V / n, whatever b
  is: with it the preconditioner of Adam stays that of batches of n examples
  while the batch grows. Beyond n = b the noise of ḡ² is taken out, all of it at
  n = ∞, down to the floor: of a coordinate of which a single example of the
  batch has a gradient nothing is left, and Adam would divide by ε.

  Args:
    batch_size: n > 0, also ∞.
    floor: The smallest share of |ḡ|² that is left, in (0, 1].

  Returns:
    A function from statistics with `coordinate_variance` to a tree like the
    gradient, real, in float32 or wider.

  Raises:
    ValueError: If n is not positive or floor is out of range; from the function
      if V was not computed.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> statistics = adaopt.GradientStatistics(
    ...   batch_size=jnp.array(4), mean=jnp.array([3.0, 0.0]),
    ...   coordinate_variance=jnp.array([4.0, 8.0]))
    >>> moment = adaopt.transforms.square_at_batch_size(2)
    >>> print(moment(statistics))
    [10.  2.]
  """
  if not _is_infinite(batch_size):
    checks.check_positive(batch_size=batch_size)
  averaging.check_floor(floor)
  return lambda statistics: _square_at(
    batch_size, statistics, 'square_at_batch_size', floor
  )


def _is_infinite(x: Any) -> bool:
  known = checks.is_concrete(x) and arrays.is_real_scalar(x)
  return known and float(x) == float('inf')


def _square_at(n, statistics, name, floor):
  variance = evidence.coordinate_variance(statistics, name)

  def moment(g, v):
    of_batch = 1 / jnp.asarray(statistics.batch_size, v.dtype)
    share = jnp.asarray(1 / n, v.dtype) - of_batch
    silent = share == 0
    noise = share * jnp.where(silent, 0, v)
    square = arithmetic.abs_sq(g)
    found = jnp.maximum(square + noise, jnp.asarray(floor, v.dtype) * square)
    unknown = arithmetic.is_missing(v) & ~silent
    return jnp.where(unknown, arithmetic.missing(), found)

  return jax.tree.map(moment, statistics.mean, variance)


def scale_by_adam(
  b1: jax.typing.ArrayLike = 0.9,
  b2: jax.typing.ArrayLike = 0.999,
  eps: jax.typing.ArrayLike = 1e-8,
  eps_root: jax.typing.ArrayLike = 0.0,
  *,
  second_moment: SecondMoment = mean_of_squares,
) -> optax.GradientTransformationExtraArgs:
  r"""Adam's scaling, with any second moment of the gradients of a batch.

  With s the second moment of the statistics, g the updates, and m̂ and ν̂ without
  the bias of averages that start at 0,

    m ← β₁ m + (1 − β₁) g,  ν ← β₂ ν + (1 − β₂) s,
    u = m̂ / (√(ν̂ + ε_root) + ε).

  `square_of_mean` makes it `optax.scale_by_adam`, `mean_of_squares` the paper's
  MicroAdam and, in expectation, the batch-size invariant Adam; by
  `variance_of_gradients` and by `square_at_batch_size(float('inf'))` the
  preconditioner is all noise or all signal. The paper finds that training is
  best where the square of the mean dominates it.

  An update with statistics=None, and a coordinate whose moment is not finite or
  not ≥ 0, such as the variance of one example, leaves ν̂ as it is; in the first
  update it is |g|² there. What scales the gradient before, such as a clip, does
  not scale the moment. With a moment made of V `train_step` measures V in every
  step, and takes tensors that are not trained only outside of the transform, as
  in `optax.partition`.

  Args:
    b1: β₁ in [0, 1).
    b2: β₂ in [0, 1).
    eps: ε ≥ 0, outside the root.
    eps_root: ε_root ≥ 0, inside the root.
    second_moment: From `GradientStatistics` to a tree like the gradient, such
      as `mean_of_squares`. In `optax.inject_hyperparams` it is one of the
      static_args.

  Returns:
    A transform whose update requires `statistics=`. Its state is an
    `optax.ScaleByAdamState`, which `criteria.adam_preconditioner` reads.

  Raises:
    ValueError: If a constant is out of range or second_moment is not a
      function; from update without statistics, for such without what the
      moment reads, or for a moment unlike the gradient.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> transform = adaopt.transforms.scale_by_adam()
    >>> gradient = jnp.array([3.0, 1.0])
    >>> statistics = adaopt.GradientStatistics(
    ...   batch_size=jnp.array(4), mean=gradient,
    ...   coordinate_variance=jnp.array([36.0, 0.0]))
    >>> state = transform.init(gradient)
    >>> scaled, state = transform.update(
    ...   gradient, state, statistics=statistics)
    >>> print(scaled.round(3))  # 3 / √(9 + 27) and 1 / √1
    [0.5 1. ]

  References:
    Roulet and Agarwala, `Per-example Gradients: a New Frontier for
    Understanding and Improving Optimizers
    <https://arxiv.org/abs/2510.00236>`_, 2025

    Wang and Aitchison, `Batch size invariant Adam
    <https://arxiv.org/abs/2402.18824>`_, 2024

    Kingma and Ba, `Adam: A Method for Stochastic Optimization
    <https://arxiv.org/abs/1412.6980>`_, 2015
  """
  checks.check_decays(b1=b1, b2=b2)
  checks.check_not_negative(eps=eps, eps_root=eps_root)
  checks.check_callable('of the statistics', second_moment=second_moment)
  functions.check_takes(1, second_moment=second_moment)

  def init_fn(params):
    zeros = lambda dtype: lambda p: jnp.zeros_like(p, dtype=dtype(p))
    return optax.ScaleByAdamState(
      count=jnp.zeros([], jnp.int32),
      mu=jax.tree.map(zeros(arithmetic.accumulator_dtype), params),
      nu=jax.tree.map(zeros(arithmetic.real_dtype), params),
    )

  def unbiased(average, decay, count):
    count = count.astype(jnp.finfo(average.dtype).dtype)
    return average / jnp.asarray(1 - decay**count, average.dtype)

  def moved(average, x, decay):
    x = x.astype(average.dtype)
    return (decay * average + (1 - decay) * x).astype(average.dtype)

  def moments(updates, state, statistics):
    """s, and where there is none what leaves ν̂ as it is."""
    first = state.count == 0
    past = jnp.maximum(state.count, 1)
    kept = jax.tree.map(
      lambda g, nu: jnp.where(
        first, arithmetic.abs_sq(g), unbiased(nu, b2, past)
      ),
      updates,
      state.nu,
    )
    if statistics is None:
      return kept
    found = second_moment(statistics)
    arrays.check_diagonal(statistics.mean, second_moment=found)
    found = selecting.beside(updates, found, 'scale_by_adam')
    known = lambda s: jnp.isfinite(s) & ~arithmetic.is_missing(s)
    return jax.tree.map(lambda s, nu: jnp.where(known(s), s, nu), found, kept)

  def update_fn(updates, state, params=None, **extra_args):
    del params
    statistics = passing.statistics_in(extra_args, 'scale_by_adam')
    squares = moments(updates, state, statistics)
    count = optax.safe_increment(state.count)
    mu = jax.tree.map(lambda m, g: moved(m, g, b1), state.mu, updates)
    nu = jax.tree.map(lambda n, s: moved(n, s, b2), state.nu, squares)

    def scaled(g, m, n):
      top = unbiased(m, b1, count)
      root = jnp.sqrt(unbiased(n, b2, count) + eps_root) + eps
      root = jnp.where(top == 0, 1, root)  # 0 / 0 is 0
      return (top / root.astype(top.dtype)).astype(g.dtype)

    updates = jax.tree.map(scaled, updates, mu, nu)
    return updates, optax.ScaleByAdamState(count, mu, nu)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)
