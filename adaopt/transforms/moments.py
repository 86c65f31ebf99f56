"""The moments of an optimizer where the batch size changes.

An average of ḡ² over past updates is one of ‖∇F‖² + v / b with the b of those:
after a change of size it is wrong until it has forgotten them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from adaopt._common import arithmetic, calls, checks, fields, passing
from adaopt.criteria import averaging


class ResetMomentsState(NamedTuple):
  """State of `reset_moments`."""

  base_batch_size: jax.Array  # [] int32, at the last reset; 0: no batch yet
  inner_state: optax.OptState


class RescaleSecondMomentState(NamedTuple):
  """State of `rescale_second_moment`."""

  averages: averaging.NoiseAndSignal  # of v and ‖∇F‖²
  last_batch_size: jax.Array  # [] int32; 0: no batch yet
  inner_state: optax.OptState  # its ν is that of the last batch size


def reset_moments(
  optimizer: optax.GradientTransformation,
  *,
  factor: jax.typing.ArrayLike = 2.0,
) -> optax.GradientTransformationExtraArgs:
  """An optimizer whose state begins anew where the batch size has moved.

  With b_r the size at the last reset, or the first one, the state is that of
  init before an update with max(b / b_r, b_r / b) ≥ factor. Bias corrections
  begin anew, too, so that Adam's first update after it is one of signs.

  Args:
    optimizer: What holds the moments, such as `optax.scale_by_adam()` or
      `optax.trace(0.9)`, without schedules that count on.
    factor: By which the size must have moved, > 1.

  Returns:
    The optimizer. Its update requires `statistics=`, for its `batch_size`.

  Raises:
    ValueError: If optimizer is not one, or factor is not above 1 and finite;
      from init if the optimizer holds a batch size, or a random key, whose
      draws would begin anew; from update without statistics.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> import optax
    >>> momentum = adaopt.transforms.reset_moments(optax.trace(0.5))
    >>> updates = jnp.ones(1)
    >>> state = momentum.init(updates)
    >>> for batch_size in (8, 8, 12, 16):
    ...   found, state = momentum.update(
    ...     updates, state,
    ...     statistics=adaopt.GradientStatistics(batch_size, updates))
    ...   print(found)
    [1.]
    [1.5]
    [1.75]
    [1.]

  References:
    Qiao et al., `Pollux: Co-adaptive Cluster Scheduling for Goodput-Optimized
    Deep Learning <https://arxiv.org/abs/2008.12260>`_, 2021, and its code,
    AdaptDL (which begins anew at every change)
  """
  checks.check_optimizer(optimizer)
  checks.check_positive(factor=factor)
  if checks.is_concrete(factor) and not factor > 1:
    raise ValueError(f'factor must be above 1 and finite, got {factor}.')
  optimizer = passing.with_own_args(optimizer)

  def init_fn(params):
    inner_state = optimizer.init(params)
    if fields.find_all(inner_state, 'batch_size'):
      raise ValueError(
        'reset_moments begins the state of its optimizer anew, the batch size '
        'that this one holds, too; chain what holds it outside.'
      )
    if _holds_key(inner_state):
      raise ValueError(
        'reset_moments begins the state of its optimizer anew, the random key '
        'that this one holds, too, so that it would repeat its draws; chain '
        'what holds it outside.'
      )
    return ResetMomentsState(jnp.zeros([], jnp.int32), inner_state)

  def update_fn(updates, state, params=None, **extra_args):
    b = passing.batch_size_in(extra_args, 'reset_moments')
    b = jnp.asarray(b, jnp.int32)
    known = state.base_batch_size > 0
    base = jnp.where(known, state.base_batch_size, b)
    larger, smaller = jnp.maximum(b, base), jnp.minimum(b, base)
    smaller = jnp.maximum(smaller, 1).astype(jnp.float32)
    moved = larger.astype(jnp.float32) >= factor * smaller
    fresh = optimizer.init(updates if params is None else params)
    inner_state = optax.tree.where(moved, fresh, state.inner_state)
    updates, inner_state = optimizer.update(
      updates, inner_state, params, **extra_args
    )
    base = jnp.where(moved, b, base)
    return updates, ResetMomentsState(base, inner_state)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _holds_key(opt_state):
  """Whether a state holds random keys, or what jax.random.PRNGKey makes."""
  named = [fields.find_all(opt_state, field) for field in ('rng_key', 'key')]
  return any(named) or any(map(calls.is_key, jax.tree.leaves(opt_state)))


def rescale_second_moment(
  optimizer: optax.GradientTransformation,
  *,
  decay: jax.typing.ArrayLike = 0.95,
  floor: jax.typing.ArrayLike = 0.01,
) -> optax.GradientTransformationExtraArgs:
  r"""An optimizer whose second moment moves with the batch size.

  E ‖ḡ‖² = ‖∇F‖² + v / b. So where the size goes from b to b', the average ν of
  ḡ² is multiplied, before the update, by what that makes of its expectation,

    ρ = (μ² + ⟨v⟩ / b') / (μ² + ⟨v⟩ / b),
    μ² = max(⟨‖ḡ‖² − v / b⟩, floor · ⟨‖ḡ‖²⟩),

  ⟨·⟩ moving averages, those of `scale_by_adascale`. Noise alone gives b / b',
  signal alone 1. ρ is one number for all coordinates. The first moment has the
  expectation ∇F at any size, and stays.

  Without noise and signal, so before the first variance, ρ is 1. An update
  whose statistics hold no variance, or none that is finite, uses the averages
  as they are. With this transform `train_step` measures the variance in every
  step, as with `scale_by_adascale`; beside that it costs nothing.

  Args:
    optimizer: With a state that has fields `nu`, averages of g², such as
      `optax.scale_by_adam()`, `optax.scale_by_rms()`, or a chain of such. Other
      fields of that name are scaled unseen, such as that of Adamax, whose state
      is of Adam's type and averages no g².
    decay: Of the averages, in [0, 1).
    floor: The smallest share of ‖ḡ‖² taken to be signal, in (0, 1].

  Returns:
    The optimizer. Its update requires `statistics=`.

  Raises:
    ValueError: If optimizer is not one, or a constant is out of range; from
      init if no state has a field `nu`, or one that is of AdaBelief or AMSGrad;
      from update without statistics.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> import optax
    >>> rms = adaopt.transforms.rescale_second_moment(
    ...   optax.scale_by_rms(decay=1.0), decay=0.0)
    >>> gradient = jnp.array([3.0, 4.0])
    >>> state = rms.init(gradient)
    >>> state = optax.tree.set(state, nu=jnp.array([8.0, 16.0]))
    >>> for batch_size in (8, 32):  # v / b = 20, 5 and μ² = 5, 20
    ...   _, state = rms.update(
    ...     gradient, state,
    ...     statistics=adaopt.GradientStatistics(
    ...       batch_size, gradient, variance=jnp.array(160.0)))
    ...   print(optax.tree.get(state, 'nu'))  # · (20 + 5) / (20 + 20)
    [ 8. 16.]
    [ 5. 10.]
  """
  checks.check_optimizer(optimizer)
  checks.check_decays(decay=decay)
  averaging.check_floor(floor)
  optimizer = passing.with_own_args(optimizer)

  def init_fn(params):
    inner_state = optimizer.init(params)
    if not fields.find_all(inner_state, 'nu'):
      raise ValueError(
        'rescale_second_moment needs an optimizer with a second moment, a '
        'field nu of its state such as optax.scale_by_adam() has, got the '
        f'state {type(inner_state).__name__}.'
      )
    if fields.states_of(inner_state, optax.ScaleByBeliefState):
      raise ValueError(
        'rescale_second_moment needs a second moment that averages g², got '
        'that of AdaBelief, which averages (g − m)²; use optax.scale_by_adam().'
      )
    if fields.find_all(inner_state, 'nu_max'):
      raise ValueError(
        'rescale_second_moment needs a second moment that is an average, got '
        'the field nu_max of AMSGrad, which is the largest one; use '
        'optax.scale_by_adam().'
      )
    return RescaleSecondMomentState(
      averaging.zeros(), jnp.zeros([], jnp.int32), inner_state
    )

  def update_fn(updates, state, params=None, **extra_args):
    b = passing.batch_size_in(extra_args, 'rescale_second_moment')
    b = jnp.asarray(b, jnp.int32)
    kept = averaging.kept(
      state.averages,
      extra_args['statistics'],
      decay=decay,
      floor=floor,
      test='rescale_second_moment',
    )
    known = state.last_batch_size > 0
    before = _expected(kept, jnp.where(known, state.last_batch_size, b))
    after = _expected(kept, b)
    ratio = jnp.where(before > 0, after / jnp.where(before > 0, before, 1), 1)
    inner_state = fields.map_field(
      lambda nu: arithmetic.scale(ratio, nu), state.inner_state, 'nu'
    )
    updates, inner_state = optimizer.update(
      updates, inner_state, params, **extra_args
    )
    return updates, RescaleSecondMomentState(kept, b, inner_state)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _expected(averages, b):
  """E ‖ḡ‖² over batches of b."""
  noise = arithmetic.divide(averages.noise, jnp.maximum(b, 1))
  return averaging.clamped_signal(averages) + noise
