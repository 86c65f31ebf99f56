"""The critical batch size by a power law of the loss."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from adaopt._common import arithmetic, arrays, base, checks
from adaopt.criteria import averaging, evidence


class CriticalBatchSizeState(NamedTuple):
  """State of `critical_batch_size`."""

  loss: jax.Array  # [] float32, Σ of losses by their weights
  weight: jax.Array  # [] float32, Σ of the weights


def critical_batch_size(
  scale: jax.typing.ArrayLike,
  alpha: jax.typing.ArrayLike,
  *,
  tokens_per_example: jax.typing.ArrayLike = 1,
  decay: jax.typing.ArrayLike = 0.95,
) -> base.StatefulCriterion:
  r"""The critical batch size that a power law predicts from the loss.

  b ≥ B_* / (s ⟨F⟩^(1/α_B)), ⟨·⟩ a moving average and F the loss: no gradient
  is measured. Where ⟨F⟩ is not above 0, infinitely many examples; where the
  power of it is not finite, no evidence. A loss that is not finite leaves the
  average as it is; before the first other one there is no evidence.

  Of language models on WebText2, with F in nats a token, Kaplan et al. found
  B_* ≈ 2·10⁸ tokens and α_B ≈ 0.21; other data and other models take a fit of
  their own. MiniMax-01 doubles its batch by such a law: the size of
  `policy=geometric_growth(2.0)`, which is b_0 times a power of two.

  Args:
    scale: B_*, the critical size at a loss of 1.
    alpha: α_B > 0.
    tokens_per_example: s, the length of a sequence, where B_* counts tokens.
    decay: Of the average, in [0, 1).

  Returns:
    A criterion that reads `value=`, the loss, in the extra arguments of the
    optimizer's update, and nothing of the statistics.

  Raises:
    ValueError: If a constant is out of range; from update without `value=`, or
      with one that is no real scalar.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> criterion = adaopt.criteria.critical_batch_size(
    ...   2e8, alpha=0.21, tokens_per_example=1024)
    >>> statistics = adaopt.GradientStatistics(jnp.array(8), jnp.zeros(2))
    >>> state = criterion.init(statistics.mean)
    >>> required, _ = criterion.update(
    ...   statistics, state, value=jnp.array(4.0))
    >>> print(f'{required:.0f}')
    265

  References:
    Kaplan et al., `Scaling Laws for Neural Language Models
    <https://arxiv.org/abs/2001.08361>`_, 2020, eq. 1.4

    MiniMax, `MiniMax-01: Scaling Foundation Models with Lightning Attention
    <https://arxiv.org/abs/2501.08313>`_, 2025
  """
  checks.check_positive(
    scale=scale, alpha=alpha, tokens_per_example=tokens_per_example
  )
  checks.check_decays(decay=decay)

  def init(params: Any):
    del params
    zero = jnp.zeros([], jnp.float32)
    return CriticalBatchSizeState(loss=zero, weight=zero)

  def update(statistics, state, *, value=None, **extra_args):
    del statistics, extra_args
    if value is None:
      raise ValueError(
        'critical_batch_size needs the loss; pass value= to optimizer.update.'
      )
    if not arrays.is_real_scalar(value):
      raise ValueError(
        'critical_batch_size needs value= to be the loss, a real scalar, got '
        f'{arrays.described(value)}.'
      )
    loss = jnp.asarray(value, jnp.float32)
    moved = averaging.move(state, CriticalBatchSizeState(loss, 1.0), decay)
    state = optax.tree.where(jnp.isfinite(loss), moved, state)
    return required(state), state

  def required(state):
    known = state.weight > 0
    loss = state.loss / jnp.where(known, state.weight, 1)
    size = jnp.asarray(scale / tokens_per_example, loss.dtype)
    found = evidence.ratio(size, jnp.maximum(loss, 0) ** (1 / alpha))
    return jnp.where(known, found, arithmetic.missing())

  return base.StatefulCriterion(init, update)
