"""Checks that a loss is a mean over independent examples."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from adaopt._common import arithmetic, base, calls, checks, losses
from adaopt.per_example.program import ir, pruning
from adaopt.statistics import estimators, randomness

SHARED = (
  'loss_fn draws the same random numbers for every example and in every step: '
  'the key that it draws from is none of its arguments. Give it a parameter '
  'key, and every example gets a key of its own. What is to be the same for '
  'all examples, draw outside of loss_fn.'
)
"""What is wrong where `draws_the_same`."""

_CAUSES = (
  'The loss is not a mean over independent examples. The likely causes:\n'
  '- a weighted mean, such as by class weights, or a mean over the tokens that '
  'are not padding: return adaopt.WeightedLoss(total, weight);\n'
  '- a sum in place of the mean: divide it by the number of examples;\n'
  '- BatchNorm in training mode: estimate from groups of examples, with '
  'group_size=8 or more;\n'
  '- a loss that contrasts or normalises the examples of a batch (InfoNCE, '
  'normalised advantages, the entropy of the batch, a maximum, the root of a '
  'mean square): no groups take it apart; train it by plain gradients, with '
  'adaopt.accumulate(optimizer, group_size=the examples in a gradient);\n'
  '- one random key for the batch: give loss_fn a parameter key.'
)


class Compared(NamedTuple):
  """The gradient of a batch beside that of its examples, tensor by tensor."""

  whole: optax.Updates  # ‖·‖ of the gradient of the batch, [] each
  error: optax.Updates  # of its distance to the mean of its examples' ones
  sum_error: optax.Updates  # of the distance of its b-th part to that mean
  scale: optax.Updates  # √ of the mean of ‖g_i‖²
  eps: jax.Array  # of the coarsest numbers that the loss computes with, []
  least: jax.Array  # ‖·‖ of a gradient that is but rounding of the loss, []


def comparison(loss_fn: base.LossFn, has_aux: bool) -> Callable[..., Compared]:
  """(params, batch, model_state, *args) → the comparison."""

  def compare(params, batch, model_state, *args):
    loss = losses.checked(loss_fn, has_aux, *args, model_state=model_state)
    length = checks.num_examples(batch)
    keys = None
    if losses.takes(loss_fn).key:
      keys = jnp.broadcast_to(randomness.equal_key(), (length,))

    def whole_loss(params):
      total, outcome = loss(params, _whole(batch, keys))
      if outcome.weight is None:
        return total
      return total / outcome.weight.astype(total.dtype)

    value, whole = jax.value_and_grad(whole_loss)(params)
    samples = losses.samples(batch, None, 1, keys)
    moments = pruning.pruned(
      lambda *args: estimators.measure_moments(loss, *args)._replace(
        coordinate_spread=None
      )
    )(params, *samples)
    gradient = estimators.gradient(loss, params, samples[0], moments)
    square = lambda x: jnp.sum(arithmetic.abs_sq(x))
    norm = lambda x: jnp.sqrt(square(x))
    eps = jnp.asarray(_coarsest(whole_loss, params))
    size = jnp.sqrt(sum(map(square, jax.tree.leaves(params))))
    return Compared(
      whole=jax.tree.map(norm, whole),
      error=jax.tree.map(lambda w, m: norm(w - m), whole, gradient),
      sum_error=jax.tree.map(
        lambda w, m: norm(w / length - m), whole, gradient
      ),
      scale=jax.tree.map(
        lambda m, s: jnp.sqrt(square(m) + s / length),
        moments.mean,
        moments.spread,
      ),
      eps=eps,
      least=4 * eps * jnp.abs(value) / jnp.maximum(size, 1),
    )

  return compare


def _coarsest(function, *args):
  """The largest eps among the real and complex numbers that it computes."""
  dtypes = ir.dtypes(jax.make_jaxpr(function)(*args))
  inexact = [x for x in dtypes if jnp.issubdtype(x, jnp.inexact)]
  return max((float(jnp.finfo(x).eps) for x in inexact), default=0.0)


def _whole(batch, keys):
  return losses.Sample(batch, None if keys is None else keys[0])


def draws_the_same(
  loss_fn: base.LossFn,
  has_aux: bool,
  params: optax.Params,
  batch: base.Batch,
  model_state: Any = (),
  *args: Any,
) -> bool:
  """Whether a loss draws random numbers that no example changes.

  Args:
    loss_fn: The loss function.
    has_aux: Whether it returns an aux.
    params: The parameters.
    batch: Examples, [b, ...], or their shapes.
    model_state: What loss_fn is passed where it takes it.
    *args: Further arguments of loss_fn.

  Returns:
    Whether it does.
  """

  def value(fixed, sample):
    params, model_state, args = fixed
    loss = losses.checked(loss_fn, has_aux, *args, model_state=model_state)
    return loss(params, sample)[0]

  key = jax.random.key(0) if losses.takes(loss_fn).key else None
  fixed, sample = (params, model_state, args), losses.Sample(batch, key)
  return randomness.draws_the_same(value, fixed, sample)


def is_finite(compared: Compared) -> bool:
  """Whether the gradient of the batch is finite: else nothing can be told."""
  return bool(np.all(np.isfinite(jax.tree.leaves(compared.whole))))


def check_compared(compared: Compared, params: Any, length: int) -> None:
  """Raises ValueError if the gradients that were compared differ.

  A difference is measured by the root mean square of the examples' gradients.
  In a tensor that cancels, such as the bias of attention's keys, it may be what
  rounding takes from all tensors together; where all cancel, nothing differs.

  Args:
    compared: The comparison, in which the gradient of the batch is finite.
    params: The parameters.
    length: The number of examples.
  """
  leaves = jax.tree.leaves_with_path(params)
  if not np.all(np.isfinite(jax.tree.leaves(compared.scale))):
    raise ValueError(
      f'the gradient of {length} examples is finite, and those of single '
      f'examples among them are not. {_CAUSES}'
    )
  columns = map(jax.tree.leaves, compared[:-2])
  whole, error, sum_error, scale = (np.asarray(x, np.float64) for x in columns)
  everything = np.sqrt(np.sum(np.maximum(scale, whole) ** 2))
  if everything <= compared.least:
    return
  eps = np.array([jnp.finfo(jnp.result_type(x)).eps for _, x in leaves], float)
  eps = np.maximum(eps, compared.eps)
  allowed = np.maximum(
    np.maximum(1e-3, 4 * eps) * np.maximum(scale, whole),
    np.maximum(1e-7, eps) * everything,
  )
  excess = error / allowed
  worst = int(np.argmax(excess))
  if excess[worst] <= 1:
    return
  name = f'params{jax.tree_util.keystr(leaves[worst][0])}'
  found = (
    f'the gradient of {length} examples is not the mean of their own '
    f'gradients: in {name} they differ by {error[worst]:.3g}, where the '
    f'gradient has the length {whole[worst]:.3g}.'
  )
  if np.all(sum_error <= allowed):
    raise ValueError(
      f'{found} It is {length} times their mean: the loss is a sum over the '
      'examples; divide it by their number.'
    )
  raise ValueError(f'{found} {_CAUSES}')


def check_independent_examples(
  loss_fn: base.LossFn,
  params: Any,
  batch: base.Batch,
  *args: Any,
  has_aux: bool = False,
  model_state: Any = None,
) -> None:
  """Checks that a loss is the mean of the losses of single examples.

  Only then has an example a gradient of its own. It compares the gradient of
  the batch, as `jax.grad` of loss_fn gives it, with the mean of the gradients
  of its examples, tensor by tensor. `fit` makes it before the first update.

  A loss function that draws random numbers is given keys of which all numbers
  are equal, for the batch as for the examples.

  Args:
    loss_fn: (params, batch, *args) → the loss, or (loss, aux), see `LossFn`.
    params: The parameters. Where all of their gradients are 0, nothing differs.
    batch: A few examples, [b, ...], at least two. Those with small weights or
      short sequences among them tell most.
    *args: Further arguments of loss_fn.
    has_aux: Whether loss_fn returns an aux.
    model_state: For a loss_fn that takes it.

  Raises:
    ValueError: If the gradients differ, or are not finite, which tells nothing;
      if random numbers are drawn that no example changes; for less than two
      examples.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> whitened = lambda w, x: jnp.mean(w * (x - x.mean(0)) ** 2)
    >>> adaopt.check_independent_examples(
    ...   whitened, 1.0, jnp.arange(4.0))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
      ...
    ValueError: the gradient of 4 examples is not the mean of their own ...
  """
  checks.check_callable('(params, batch) -> loss', loss_fn=loss_fn)
  checks.check_flag(has_aux=has_aux)
  checks.check_params(params)
  length = checks.num_examples(batch)
  if length < 2:
    raise ValueError(
      'whether examples are independent takes at least two of them, got a '
      f'batch of {length}.'
    )
  named = losses.takes(loss_fn)
  calls.check_named(
    named, randomness.equal_key() if named.key else None, model_state
  )
  calls.check_args(args)
  model_state = () if model_state is None else model_state
  if draws_the_same(loss_fn, has_aux, params, batch, model_state, *args):
    raise ValueError(SHARED)
  compare = jax.jit(comparison(loss_fn, has_aux))
  try:
    compared = jax.device_get(compare(params, batch, model_state, *args))
  except NotImplementedError as error:
    raise ValueError(
      'loss_fn draws random numbers of a kind that takes a key of threefry, '
      f'which the check cannot give it: {error}'
    ) from error
  if not is_finite(compared):
    raise ValueError(
      f'the gradient of {length} examples is not finite, which cannot tell '
      'whether they are independent; check other parameters or examples, of '
      'which it is.'
    )
  check_compared(compared, params, length)
