"""How large a micro-batch may be: what compiled steps say that they take."""

import functools
import math
from typing import Any

import jax
import optax

from adaopt._common import base, checks
from adaopt.training import (
  drivers,
  meshes,
  placing,
  recipes,
  steps,
  stream,
  train_state,
)


def largest_micro_batch_size(
  loss_fn: base.LossFn,
  optimizer: optax.GradientTransformation,
  state: train_state.TrainState,
  dataset: base.Batch,
  *,
  num_bytes: int | None = None,
  at_most: int = 4096,
  group_size: int = 1,
  has_aux: bool = False,
  draw: recipes.Draw = stream.draw,
) -> int:
  """The largest micro-batch for which every device has room.

  m = u 2^k, where the unit u is a group of examples on each of the devices that
  share a micro-batch out. Steps are compiled for u, 4 u and the sizes that what
  these take leads to, until 2 m has no room. A step takes its temporary memory,
  and twice its result: `fit` goes on from a state while the one before it is
  held.

  Args:
    loss_fn: As in `train_step`.
    optimizer: As in `train_step`.
    state: Where the run starts, in its place on the devices.
    dataset: As in `fit`, arrays; they are put beside the state.
    num_bytes: What a step may take of each device, beside the state that it
      starts from and the dataset. By default what the device has free; a CPU
      does not tell.
    at_most: The largest size to be tried.
    group_size: As in `train_step`.
    has_aux: As in `train_step`.
    draw: As in `train_step`.

  Returns:
    m, for `fit(max_micro_batch_size=m)` or `train_step(micro_batch_size=m)`.

  Raises:
    ValueError: If there is no room for a unit, or nothing says how much room
      there is; and as `train_step`.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from adaopt import training
    >>> loss_fn = lambda params, x: jnp.mean(jnp.tanh(x * params[None]) ** 2)
    >>> optimizer = adaopt.adaptive(
    ...   optax.sgd(1.0), 0.1, init_batch_size=8, max_batch_size=1024)
    >>> state = adaopt.init_train_state(jnp.ones(1000), optimizer)
    >>> size = training.largest_micro_batch_size(
    ...   loss_fn, optimizer, state, jnp.ones([512, 1000]), num_bytes=2**20)
    >>> 16 <= size <= 256
    True
  """
  train_state.check_state(state)
  checks.check_integer(1, at_most=at_most, group_size=group_size)
  recipe = functools.partial(
    recipes.recipe_of,
    loss_fn,
    optimizer,
    group_size=group_size,
    has_aux=has_aux,
    draw=draw,
  )
  recipe(micro_batch_size=group_size)  # Checks its arguments.
  checks.check_arrays(dataset=dataset)
  mesh = placing.mesh_of(state)
  shares = meshes.number(meshes.sharing_of(mesh, state)) if mesh else 1
  unit = group_size * shares
  if unit > at_most:
    raise ValueError(
      f'at_most must be at least {unit}, a group of {group_size} on each of '
      f'{shares} devices, got {at_most}.'
    )
  dataset = placing.placed(dataset, placing.beside(state))
  room = _free(state) if num_bytes is None else num_bytes
  checks.check_integer(1, bits=63, num_bytes=room)

  @functools.cache
  def taken(doublings):
    parts = steps.parts_of(recipe(micro_batch_size=unit << doublings), False)
    step = drivers.one_program(parts, state, dataset)
    found = step.lower(state, dataset).compile().memory_analysis()
    return found.temp_size_in_bytes + 2 * found.output_size_in_bytes

  if taken(0) > room:
    raise ValueError(
      f'num_bytes must be at least {taken(0)}, what a step takes of each '
      f'device with {unit} examples at once, got {room}; share the parameters '
      'out over more devices, or take a smaller model.'
    )

  def expected(known):
    """Doublings that fit, if what a step takes grew evenly up to known ones."""
    each = (taken(known) - taken(0)) / (2**known - 1)
    units = 1 + (room - taken(0)) / each if each > 0 else math.inf
    return int(math.log2(min(units, at_most / unit)))

  doublings = expected(2)
  while taken(doublings) > room:
    doublings = min(expected(doublings), doublings - 1)
  while unit << doublings + 1 <= at_most and taken(doublings + 1) <= room:
    doublings += 1
  return unit << doublings


def _free(state: Any) -> int:
  """Bytes that are free on each of the devices that hold a state."""
  devices = set()
  for leaf in jax.tree.leaves(state):
    devices |= leaf.sharding.addressable_devices
  stats = [device.memory_stats() for device in devices]
  if not all(stats):
    raise ValueError(
      'num_bytes must be given where devices do not tell how much memory they '
      f'have, as {jax.default_backend()} does not; got None.'
    )
  return min(x['bytes_limit'] - x['bytes_in_use'] for x in stats)
