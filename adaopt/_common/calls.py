"""A call of a loss function on a batch: all that it takes, checked."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from adaopt._common import arrays, auxiliary, base, checks, losses


class Call(NamedTuple):
  """A loss function with all that it takes, and the samples of a batch."""

  loss: Callable[..., tuple[jax.Array, losses.Outcome]]  # as of `checked`
  samples: losses.Sample  # [J, q, ...]
  mask: jax.Array  # which samples count, [J] bool
  moved_of: Callable[[Any], Any]  # model state → what the first sample adds


def prepare(
  loss_fn: base.LossFn,
  params: optax.Params,
  batch: base.Batch,
  *args: Any,
  key: jax.Array | None,
  model_state: Any,
  mask: jax.Array | None,
  group_size: int,
  has_aux: bool,
) -> Call:
  """Checks the arguments of a loss function, and cuts a batch into samples.

  Args:
    loss_fn: See `base.LossFn`.
    params: The parameters.
    batch: The examples, [b, ...].
    *args: Further arguments of loss_fn, the same for all examples.
    key: A random key, or keys [b], where loss_fn takes one.
    model_state: What a model holds beside its parameters, where loss_fn takes
      it.
    mask: Which examples count, [b] bool; None: all.
    group_size: q.
    has_aux: Whether loss_fn returns an aux.

  Returns:
    The call.

  Raises:
    ValueError: For a key or a model_state without a parameter for it, or the
      other way round, and for what is not of the batch's length.
  """
  named = losses.takes(loss_fn)
  check_named(named, key, model_state)
  check_args(args)
  length = checks.num_examples(batch)
  keys = keys_of(key, length)
  model_state = () if model_state is None else model_state
  check_model_state(model_state)

  def loss_with(model_state, rows):
    return losses.checked(
      loss_fn, has_aux, *args, model_state=model_state, by_example=rows
    )

  def aux_of(batch):
    sample = losses.Sample(batch, None if keys is None else keys[0])
    return loss_with(model_state, None)(params, sample)[1].aux

  rows = auxiliary.by_example(aux_of, batch, group_size) if has_aux else None
  samples, counts = losses.samples(
    batch, _checked_mask(mask, length), group_size, keys
  )

  first = jax.tree.map(lambda x: x[0], samples)
  moved_of = lambda old: loss_with(old, rows)(params, first)[1].moved
  return Call(loss_with(model_state, rows), samples, counts, moved_of)


def keys_of(
  key: jax.Array | None, length: int, first: jax.typing.ArrayLike = 0
) -> jax.Array | None:
  """The keys of examples, [b]: those given, or one folded with each index.

  Args:
    key: A key, or keys [b].
    length: b.
    first: The index of the first example.

  Returns:
    The keys.
  """
  if key is None:
    return None
  if not is_key(key):
    raise ValueError(
      'key must be a key as jax.random.key makes it, or one for each example; '
      f'got {getattr(key, "dtype", type(key).__name__)}. A key of the older '
      'kind becomes one by jax.random.wrap_key_data.'
    )
  if key.ndim == 0:
    indices = first + jnp.arange(length)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, indices)
  if key.shape != (length,):
    raise ValueError(
      f'key must be one key, or one for each of {length} examples, got '
      f'{list(key.shape)}.'
    )
  return key


def check_named(
  named: losses.Takes, key: jax.Array | None, model_state: Any
) -> None:
  """Raises ValueError unless a loss function is passed what it takes."""
  if named.key and key is None:
    raise ValueError(
      'loss_fn takes a key, and none was passed by its name: pass key=, a key '
      'for the batch, or one for each example, such as '
      'adaopt.example_keys(seed, positions).'
    )
  if key is not None and not named.key:
    raise ValueError('key= was passed, and loss_fn has no parameter key.')
  if named.model_state and model_state is None:
    raise ValueError(
      'loss_fn takes a model_state, and none was passed: pass model_state=.'
    )
  if model_state is not None and not named.model_state:
    raise ValueError(
      'model_state= was passed, and loss_fn has no parameter model_state.'
    )


def check_model_state(model_state: Any) -> None:
  """Raises ValueError if a leaf is a random key or no array."""
  checks.check_arrays(model_state=model_state)
  for path, leaf in jax.tree.leaves_with_path(model_state):
    if is_key(leaf):
      raise ValueError(
        f'model_state{jax.tree_util.keystr(path)} is a random key, which would '
        'be the same for every example; a loss function that draws random '
        'numbers takes a parameter key.'
      )


def is_key(leaf: Any) -> bool:
  """Whether a leaf holds random keys, as jax.random.key makes them."""
  dtype = getattr(leaf, 'dtype', None)
  return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def check_key(key: Any) -> None:
  """Raises ValueError unless it is one random key."""
  if not is_key(key) or key.ndim:
    raise ValueError(
      'key must be a random key, as jax.random.key makes it, got '
      f'{arrays.described(key)}.'
    )


def check_args(args: Any) -> None:
  """Raises ValueError if an argument for all examples is a random key."""
  for leaf in jax.tree.leaves(args):
    if is_key(leaf):
      raise ValueError(
        'an argument of loss_fn is a random key, and every example would draw '
        'the same numbers; name that parameter key and pass key=.'
      )


def _checked_mask(mask, length):
  if mask is None:
    return None
  mask = arrays.array_of(f'bools, one for each of {length} examples', mask=mask)
  if mask.dtype != bool or mask.shape != (length,):
    raise ValueError(
      f'mask must be bools, one for each of {length} examples, got '
      f'{mask.dtype}{list(mask.shape)}.'
    )
  return mask
