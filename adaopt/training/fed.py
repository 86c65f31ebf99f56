"""A training step that is fed: it reads its batch from a feed."""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np
import optax

from adaopt._common import arithmetic, base, checks
from adaopt.training import (
  drivers,
  feeding,
  meshes,
  placing,
  recipes,
  steps,
  stream,
  train_state,
)

FedStep = Callable[
  [train_state.TrainState, feeding.Feed],
  tuple[train_state.TrainState, steps.Metrics],
]
"""(state, feed) → (state, metrics)."""


class Window(NamedTuple):
  """Where in a feed a batch begins."""

  feed: feeding.Feed
  position: int
  first: stream.Block  # the micro-batch there


def is_over(feed: feeding.Feed, position: int, group_size: int) -> bool:
  """Whether no group of examples is left at a position of a feed."""
  piece = feed.read(position)
  over = not piece or piece.first + piece.count - position < group_size
  if over and position == 0:
    raise ValueError(
      f'the source of the feed ended before the first {group_size} example(s); '
      'there is nothing to train on.'
    )
  return over


def blocks(
  feed: feeding.Feed, start: int, stop: int, size: int, group_size: int
) -> Iterator[tuple[jax.Array, stream.Block]]:
  """The micro-batches of `size` that hold the examples from start to stop."""
  while start < stop and not is_over(feed, start, group_size):
    piece = feed.read(start)
    whole = piece.count - piece.count % group_size
    begin, end = start - piece.first, min(stop - piece.first, whole)
    first = piece.first & arithmetic.LARGEST
    numbers = jax.device_put([np.int32(n) for n in (first, begin, end)])
    block = stream.Block(piece.examples, *numbers)
    for index in range(begin // size, -(-end // size)):
      yield jax.device_put(np.int32(index)), block
    start = piece.first + piece.count


def examine(
  group_size: int, feed: feeding.Feed, start: int, stop: int, size: int
) -> Iterator[tuple[stream.Block, int, int]]:
  """Of a batch the first micro-batch, which the feed still holds."""
  _, block = next(blocks(feed, start, stop, size, group_size))
  piece = feed.read(start)
  yield block, start, min(stop, piece.first + piece.count)


def feed_step(
  loss_fn: base.LossFn,
  optimizer: optax.GradientTransformation,
  *,
  micro_batch_size: int | None = None,
  group_size: int = 1,
  has_aux: bool = False,
  donate: bool = False,
) -> FedStep:
  """A training step as `train_step`, of batches that it reads from a feed.

  The host goes over the micro-batches, reads each while the one before it is
  computed, and waits for the batch size between two steps. A test that takes a
  second pass over the examples holds those of a batch.

  Args:
    loss_fn: As in `train_step`.
    optimizer: As in `train_step`; one that evaluates the loss again, such as a
      line search, cannot be fed.
    micro_batch_size: The number of examples processed at once, a divisor of
      that of the feed and a multiple of group_size. None: that of the feed.
    group_size: As in `train_step`. What is left of a stream and fills no group
      has no part in it.
    has_aux: As in `train_step`.
    donate: Whether a step overwrites the state that it is given.

  Returns:
    step(state, feed) → (state, metrics). Counts of examples are modulo 2³¹. A
    batch is smaller than its size where the stream ends; after that the step
    raises StopIteration.

  Raises:
    ValueError: As `train_step`; from the step for a state that the feed cannot
      go on from, and sizes that do not divide.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> loss_fn = lambda params, batch: jnp.mean((params - batch) ** 2)
    >>> optimizer = adaopt.adadagrad(
    ...   0.5, adaopt.norm_test(eta=0.5), init_batch_size=4, max_batch_size=64)
    >>> step = adaopt.feed_step(loss_fn, optimizer)
    >>> state = adaopt.init_train_state(jnp.array(0.0), optimizer)
    >>> feed = adaopt.feed((i % 7 for i in range(30)), micro_batch_size=8)
    >>> for _ in range(3):
    ...   state, metrics = step(state, feed)
    ...   print(metrics.batch_size, metrics.examples)
    4 4
    4 8
    4 12
  """
  checks.check_flag(donate=donate)
  checks.check_integer(1, group_size=group_size)
  if micro_batch_size is not None:
    checks.check_integer(1, micro_batch_size=micro_batch_size)

  def recipe(size):
    return fed_recipe(
      loss_fn,
      optimizer,
      micro_batch_size=size,
      group_size=group_size,
      has_aux=has_aux,
    )

  recipe(micro_batch_size or group_size)  # Checks its arguments.

  @functools.cache
  def of_size(size, layout):
    jit = functools.cache(jax.jit)
    return drivers.hosted(
      steps.parts_of(recipe(size), donate)._replace(layout=layout),
      functools.partial(_passes, jit, size, group_size),
      lambda window: window.first,
    )

  def step(state, feed):
    train_state.check_state(state)
    if not isinstance(feed, feeding.Feed):
      raise ValueError(
        f'feed must be made by adaopt.feed(source), got {feed!r}.'
      )
    feed.place(meshes.rows_beside(state))
    position = feed.locate(int(jax.device_get(state.examples)))
    if is_over(feed, position, group_size):
      raise StopIteration(f'the source of the feed ended at {position}.')
    m = checks.num_examples(feed.read(position).examples)
    size = micro_batch_size or m
    check_sizes(m, size, group_size)
    _, first = next(blocks(feed, position, position + 1, size, group_size))
    step_of = of_size(size, placing.layout_of(state))
    result = step_of(state, Window(feed, position, first))
    feed.start_prefetch()
    return result

  return step


def check_sizes(m: int, size: int, group_size: int) -> None:
  """Raises ValueError unless micro-batches of a feed can be divided so."""
  if m % size or size % group_size:
    raise ValueError(
      f'a micro-batch of the feed has {m} examples; that must be a multiple of '
      f'micro_batch_size={size}, and that of group_size={group_size}.'
    )


def fed_recipe(*args, **options) -> recipes.Recipe:
  """The recipe of arguments of `feed_step`."""
  return recipes.recipe_of(
    *args,
    **options,
    draw=stream.draw_from_block,
    take=recipes.take_from_block,
  )


def _passes(jit, size, group_size, plan, state, window):
  """What goes over the micro-batches of a batch, once for each pass."""
  start = window.position
  stop = start + int(jit(plan.num_examples)(state))
  window.feed.begin(start, stop)
  second = any(one.along is not None for one in plan.measurements)
  each = blocks(window.feed, start, stop, size, group_size)
  passes = iter(itertools.tee(each, 1 + second))
  return lambda: next(passes)
