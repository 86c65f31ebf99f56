"""What a step computes, and of which examples, a micro-batch at a time."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from adaopt._common import arithmetic, base, checks, functions, losses, passing
from adaopt.statistics import estimators
from adaopt.training import stream, train_state

Draw = Callable[[base.Batch, jax.Array, jax.Array], base.Batch]
"""(dataset, seed, positions [n]) → a batch of n examples."""

Samples = tuple[losses.Sample, jax.Array]
"""The samples of a micro-batch, and which of them count."""


class Recipe(NamedTuple):
  """What a step computes, and of which examples."""

  loss_fn: base.LossFn
  has_aux: bool
  optimizer: optax.GradientTransformationExtraArgs
  micro_batch_size: int  # of whole groups
  group_size: int
  draw: Draw
  # (recipe, index, state, dataset, batch size) → the samples of a micro-batch.
  take: Callable[..., Samples]


def take_drawn(
  recipe: Recipe,
  index: jax.Array,
  state: train_state.TrainState,
  dataset: Any,
  num_examples: jax.Array,
) -> Samples:
  """A micro-batch of a batch that starts where the state stands."""
  offsets = index * recipe.micro_batch_size + jnp.arange(
    recipe.micro_batch_size, dtype=jnp.int32
  )
  mask = offsets < num_examples
  # Beyond the batch the first group is read again, with weight 0: another
  # example may not be finite, and 0 · ∞ is NaN. It is repeated by position:
  # repeated examples would have to be moved between devices.
  groups = recipe.micro_batch_size // recipe.group_size
  first = jnp.tile(offsets[: recipe.group_size], groups)
  positions = state.examples + jnp.where(mask, offsets, first)
  positions &= arithmetic.LARGEST
  return draw_samples(recipe, state, dataset, positions, mask)


def take_from_block(
  recipe: Recipe,
  index: jax.Array,
  state: train_state.TrainState,
  block: stream.Block,
  num_examples: jax.Array,
) -> Samples:
  """A part of a block, the micro-batch with this index in it."""
  del num_examples  # The block knows which of its examples count.
  size, q = recipe.micro_batch_size, recipe.group_size
  begin = index * size
  offsets = begin + jnp.arange(size, dtype=jnp.int32)
  mask = (block.start <= offsets) & (offsets < block.stop)
  counts = mask[::q]  # of groups
  first = jnp.clip((block.start - begin) // q, 0, size // q - 1)

  def part(x):
    x = jnp.asarray(x)
    if size < len(x):
      x = jax.lax.dynamic_slice_in_dim(x, begin, size)
    groups = x.reshape(-1, q, *x.shape[1:])
    # For the reason above the first group that counts stands for the others.
    rest = _picked(groups, first)[None]
    shown = jnp.expand_dims(counts, range(1, groups.ndim))
    return jnp.where(shown, groups, rest).reshape(x.shape)

  keys = None
  if losses.takes(recipe.loss_fn).key:
    positions = (block.first + offsets) & arithmetic.LARGEST
    keys = stream.example_keys(state.seed, positions)
  batch = jax.tree.map(part, block.examples)
  return losses.samples(batch, mask, q, keys)


def _picked(groups, index):
  """groups[index], a sum of which devices that share groups send no more."""
  if not checks.is_number(groups):
    return groups[index]
  alone = jnp.expand_dims(
    jnp.arange(len(groups)) == index, range(1, groups.ndim)
  )
  alone = jnp.where(alone, groups, jnp.zeros_like(groups))
  if groups.dtype == bool:
    return jnp.any(alone, 0)
  return jnp.sum(alone, 0, dtype=groups.dtype)


def recipe_of(
  loss_fn: base.LossFn,
  optimizer: optax.GradientTransformation,
  *,
  micro_batch_size: int,
  group_size: int,
  has_aux: bool,
  draw: Draw,
  take: Callable[..., Samples] = take_drawn,
) -> Recipe:
  """The recipe of these arguments of `train_step`, checked."""
  checks.check_integer(
    1, micro_batch_size=micro_batch_size, group_size=group_size
  )
  checks.check_optimizer(optimizer)
  checks.check_callable('(params, batch) -> loss', loss_fn=loss_fn)
  losses.check_takes(loss_fn)
  checks.check_flag(has_aux=has_aux)
  checks.check_callable('(dataset, seed, positions) -> batch', draw=draw)
  functions.check_takes(3, draw=draw)
  return Recipe(
    loss_fn,
    has_aux,
    passing.with_own_args(optimizer),
    -(-micro_batch_size // group_size) * group_size,
    group_size,
    draw,
    take,
  )


def loss_of(recipe: Recipe, state: train_state.TrainState) -> estimators.Loss:
  """The loss function of a sample, with the model state of a run."""
  return losses.checked(
    recipe.loss_fn, recipe.has_aux, model_state=state.model_state
  )


def _check_drawn(batch, length):
  shapes = {jnp.shape(x)[:1] for x in jax.tree.leaves(batch)}
  if shapes != {(length,)}:
    raise ValueError(
      f'draw must return a batch of {length} examples, one for each position, '
      f'got leading axes {sorted(map(list, shapes))}.'
    )


def draw_samples(
  recipe: Recipe,
  state: train_state.TrainState,
  dataset: Any,
  positions: jax.Array,
  mask: jax.Array | None = None,
) -> Samples:
  """The samples at positions of the stream [n], and which of them count."""
  batch = recipe.draw(dataset, state.seed, positions)
  _check_drawn(batch, len(positions))
  keys = None
  if losses.takes(recipe.loss_fn).key:
    keys = stream.example_keys(state.seed, positions)
  return losses.samples(batch, mask, recipe.group_size, keys)
