"""Sources of a feed: any iterable, read a micro-batch at a time.

A source says where it stands by `get_state` and goes there by `set_state`, as
the iterators of grain do. One without them is read again from its beginning,
as far as it had been read.
"""

import copy
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adaopt._common import base, checks


class Mark(NamedTuple):
  """Where a source stands."""

  elements: int  # how many were read of it
  source: Any = None  # what its get_state returned; None: it has none


class Reader(NamedTuple):
  """An opened source."""

  read: Callable[[], base.Batch]  # a micro-batch; StopIteration at the end
  mark: Callable[[], Mark]


def iterates(value: Any) -> bool:
  """Whether a value is read one after the other, and is no array."""
  is_array = hasattr(value, 'dtype') or hasattr(value, '__array__')
  return (
    not is_array and isinstance(value, Iterable) and not isinstance(value, str)
  )


def check_is_none(dataset: Any) -> None:
  """Raises ValueError for what is read one after the other, without a feed."""
  is_leaf = lambda x: jax.tree_util.all_leaves([x])
  for path, leaf in jax.tree_util.tree_leaves_with_path(dataset, is_leaf):
    if iterates(leaf):
      raise ValueError(
        f'dataset{jax.tree_util.keystr(path)} is a {type(leaf).__name__}, '
        'which is read one element after the other; pass adaopt.feed(it), with '
        'micro_batch_size= if it yields single examples.'
      )


def keeps_state(iterator: Any) -> bool:
  """Whether an iterator can say where it stands, and go there."""
  return all(hasattr(iterator, name) for name in ('get_state', 'set_state'))


def is_read_once(source: Iterable) -> bool:
  """Whether a source cannot be opened a second time."""
  return isinstance(source, Iterator) and not keeps_state(source)


def opened(
  source: Iterable, micro_batch_size: int | None, mark: Mark
) -> Reader:
  """Opens a source where it stood.

  Args:
    source: An iterable of examples, or of micro-batches.
    micro_batch_size: How many examples to stack; None: of micro-batches.
    mark: Where it stood.

  Returns:
    The reader. Its micro-batches are of one structure and one shape, but for
    the length of one that is shorter.

  Raises:
    ValueError: If the source ends before the mark; from `read` for elements
      that are not alike, or hold what is not a number.
  """
  iterator = iter(source)
  if mark.source is not None and keeps_state(iterator):
    iterator.set_state(copy.deepcopy(mark.source))
  else:
    skipped = sum(1 for _ in itertools.islice(iterator, mark.elements))
    if skipped < mark.elements:
      raise ValueError(
        f'the source of the feed ended after {skipped} elements, and '
        f'{mark.elements} of it were read when its state was saved; pass the '
        'same source.'
      )
  first, elements = None, mark.elements

  def one():
    nonlocal first, elements
    element = jax.tree.map(_array, next(iterator))
    checks.check_arrays(feed=element)
    if micro_batch_size is None:
      checks.num_examples(element, 'feed')
    first = layout(element) if first is None else first
    _check_alike(element, first, elements, micro_batch_size is None)
    elements += 1
    return element

  def stacked():
    examples = [one()]
    for _ in range(micro_batch_size - 1):
      try:
        examples.append(one())
      except StopIteration:
        break
    return jax.tree.map(lambda *xs: _library(xs[0]).stack(xs), *examples)

  def marked():
    if not keeps_state(iterator):
      return Mark(elements)
    return Mark(elements, copy.deepcopy(iterator.get_state()))

  return Reader(one if micro_batch_size is None else stacked, marked)


def filled(batch: base.Batch, size: int) -> base.Batch:
  """A micro-batch filled up to a size by its first example."""

  def fill(x):
    missing = size - len(x)
    xp = _library(x)
    first = xp.broadcast_to(x[:1], (missing, *x.shape[1:]))
    return xp.concatenate([x, first]) if missing else x

  return jax.tree.map(fill, batch)


def _library(x):
  return jnp if isinstance(x, jax.Array) else np


def _array(x):
  # A copy, since a source may fill the same buffer again.
  return x if isinstance(x, jax.Array) else np.array(x)


def layout(element: base.Batch) -> dict[str, tuple[Any, tuple[int, ...]]]:
  """The dtype and shape of every array, by its path."""
  return {
    jax.tree_util.keystr(path): (x.dtype, x.shape)
    for path, x in jax.tree_util.tree_leaves_with_path(element)
  }


def _check_alike(element, first, index, in_batches):
  """Raises ValueError unless an element is like the first one."""

  def comparable(found):
    if not in_batches:
      return found
    return {path: (x, shape[1:]) for path, (x, shape) in found.items()}

  found = layout(element)
  longer = in_batches and any(
    found[path][1][0] > shape[0]
    for path, (_, shape) in first.items()
    if path in found
  )
  if comparable(found) == comparable(first) and not longer:
    return
  described = lambda found: ', '.join(
    f'{path} {dtype}{list(shape)}'.strip()
    for path, (dtype, shape) in found.items()
  )
  raise ValueError(
    f'the elements of a feed must be of one structure, shape and dtype, and '
    f'element {index} is {described(found)}, where the first one is '
    f'{described(first)}; pad or crop them before the feed.'
  )


def saved(value: Any) -> bytes:
  """A value as JSON, such as marks; bytes that a source returned as text."""
  try:
    return json.dumps(value, default=_text).encode()
  except TypeError as error:
    raise ValueError(
      f'get_state of the source must return JSON or bytes: {error}.'
    ) from error


def restored(state: bytes) -> tuple[int | None, list[Any]]:
  """(size, pieces) that were saved; ValueError for what was not."""
  try:
    size, pieces = json.loads(
      state,
      object_hook=lambda x: x['bytes'].encode() if [*x] == ['bytes'] else x,
    )
    return size, [(first, count, Mark(*mark)) for first, count, mark in pieces]
  except (TypeError, ValueError) as error:
    raise ValueError(
      f'state must be what get_state returned, got {state!r}.'
    ) from error


def _text(value):
  if isinstance(value, bytes):
    return {'bytes': value.decode()}
  raise TypeError(f'a {type(value).__name__} is neither')
