"""Loss functions and the samples they are evaluated on."""

import contextlib
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adaopt._common import arithmetic, arrays, base, checks, functions


class Sample(NamedTuple):
  """The examples of a sample, or of all samples, and their random key."""

  batch: base.Batch  # [q, ...], or [J, q, ...]
  key: jax.Array | None = None  # [], or [J]


class Outcome(NamedTuple):
  """What a loss function tells of a sample beside its total."""

  weight: jax.Array | None  # w_j, [] float32 or wider; None: of a mean
  aux: Any  # what is averaged over samples
  each: Any  # what has a row for each of its q examples, [q, ...]
  moved: Any  # what the sample adds to the model state; None: a leaf stays


class Takes(NamedTuple):
  """What a loss function takes by name."""

  key: bool
  model_state: bool


def takes(loss_fn: base.LossFn) -> Takes:
  """Whether a loss function has the parameters `key` and `model_state`."""
  try:
    names = inspect.signature(loss_fn).parameters
  except (TypeError, ValueError):  # A builtin without a signature.
    return Takes(False, False)
  return Takes('key' in names, 'model_state' in names)


_REMEDIES = (
  (
    ('shard_map', 'evenly divi'),
    'loss_fn maps its batch over devices by jax.shard_map, and is called with '
    'batches of group_size={} examples: pass a group_size that is a multiple '
    'of the devices, or measure the gradients of devices by '
    'adaopt.device_statistics.',
  ),
  (
    ('of type Auto or Manual',),
    'loss_fn shards its batch over explicit axes of a mesh, and is called for '
    'group_size={} examples at a time: make the axes AxisType.Auto and shard '
    'by jax.lax.with_sharding_constraint, or measure the gradients of devices '
    'by adaopt.device_statistics.',
  ),
)
"""Words of an error of JAX, and what to do about it."""


@contextlib.contextmanager
def _explained(batch):
  """Tells what to do where a loss function shards a batch of its own size."""
  try:
    yield
  except ValueError as error:
    for words, remedy in _REMEDIES:
      if all(word in str(error) for word in words):
        size = checks.num_examples(batch)
        raise ValueError(remedy.format(size)) from error
    raise


def check_takes(loss_fn: base.LossFn, *args: Any) -> None:
  """Raises ValueError unless a loss function can be called with a batch.

  Args:
    loss_fn: The loss function.
    *args: Its further arguments.
  """
  named = takes(loss_fn)
  keywords = {name: None for name, taken in named._asdict().items() if taken}
  if not functions.takes(loss_fn, None, None, *args, **keywords):
    given = ''.join(f', {type(x).__name__}' for x in args)
    raise ValueError(
      f'loss_fn cannot be called with (params, batch{given}), got '
      f'{functions.described(loss_fn)}.'
    )


def _parts(loss_fn, has_aux, output):
  """Loss, aux and model state of what a loss function returned."""
  stateful = takes(loss_fn).model_state
  pair = isinstance(output, tuple) and not isinstance(output, base.WeightedLoss)
  if pair != (has_aux or stateful) or (pair and len(output) != 2):
    asked = (
      'loss_fn must return (loss, aux) with has_aux=True, and only the loss'
    )
    if stateful:
      asked = (
        'loss_fn with a parameter model_state must return (loss, (aux, '
        'model_state)) with has_aux=True, and (loss, model_state)'
      )
    raise ValueError(
      f'{asked} without; with has_aux={has_aux} it returned {_kind(output)}.'
    )
  value, rest = output if pair else (output, ())
  if not stateful:
    return value, rest, ()
  if not has_aux:
    return value, (), rest
  if not isinstance(rest, tuple) or len(rest) != 2:
    raise ValueError(
      'loss_fn with has_aux=True and a parameter model_state must return '
      f'(loss, (aux, model_state)), got {type(rest).__name__} beside the loss.'
    )
  return value, *rest


def _kind(output):
  return 'Array' if isinstance(output, jax.Array) else type(output).__name__


def _check_scalar(value: Any, weighted: bool) -> None:
  """Raises ValueError unless a loss, or a weighted total, is a real scalar."""
  what = (
    'the sum over the batch' if weighted else 'the mean loss over the batch'
  )
  if not isinstance(value, jax.Array | np.ndarray | np.generic):
    returned = 'WeightedLoss.total is' if weighted else 'loss_fn returned'
    raise ValueError(
      f'{returned} {value!r}, which is not an array and has no gradient; '
      f'return {what} as JAX computes it, without float() or .item().'
    )
  if jnp.shape(value) or not jnp.issubdtype(value.dtype, jnp.floating):
    name = 'WeightedLoss.total must be' if weighted else 'loss_fn must return'
    raise ValueError(
      f'{name} a real scalar, {what}; got '
      f'{value.dtype}{list(jnp.shape(value))}.'
    )


def _weight(weight: Any) -> jax.Array:
  """The weight of a `WeightedLoss`, as wide as a sum of weights must be."""
  if not arrays.is_real_scalar(weight):
    raise ValueError(
      'WeightedLoss.weight must be a real scalar, the sum of the weights of '
      f'the batch; got {arrays.described(weight)}.'
    )
  # Counts of tokens are as exact as a float can be.
  dtype = jnp.promote_types(
    arithmetic.accumulator_dtype(weight), jnp.result_type(float)
  )
  return jax.lax.stop_gradient(jnp.asarray(weight, dtype))


def _moved(old: Any, new: Any) -> Any:
  """new − old in float32 or wider, None where a leaf is the same array."""
  structure = jax.tree.structure(old)
  if jax.tree.structure(new) != structure:
    raise ValueError(
      'loss_fn must return a model_state of the structure that it was given, '
      f'{structure}, got {jax.tree.structure(new)}.'
    )

  def difference(path, x, y):
    name = f'model_state{jax.tree_util.keystr(path)}'
    if jnp.shape(x) != jnp.shape(y):
      raise ValueError(
        f'{name} must keep its shape {list(jnp.shape(x))}, got '
        f'{list(jnp.shape(y))}.'
      )
    if x is y:
      return None
    if not checks.is_number(y):
      raise ValueError(
        f'{name} is {jnp.result_type(y)}, which cannot be averaged over '
        'samples; a loss that draws random numbers takes a parameter key.'
      )
    dtype = arithmetic.accumulator_dtype(x)
    if all(jnp.issubdtype(jnp.result_type(z), jnp.integer) for z in (x, y)):
      # Exact for any counter, and unsigned ones wrap around.
      step = jnp.asarray(y, jnp.result_type(x)) - x
      signed = jnp.dtype(f'i{step.dtype.itemsize}')
      return jax.lax.bitcast_convert_type(step, signed).astype(dtype)
    return jnp.asarray(y, dtype) - jnp.asarray(x, dtype)

  return jax.tree.map_with_path(difference, old, new)


def checked(
  loss_fn: base.LossFn,
  has_aux: bool,
  *args: Any,
  model_state: Any = (),
  by_example: Any = None,
) -> Callable[..., tuple[jax.Array, Outcome]]:
  """The loss function of a sample, its value checked to be a real scalar.

  Args:
    loss_fn: (params, batch, *args) → the mean loss over the batch, or
      (loss, aux); see `base.LossFn`.
    has_aux: Whether loss_fn returns an aux.
    *args: Its further arguments, the same for all examples.
    model_state: What it is passed where it takes a model_state.
    by_example: Which leaves of the aux have a row for each example, as
      `auxiliary.by_example` finds them; None: no leaf has.

  Returns:
    (params, sample) → (total, outcome).
  """
  check_takes(loss_fn, *args)
  named = takes(loss_fn)

  def loss(params, sample):
    keywords = {}
    if named.key:
      keywords['key'] = sample.key
    if named.model_state:
      keywords['model_state'] = model_state
    with _explained(sample.batch):
      output = loss_fn(params, sample.batch, *args, **keywords)
    value, aux, state = _parts(loss_fn, has_aux, output)
    weighted = isinstance(value, base.WeightedLoss)
    total, weight = value if weighted else (value, None)
    _check_scalar(total, weighted)
    averaged, each = _split(aux, by_example)
    return total, Outcome(
      weight=_weight(weight) if weighted else None,
      aux=averaged,
      each=each,
      moved=_moved(model_state, state) if named.model_state else (),
    )

  return loss


def _split(aux, by_example):
  """The leaves that are averaged, and those with a row for each example."""
  if by_example is None:
    return aux, None
  rows = lambda wanted: jax.tree.map(
    lambda x, each: x if each == wanted else None, aux, by_example
  )
  return rows(False), rows(True)


def grouped(batch: base.Batch, size: int) -> base.Batch:
  """Arrays [b, ...] as [b / size, size, ...]."""
  length = checks.num_examples(batch)
  if length % size:
    raise ValueError(
      f'a batch of {length} examples is not a multiple of group_size={size}.'
    )
  return jax.tree.map(
    lambda x: jnp.reshape(x, (length // size, size, *jnp.shape(x)[1:])), batch
  )


def keep(samples: jax.Array, mask: jax.Array) -> jax.Array:
  """Samples [J, ...] where mask [J] says so, and 0 elsewhere."""
  mask = jnp.expand_dims(mask, range(1, samples.ndim))
  return jnp.where(mask, samples, jnp.zeros_like(samples))


def samples(
  batch: base.Batch,
  mask: jax.Array | None,
  group_size: int,
  keys: jax.Array | None = None,
) -> tuple[Sample, jax.Array]:
  """The samples [J, q, ...] and which of them count, [J] bool.

  The key of a sample is that of its first example, of keys [b].
  """
  groups = grouped(batch, group_size)
  if keys is not None:
    keys = keys[::group_size]
  if mask is None:
    return Sample(groups, keys), jnp.ones(checks.num_examples(groups), bool)
  return Sample(groups, keys), jnp.all(grouped(mask, group_size), 1)
