"""Weighted sums of per-example gradients, with weights of one's own."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from adaopt._common import arrays, base, checks, functions
from adaopt.per_example import unit_sums


def weighted_sum(
  loss_fn: base.LossFn, *, group_size: int = 1, has_aux: bool = False
) -> Callable[..., tuple[Any, optax.Updates, jax.Array]]:
  """Σ_i c_i g_i, for weights c_i that may depend on ‖g_i‖ and on the losses.

  g_i is the gradient of loss_fn for example i alone: of a `WeightedLoss`
  ∇(a_i / w_i), where `squared_norms` has (b / Σ w_i) ∇a_i. An example with
  c_i = 0 leaves no trace, not even of a gradient that is not finite. Weights
  are constants: nothing is differentiated through them.

  Args:
    loss_fn: (params, batch, *args) → the mean loss over the batch, or
      (loss, aux), see `LossFn`.
    group_size: q, the number of consecutive examples that are one unit, with
      the gradient of their mean loss and one weight.
    has_aux: Whether loss_fn returns (loss, aux); aux as in
      `value_and_statistics`.

  Returns:
    f(params, batch, weights, *args, key=, model_state=, mask=, direction=) →
    (loss or (loss, aux), Σ c_i g_i like params, ‖g_i‖ [b]), both in float32 or
    wider, [b / q] for groups. `weights` are numbers [b], or a function
    (norms, losses) → [b]; with direction=u, like params, a function
    (norms, losses, products) that takes ⟨g_i, u⟩, too. Other keywords as in
    `value_and_statistics`; what mask= leaves out has norm and weight 0, and so
    has a group unless all of it counts. The loss is that of the units that
    count, missing without any. A new model state is dropped.

  Raises:
    ValueError: If a constant is out of range; from f as for `squared_norms`,
      and if the weights are not real numbers, one for each unit.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> loss_fn = lambda w, x: jnp.mean((x @ w) ** 2) / 2
    >>> x = jnp.array([[3.0, 4.0], [6.0, 8.0]])
    >>> w = jnp.array([1.0, 0.0])
    >>> weighted_sum = adaopt.per_example.weighted_sum(loss_fn)
    >>> loss, total, norms = weighted_sum(w, x, jnp.array([1.0, 0.5]))
    >>> print(loss, total, norms)
    11.25 [27. 36.] [15. 60.]
    >>> _, total, _ = weighted_sum(w, x, lambda norms, losses: 15 / norms)
    >>> print(total)  # [9, 12] + [36, 48] / 4
    [18. 24.]
  """
  unit_sums.check(loss_fn, has_aux, group_size)

  def summed(
    params,
    batch,
    weights,
    *args,
    key=None,
    model_state=None,
    mask=None,
    direction=None,
  ):
    checks.check_params(params)
    if direction is not None:
      checks.check_like(params, direction=direction)
    units = checks.num_examples(batch) // group_size
    weigh, constants = _weigh(weights, units, direction is not None)
    return unit_sums.summed(
      *(loss_fn, weigh, constants, params, batch, *args),
      key=key,
      model_state=model_state,
      mask=mask,
      group_size=group_size,
      has_aux=has_aux,
      direction=direction,
    )

  return summed


def _weigh(weights, count, directed):
  """`unit_sums.Weigh` of weights, which are checked, and its constants."""
  asked = f'real numbers [{count}], one for each unit'

  def checked(found, what):
    found = arrays.array_of(asked, **{what: found})
    if found.shape != (count,) or not jnp.isrealobj(found):
      raise ValueError(
        f'{what} must be {asked}, got {found.dtype}{list(found.shape)}.'
      )
    return found.astype(jnp.promote_types(found.dtype, jnp.float32))

  if not callable(weights):

    def given(constants, squares, *_):
      return unit_sums.norms_of(squares), constants

    return given, checked(weights, 'weights')

  names = ('norms', 'losses', 'products')[: 3 if directed else 2]
  functions.check_takes(len(names), weights=weights)

  def computed(_, squares, *known):
    norms = unit_sums.norms_of(squares)
    found = weights(norms, *known)
    return norms, checked(found, f'weights({", ".join(names)})')

  return computed, ()
