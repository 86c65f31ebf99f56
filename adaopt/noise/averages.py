"""An instrument for any number of the statistics, averaged over steps."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from adaopt._common import arithmetic, arrays, base, checks, functions, passing
from adaopt.statistics import reading


class AverageState(NamedTuple):
  """State of `average_of`."""

  weight: Any  # of [] float32 or wider, 1 − 2^(−examples / half_life)
  average: Any  # likewise, what `measure` returns; NaN before the first


def average_of(
  measure: Callable[[base.GradientStatistics], Any],
  *,
  half_life: jax.typing.ArrayLike,
) -> optax.GradientTransformationExtraArgs:
  r"""Averages what a function reads off the statistics; leaves updates alone.

  As in `noise_scale`, a step of b examples enters with the weight
  1 − 2^(−b / half_life), and what came before with 2^(−b / half_life), over
  their sum. A number that is not finite is left out of its average, and so is a
  step with statistics=None.

  In a chain `train_step` measures in every step what the function reads. The
  result is in the state: `optax.tree.get(opt_state, 'average')`.

  Args:
    measure: From `GradientStatistics` to a tree of [] real, such as
      `stopping_evidence`. In `optax.inject_hyperparams` it is one of the
      static_args.
    half_life: The number of examples after which a measurement counts half.

  Returns:
    A transform whose update requires `statistics=`.

  Raises:
    ValueError: If measure is not a function or half_life is not positive and
      finite; from init and update if measure returns something else, or reads
      what the statistics do not hold.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> import optax
    >>> instrument = adaopt.noise.average_of(
    ...   adaopt.noise.stopping_evidence, half_life=8)
    >>> gradient = jnp.array([3.0, 1.0])
    >>> state = instrument.init(gradient)
    >>> for v in (9.0, 90.0):
    ...   statistics = adaopt.GradientStatistics(
    ...     jnp.array(8), mean=gradient, coordinate_variance=jnp.full(2, v))
    ...   _, state = instrument.update(gradient, state, statistics=statistics)
    ...   print(f"{optax.tree.get(state, 'average').total:.3f}")
    -3.444
    -0.778
  """
  checks.check_callable('of the statistics', measure=measure)
  functions.check_takes(1, measure=measure)
  checks.check_positive(half_life=half_life)

  def measured(statistics):
    found = measure(statistics)
    leaves = jax.tree.leaves(found)
    if not leaves or not all(map(arrays.is_real_scalar, leaves)):
      raise ValueError(
        'measure must return real numbers, one or a tree of them, got '
        f'{jax.tree.map(arrays.described, found)!r}.'
      )
    return jax.tree.map(jnp.asarray, found)

  def init_fn(params):
    found = jax.eval_shape(measured, reading.shapes_of(params))
    dtype = jnp.result_type(float)
    return AverageState(
      weight=jax.tree.map(lambda x: jnp.zeros([], dtype), found),
      average=jax.tree.map(
        lambda x: jnp.full([], arithmetic.missing(), dtype), found
      ),
    )

  def update_fn(updates, state, params=None, **extra_args):
    del params
    statistics = passing.statistics_in(extra_args, 'average_of')
    if statistics is None:
      return updates, state
    found = measured(statistics)
    halvings = jnp.asarray(statistics.batch_size, float) / half_life
    entering = -jnp.expm1(-jnp.log(2.0) * halvings)

    def weighed(weight, x):
      moved = weight + entering.astype(weight.dtype) * (1 - weight)
      return jnp.where(_is_number(x), moved, weight)

    def averaged(old, weight, x):
      share = entering.astype(old.dtype) / jnp.where(weight > 0, weight, 1)
      before = jnp.where(share < 1, old, 0)
      moved = before + share * (x.astype(old.dtype) - before)
      return jnp.where(_is_number(x) & (share > 0), moved, old)

    weight = jax.tree.map(weighed, state.weight, found)
    average = jax.tree.map(averaged, state.average, weight, found)
    return updates, AverageState(weight, average)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _is_number(x):
  """Whether x is finite, also under flags, where numbers stand for others."""
  known = jnp.isfinite(x)
  if arithmetic.is_debugging():
    known &= (x != arithmetic.missing()) & (
      jnp.abs(x) < arithmetic.beyond(x.dtype)
    )
  return known
