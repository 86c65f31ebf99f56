"""Constants of an optimizer that count examples instead of updates."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from adaopt._common import arithmetic, checks, passing
from adaopt.transforms import injected


class FollowBatchSizeState(NamedTuple):
  """State of `follow_batch_size`."""

  count: jax.Array  # [] int32, updates so far
  examples: jax.Array  # [] int32, in all of them
  base_batch_size: jax.Array  # [] int32; 0: no batch yet
  inner_state: optax.OptState  # its hyperparams are those at b_0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Decay:
  """An array β_t, whose power t is Π β_s instead of β_t^t.

  What an optimizer multiplies by is β_t; what it corrects a bias by is 1 − β^t.
  Π β_s is β_t^(n / b), which is β_t^(t + beyond).
  """

  value: jax.Array  # [], β_t
  beyond: jax.Array  # [], n / b − t

  def __jax_array__(self):
    return self.value

  def __mul__(self, other):
    return self.value * other

  __rmul__ = __mul__

  def __rsub__(self, other):
    return other - self.value

  def __pow__(self, count):
    return self.value ** (jnp.asarray(count, self.beyond.dtype) + self.beyond)


def follow_batch_size(
  optimizer: optax.GradientTransformation,
  *,
  decays: str | Iterable[str] = (),
  trace: str | None = None,
  scaled: Mapping[str, jax.typing.ArrayLike] | None = None,
  base_batch_size: int | None = None,
) -> optax.GradientTransformationExtraArgs:
  r"""An optimizer with injected constants, which follow the batch size b.

  A decay β becomes β^(b / b_0): its half-life, b_0 log ½ / log β, is a number
  of examples. A gradient weighs the same after n more examples, in whatever
  batches they come. A constant λ becomes λ (b / b_0)^p.

  - Adam corrects the bias of an average after t updates by 1 − β^t, which is
    wrong where β changes: v̂ would be too small by 2.85 if b doubled in each of
    the first eight updates at β₂ = 0.999. Here a decay to the power of t is
    Π β_s = β^(n / b_0), with n the examples of all updates, so that the
    correction is exact, in any optimizer that makes it by such a power.
  - The momentum of `optax.sgd` and `optax.trace` is a sum, m ← g + β m, with an
    effective rate of α / (1 − β). As a decay it would take that factor away as
    b grows: the linear rule is then no power of b, but α ∝ b (1 − β^(b / b_0)).
    As a trace its gradient, which has to reach it linearly, is scaled by
    (1 − β^(b / b_0)) / (1 − β): it is 1 / (1 − β) times an average, and the
    exponent stays right. On a curvature L effective rates are stable below
    2 (1 + β) / ((1 − β) L), which falls to 2 / L as β does.
  - AdamW averages its updates over 1 / (α λ) steps, b / (α λ) examples. With
    α ∝ b^e that is constant for λ ∝ b^(1 − e): scaled={'weight_decay': 0.5}
    for the square-root rule, 1 for a rate that stays, and 0 for the linear
    rule. Where v̂ is all noise its root is ∝ b^−½, and {'eps': -0.5} keeps ε as
    large beside it.

  In the state, hyperparams are the constants at b_0, and can be changed. A
  learning rate can be scaled too, if `adaptive` or `scale_by_batch_size` does
  not do it. float32 holds 1 − β to 6e-8: let b_0 be no larger than batches get,
  or pass hyperparam_dtype. An empty batch counts as one example.

  Args:
    optimizer: Made by `optax.inject_hyperparams`, or a chain, mask or
      partition of such.
    decays: Names of decays of averages, m ← (1 − β) g + β m, such as 'b1' and
      'b2' of Adam, 'decay' of RMSProp.
    trace: Name of the decay of a sum, 'momentum' in `optax.sgd`.
    scaled: From the names of other constants to p, of either sign.
    base_batch_size: b_0, at which the constants are right; by default the
      first batch.

  Returns:
    The optimizer. Its update requires `statistics=`, for its `batch_size`; at
    b = b_0 it is the one given.

  Raises:
    ValueError: For constants named twice or not at all, and a power that is
      not a number; from init for a name that is not injected or a schedule, and
      a decay outside [0, 1) or in half precision; from update without
      statistics.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> import optax
    >>> average = adaopt.transforms.follow_batch_size(
    ...   optax.inject_hyperparams(optax.ema)(0.5, debias=False),
    ...   decays='decay')
    >>> state = average.init(jnp.zeros([]))
    >>> for batch_size, gradient in ((8, 1.0), (8, 0.0), (16, 0.0)):
    ...   mean, state = average.update(
    ...     jnp.array(gradient), state,
    ...     statistics=adaopt.GradientStatistics(batch_size, gradient))
    ...   print(mean)
    0.5
    0.25
    0.0625

  References:
    Marek et al., `Small Batch Size Training for Language Models
    <https://arxiv.org/abs/2507.07101>`_, 2025 (the half-life of β₂)

    Bergsma et al., `Power Lines: Scaling Laws for Weight Decay and Batch Size
    in LLM Pre-training <https://arxiv.org/abs/2505.13738>`_, 2025 (b / (α λ))

    Malladi et al., `On the SDEs and Scaling Rules for Adaptive Gradient
    Algorithms <https://arxiv.org/abs/2205.10287>`_, 2022 (decays and ε)
  """
  checks.check_optimizer(optimizer)
  injected.check_names(decays, trace, scaled)
  decays = (decays,) if isinstance(decays, str) else tuple(decays)
  fading = decays if trace is None else (*decays, trace)
  powers = dict(scaled or {})
  injected.check_powers([*fading, *powers], powers)
  if base_batch_size is not None:
    checks.check_integer(1, base_batch_size=base_batch_size)
  optimizer = passing.with_own_args(optimizer)

  def init_fn(params):
    inner_state = optimizer.init(params)
    injected.check_injected(inner_state, [*fading, *powers])
    injected.check_decays(inner_state, fading)
    injected.check_trace(inner_state, trace)
    return FollowBatchSizeState(
      count=jnp.zeros([], jnp.int32),
      examples=jnp.zeros([], jnp.int32),
      base_batch_size=jnp.asarray(base_batch_size or 0, jnp.int32),
      inner_state=inner_state,
    )

  def update_fn(updates, state, params=None, **extra_args):
    b = passing.batch_size_in(extra_args, 'follow_batch_size')
    b = jnp.asarray(b, jnp.int32)
    known = state.base_batch_size > 0
    base_batch_size = jnp.where(known, state.base_batch_size, b)
    b, base = jnp.maximum(b, 1), jnp.maximum(base_batch_size, 1)
    examples = arithmetic.saturating_add(state.examples, b)
    count = optax.safe_increment(state.count)

    def moved(name, value):
      dtype = arithmetic.common_dtype(value)
      ratio = b.astype(dtype) / base.astype(dtype)
      if name in powers:
        factor = ratio ** jnp.asarray(powers[name], dtype)
        return arithmetic.scale(factor, jnp.asarray(value))
      value = jnp.asarray(value, dtype)
      return _Decay(
        jnp.where(ratio == 1, value, value**ratio),
        beyond=_in_batches(examples, b, dtype) - count.astype(dtype),
      )

    def follow(node):
      return node._replace(
        hyperparams={
          name: moved(name, x) if name in fading or name in powers else x
          for name, x in node.hyperparams.items()
        }
      )

    def keep(after, before):
      kept = {
        name: x
        for name, x in before.hyperparams.items()
        if name in fading or name in powers
      }
      return after._replace(hyperparams=after.hyperparams | kept)

    followed = injected.map_injected(follow, state.inner_state)
    if trace is not None:
      gain = _rate_of(trace, followed) / _rate_of(trace, state.inner_state)
      updates = arithmetic.scale(gain, updates)
    updates, after = optimizer.update(updates, followed, params, **extra_args)
    return updates, FollowBatchSizeState(
      count=count,
      examples=examples,
      base_batch_size=base_batch_size,
      inner_state=injected.map_injected(keep, after, state.inner_state),
    )

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _in_batches(examples, b, dtype):
  """examples / b: a whole number exactly, up to the largest of the dtype."""
  whole, rest = jnp.divmod(examples, b)
  return whole.astype(dtype) + rest.astype(dtype) / b.astype(dtype)


def _rate_of(trace, opt_state):
  """1 − β of the trace."""
  (hyperparams,) = injected.holders(opt_state, trace)
  return 1 - hyperparams[trace]
