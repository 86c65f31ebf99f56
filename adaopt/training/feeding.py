"""Feeds: examples that are read one after the other, as the stream of a run.

A feed reads micro-batches of m examples. A batch [p, p + b) of the stream takes
the micro-batches that it touches, the first and the last of them in part, by a
mask: what one batch leaves of a micro-batch the next one takes. So batches have
any size, no example is left out, and none is taken twice.

The next micro-batch is read and sent to the devices once the work on the last
one is dispatched, while it is computed. What is kept are the micro-batches in
which the last two batches begin and the last one ends: every state that a run
may go on from lies in one of them. With each goes where the source stood before
it, so that `get_state` is right for the last state that was yielded, whatever
was read ahead.

Positions are integers of the host, of any size. A train state has them modulo
2³¹, and the feed knows the rest.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
from absl import logging

from adaopt._common import arithmetic, base, checks
from adaopt.training import placing, sources


class Piece(NamedTuple):
  """A micro-batch as it was read."""

  first: int  # the position of its first example
  count: int  # how many examples it has, at most m
  mark: sources.Mark  # where the source stood before it
  examples: base.Batch = None  # [m, ...], filled up by the first one


class Feed(NamedTuple):
  """Examples that are read one after the other; `feed` makes it.

  Attributes:
    get_state: () → bytes of JSON: where the source stood for the train states
      of the last two steps, that which `fit` yielded last among them.
    set_state: bytes → None: makes the feed go on from there.
    start_prefetch: () → None: reads ahead of the last batch.
    place: sharding → None: micro-batches are put there, if nothing else is
      said.
    locate: the count of examples of a train state → its position.
    read: position → the micro-batch that holds it; None behind the last one.
    begin: (start, stop) → None: the next batch is [start, stop).
  """

  get_state: Callable[[], bytes]
  set_state: Callable[[bytes], None]
  start_prefetch: Callable[[], None]
  place: Callable[[jax.sharding.Sharding | None], None]
  locate: Callable[[int], int]
  read: Callable[[int], Piece | None]
  begin: Callable[[int, int], None]


def feed(
  source: Iterable[Any],
  *,
  micro_batch_size: int | None = None,
  sharding: jax.sharding.Sharding | None = None,
) -> Feed:
  """A stream of examples from an iterable, such as a dataset of grain.

  `fit` takes it in the place of a dataset, `feed_step` in a loop of one's own.
  Its order is that of the source: shuffle there. Where the source ends so does
  the run, with a batch of what is left.

  Args:
    source: An iterable of examples, pytrees of arrays of one shape; or, without
      micro_batch_size, of micro-batches [m, ...], of which the last may be
      shorter. If it has `get_state` and `set_state`, as the iterators of grain
      have, a run resumes in mid-stream; any other source is read again from
      its beginning.
    micro_batch_size: m, the number of examples to stack. They are processed at
      once. None: the source yields micro-batches.
    sharding: Where to put micro-batches. By default the devices of the mesh
      that holds the train state share each out, see `meshes`. Arrays that are
      committed to devices stay there.

  Returns:
    The feed. It remembers how far it was read, and serves one run. Save it
    beside the train state by `get_state`, and go on by `set_state`: it can be
    passed to `grain.checkpoint.CheckpointSave` and `CheckpointRestore`.

  Raises:
    ValueError: If the source cannot be iterated over, or micro_batch_size is
      not a positive integer; from reading, for elements that differ in
      structure or shape or do not hold numbers.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> loss_fn = lambda params, batch: jnp.mean((params - batch) ** 2)
    >>> optimizer = adaopt.adadagrad(
    ...   0.5, adaopt.norm_test(eta=0.5), init_batch_size=4, max_batch_size=64)
    >>> feed = adaopt.feed((i % 7 for i in range(30)), micro_batch_size=8)
    >>> for state, metrics in adaopt.fit(
    ...     loss_fn, optimizer, jnp.array(0.0), feed):
    ...   print(metrics.batch_size, metrics.examples)
    4 4
    4 8
    4 12
    4 16
    11 27
    3 30
  """
  if not sources.iterates(source) or isinstance(source, Mapping):
    raise ValueError(
      'a feed takes an iterable of examples or of micro-batches, got '
      f'{type(source).__name__}; pass arrays to fit as they are.'
    )
  if micro_batch_size is not None:
    checks.check_integer(1, micro_batch_size=micro_batch_size)
  if not isinstance(sharding, jax.sharding.Sharding | None):
    raise ValueError(
      'sharding must be a jax.sharding.Sharding, such as NamedSharding(mesh, '
      f'spec), got {sharding!r}.'
    )
  size, begins = micro_batch_size, [Piece(0, 0, sources.Mark(0))]
  reader, pieces, wanted = None, [], [0]
  ended, failure, target = False, None, None
  is_spent = warned = False

  def start(piece):
    nonlocal reader, wanted, is_spent
    if is_spent:
      raise ValueError(
        'the source of the feed is an iterator that cannot go back; make a '
        'feed of a new one.'
      )
    is_spent = sources.is_read_once(source)
    reader = sources.opened(source, micro_batch_size, piece.mark)
    wanted = [piece.first]

  def end():
    return pieces[-1].first + pieces[-1].count if pieces else wanted[0]

  def fetch():
    """Reads a micro-batch. What goes wrong is kept until it is needed."""
    nonlocal ended, failure
    try:
      pieces.append(next_piece())
    except StopIteration:
      ended = True
    except BaseException as error:
      failure = error
      if not isinstance(error, Exception):  # No source outlives Ctrl-C.
        raise
    pieces[:-2] = [
      piece for piece in pieces[:-2] if any(_holds(piece, p) for p in wanted)
    ]

  def next_piece():
    nonlocal size
    mark = reader.mark()
    batch = reader.read()
    count = checks.num_examples(batch)
    if pieces and pieces[-1].count < size:
      raise ValueError(
        f'a micro-batch of the feed has {pieces[-1].count} examples, fewer '
        f'than the {size} of the first, and is not the last one; repeat a '
        'dataset before it is batched, or feed single examples.'
      )
    size = max(size or 0, count)
    filled = sources.filled(batch, size)
    placing.check_shares(size, target)
    return Piece(end(), count, mark, placing.placed(filled, target))

  def place(sharding_of_state):
    nonlocal target
    target = sharding or sharding_of_state
    pieces[:] = [
      piece._replace(examples=placing.placed(piece.examples, target))
      for piece in pieces
    ]

  def locate(count):
    known = pieces or begins
    offset_in = lambda piece: (count - piece.first) & arithmetic.LARGEST
    found = [piece for piece in known if offset_in(piece) <= piece.count]
    if not found:
      raise ValueError(
        f'the train state has consumed {count} examples, and the feed can go '
        f'on between {known[0].first} and {known[-1].first + known[-1].count}: '
        'give its set_state what get_state returned when the state was saved; '
        'a new stream starts from state._replace(examples=jnp.int32(0)).'
      )
    if reader is None:
      start(found[-1])
    return found[-1].first + offset_in(found[-1])

  def read(position):
    while position >= end() and not ended:
      if failure is not None:
        raise failure
      fetch()
    for piece in pieces:
      if _holds(piece, position):
        return piece
    if position < end():
      raise ValueError(
        f'the feed has gone on from position {position}; call its set_state '
        'with what its get_state returns.'
      )
    return None

  def begin(first, stop):
    nonlocal wanted
    *_, before = wanted[:2]  # where the last batch began
    wanted = [before, first, stop]

  def start_prefetch():
    used = pieces and pieces[-1].first < wanted[-1]
    if used and not ended and failure is None:
      fetch()

  def get_state():
    nonlocal warned
    if not warned and pieces and pieces[0].mark.source is None:
      warned = True
      logging.warning(
        'The iterator of a feed has no get_state and set_state: a run that '
        'resumes will read the source from its beginning, and go on right only '
        'if that yields the same again.'
      )
    return sources.saved([size, [piece[:3] for piece in pieces or begins]])

  def set_state(state):
    nonlocal size, begins, reader, ended, failure
    saved_size, known = sources.restored(state)
    size = micro_batch_size or saved_size
    begins = [Piece(*piece) for piece in known]
    reader, ended, failure = None, False, None
    pieces.clear()

  return Feed(get_state, set_state, start_prefetch, place, locate, read, begin)


def _holds(piece, position):
  return piece.first <= position < piece.first + piece.count
