"""Goodput: the batch size that makes the most progress a second."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from adaopt._common import arithmetic, base, checks, fields
from adaopt.criteria import averaging, evidence


class Seconds(NamedTuple):
  """The seconds of a step: fixed + per_example · n, n the examples processed.

  n is the batch size rounded up to whole micro-batches. All are 0 until they
  are measured, but for micro_batch_size.
  """

  fixed: jax.Array  # [] float32, ≥ 0
  per_example: jax.Array  # [] float32, ≥ 0
  micro_batch_size: jax.Array  # [] float32, of a large batch
  reach: jax.Array  # [] float32, the largest size that the model is trusted at


class GoodputState(NamedTuple):
  """State of `goodput`."""

  averages: averaging.NoiseAndSignal  # of v and ‖∇F‖²
  seconds: Any  # `Seconds`, which `fit` measures; () where they were given


_UNLIMITED = float(arithmetic.LARGEST)


def _unknown():
  """The seconds before the first measurement: 0/0, no evidence."""
  zero, one = jnp.zeros([], jnp.float32), jnp.ones([], jnp.float32)
  return Seconds(zero, zero, micro_batch_size=one, reach=zero)


def goodput(
  *,
  seconds: tuple[jax.typing.ArrayLike, jax.typing.ArrayLike] | None = None,
  micro_batch_size: jax.typing.ArrayLike = 1,
  decay: jax.typing.ArrayLike = 0.95,
  floor: jax.typing.ArrayLike = 0.01,
) -> base.StatefulCriterion:
  r"""Goodput: the batch size that makes the most progress a second.

  A step of b examples makes the progress of r(b) steps of b_0, AdaScale's gain,
  so that with σ² = ⟨v⟩ / b_0, S = b / b_0 and μ² = max(⟨‖ḡ‖² − v / b⟩, floor ·
  ⟨‖ḡ‖²⟩), ⟨·⟩ moving averages,

    goodput(b) = r(b) / seconds(b),  r(b) = (σ² + μ²) / (σ² / S + μ²),
    seconds(b) = fixed + per_example · b.

  Whatever b_0, it is largest at

    b = √(⟨v⟩ / μ² · fixed / per_example),

  the geometric mean of the noise scale and of the batch whose examples take as
  long as all the rest of a step. Smaller ones waste the fixed seconds, and
  larger ones waste examples. It supposes a learning rate that gains r from the
  batch, as by `scale_by_adascale`: one in proportion to b is too large where
  more than the noise scale is asked for, as fixed seconds may.

  `fit` measures the seconds while it runs, loop body included. A batch takes as
  long as the micro-batches that it is rounded up to, so that of the sizes which
  fill theirs the one of the largest goodput is asked for. Before the seconds
  are measured there is no evidence. Until two sizes are, examples are taken to
  be free, and never is more asked for than four times the largest size that was
  measured: a run tries a larger size, and `policy=follow` comes back from it
  where it is not worth its seconds.

  A run that the clock steers is not reproducible to the last bit. One with
  given seconds is, and where several processes train together they have to be
  given. P devices that share the examples of a step take
  seconds=(fixed, per_example / P).

  Args:
    seconds: (fixed, per_example) of a step, ≥ 0 and not both 0, in any unit.
      None has them measured by `fit`, or set by `with_seconds`.
    micro_batch_size: m of the given seconds, as in `with_seconds`; that of
      `fit`, such as 256, where a batch takes as long as its micro-batches.
    decay: Of the averages, in [0, 1).
    floor: The smallest share of ‖ḡ‖² taken to be signal, in (0, 1].

  Returns:
    A criterion that reads `variance`. Free examples (per_example = 0) ask for
    the largest size, and no fixed seconds for the smallest.

  Raises:
    ValueError: If a constant is out of range.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> criterion = adaopt.criteria.goodput(seconds=(0.002, 0.00001))
    >>> statistics = adaopt.GradientStatistics(
    ...   batch_size=jnp.array(8), mean=jnp.array([3.0, 4.0]),
    ...   variance=jnp.array(160.0))
    >>> state = criterion.init(statistics.mean)
    >>> required, _ = criterion.update(statistics, state)
    >>> print(required)  # √(160 / (25 − 160 / 8) · 200)
    80.0

  References:
    Qiao et al., `Pollux: Co-adaptive Cluster Scheduling for Goodput-Optimized
    Deep Learning <https://arxiv.org/abs/2008.12260>`_, 2021

    Johnson et al., `AdaScale SGD: A User-Friendly Algorithm for Distributed
    Training <https://arxiv.org/abs/2007.05105>`_, 2020 (the gain)
  """
  checks.check_decays(decay=decay)
  averaging.check_floor(floor)
  given = None if seconds is None else _given(seconds, micro_batch_size)

  def init(params):
    del params
    return GoodputState(averaging.zeros(), _unknown() if given is None else ())

  def update(statistics, state, **extra_args):
    del extra_args
    measured = averaging.debiased(statistics, floor=floor, test='goodput')
    averages = averaging.move(state.averages, measured, decay)
    model = state.seconds if given is None else given
    return _best_size(averages, model), state._replace(averages=averages)

  return base.StatefulCriterion(init, update)


def _given(seconds, micro_batch_size):
  try:
    fixed, per_example = seconds
  except (TypeError, ValueError):
    raise ValueError(
      f'seconds must be a pair (fixed, per_example), got {seconds!r}.'
    ) from None
  checks.check_not_negative(fixed=fixed, per_example=per_example)
  checks.check_positive(micro_batch_size=micro_batch_size)
  if checks.is_concrete(fixed, per_example) and not fixed + per_example > 0:
    raise ValueError(
      'seconds=(fixed, per_example) must not both be 0: a step takes time.'
    )
  return Seconds(fixed, per_example, 1.0 * micro_batch_size, reach=_UNLIMITED)


def _best_size(averages, model):
  """The size of the largest goodput; NaN where none is better than others."""
  # Of roots, so that no product leaves the range of float32.
  optimum = evidence.ratio(
    jnp.sqrt(averages.noise) * jnp.sqrt(model.fixed),
    jnp.sqrt(averaging.clamped_signal(averages)) * jnp.sqrt(model.per_example),
  )
  within = jnp.maximum(jnp.minimum(optimum, model.reach), 1)
  filling = _nearest_filling(within, model.micro_batch_size)
  missing = arithmetic.is_missing(optimum)
  size = jnp.where(missing, arithmetic.missing(), filling)
  return size.astype(optimum.dtype)


def _nearest_filling(size, m):
  """The nearest of …, m/16, m/4, m, 2m, 3m, …, which fill their micro-batches.

  Nearest in ratio: goodput is the same at b · x and b / x, b its maximum.
  """
  below = jnp.ldexp(m, 2 * jnp.round(jnp.log2(size / m) / 2).astype(jnp.int32))
  lower = m * jnp.floor(size / m)
  upper = lower + m
  above = jnp.where(jnp.square(size) < lower * upper, lower, upper)
  return jnp.where(size < m, below, above)


def with_seconds(
  opt_state: Any,
  fixed: jax.typing.ArrayLike,
  per_example: jax.typing.ArrayLike,
  *,
  micro_batch_size: jax.typing.ArrayLike = 1,
  reach: jax.typing.ArrayLike = _UNLIMITED,
) -> Any:
  """The state of an optimizer, in which `goodput` knows these seconds.

  For loops of one's own: it replaces numbers by numbers, so that nothing
  compiles anew, and works under jit.

  Args:
    opt_state: The state of an optimizer with `goodput()`, or a tree of such.
    fixed: The seconds of a step whatever its size, ≥ 0. [].
    per_example: The seconds that an example adds, ≥ 0. [].
    micro_batch_size: m. Batches are rounded up to a multiple of m, small ones
      to a quarter of m, to a quarter of that and so on. [].
    reach: The largest size at which this is known. [].

  Returns:
    The state with these seconds.

  Raises:
    ValueError: If it holds no seconds, or a number is out of range.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> transform = adaopt.adapt_batch_size(
    ...   adaopt.criteria.goodput(), init_batch_size=8, max_batch_size=1024)
    >>> statistics = adaopt.GradientStatistics(
    ...   batch_size=jnp.array(8), mean=jnp.array([3.0, 4.0]),
    ...   variance=jnp.array(160.0))
    >>> state = transform.init(statistics.mean)
    >>> for _ in range(2):
    ...   _, state = transform.update(
    ...     statistics.mean, state, statistics=statistics)
    ...   print(state.required, state.batch_size)
    ...   state = adaopt.criteria.with_seconds(state, 0.002, 0.00001)
    nan 8
    80.0 80
  """
  checks.check_not_negative(fixed=fixed, per_example=per_example, reach=reach)
  checks.check_positive(micro_batch_size=micro_batch_size)
  if not fields.states_of(opt_state, Seconds):
    raise ValueError(
      'the state holds no seconds to set: its optimizer has no criterion '
      'goodput(), or one that was given its seconds.'
    )
  model = fixed, per_example, micro_batch_size, reach

  def replaced(node):
    if not isinstance(node, Seconds):
      return node
    return Seconds(*map(jnp.full_like, node, model))

  return jax.tree.map(
    replaced, opt_state, is_leaf=lambda node: isinstance(node, Seconds)
  )
