"""Feeds: examples that are read one after the other, as the stream of a run.

A feed reads micro-batches of m examples. A batch [p, p + b) of the stream takes
the micro-batches that it touches, the first and the last of them in part, by a
mask: what one batch leaves of a micro-batch the next one takes. So batches have
any size, no example is left out, and none is taken twice.

The next micro-batch is read and sent to the devices once the work on the last
one is dispatched, while it is computed; see `prefetching`. What is kept are the
micro-batches in which the last two batches begin and the last one ends: every
state that a run may go on from lies in one of them. With each goes where the
source stood before it, so that `get_state` is right for the last state that was
yielded, whatever was read ahead.

Positions are integers of the host, of any size. A train state has them modulo
2³¹, and the feed knows the rest.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
from absl import logging

from adaopt._common import checks
from adaopt.training import pieces, placing, prefetching, sources


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
  read: Callable[[int], pieces.Piece | None]
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

  Of several processes that share a mesh each has its own feed. Either all yield
  the same arrays of the host; or each reads rows of its own, and its source
  yields global arrays of the rows of all, which take no micro_batch_size:

    dataset.batch(m // jax.process_count()).map(
      lambda rows: jax.make_array_from_process_local_data(sharding, rows))

  The first micro-batches are compared, of arrays of the host the numbers, and
  of all others the shapes. Where one stream ends the run ends on all processes,
  with a warning if another has more.

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
      structure or shape or do not hold numbers, and on all processes where
      those of one differ from those of another, or its source fails.

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
  size, begins = micro_batch_size, [pieces.Piece(0, 0, sources.Mark(0))]
  held, wanted = [], [0]  # pieces, and the positions that they are kept for
  prefetch, target = None, None
  is_over = is_spent = warned = False

  def start(piece):
    nonlocal prefetch, wanted, is_spent
    if is_spent:
      raise ValueError(
        'the source of the feed is an iterator that cannot go back; make a '
        'feed of a new one.'
      )
    is_spent = sources.is_read_once(source)
    prefetch = prefetching.opened(
      lambda: sources.opened(source, micro_batch_size, piece.mark),
      piece.first,
      size,
    )
    wanted = [piece.first]

  def end():
    return pieces.end(held[-1]) if held else wanted[0]

  def take():
    nonlocal size, held, is_over
    fetch_ahead(1)
    try:
      piece = prefetch.take(target)
    except StopIteration:
      is_over = True
      return
    size = checks.num_examples(piece.examples)
    held = pieces.kept([*held, piece], wanted)

  def fetch_ahead(number):
    while prefetch.count() < number and not is_over:
      prefetch.fetch(target)

  def place(sharding_of_state):
    nonlocal target, held
    target = sharding or sharding_of_state
    held = [
      piece._replace(examples=placing.placed(piece.examples, target))
      for piece in held
    ]

  def locate(count):
    piece, position = pieces.located(held or begins, count)
    if prefetch is None:
      start(piece)
    return position

  def read(position):
    while position >= end() and not is_over:
      take()
    fetch_ahead(prefetching.lead(target))
    if position >= end():
      return None
    piece = pieces.holding(held, position)
    if piece is None:
      raise ValueError(
        f'the feed has gone on from position {position}; call its set_state '
        'with what its get_state returns.'
      )
    return piece

  def begin(first, stop):
    nonlocal wanted
    *_, before = wanted[:2]  # where the last batch began
    wanted = [before, first, stop]

  def start_prefetch():
    if held:
      fetch_ahead(1 + prefetching.lead(target))

  def get_state():
    nonlocal warned
    if not warned and held and held[0].mark.source is None:
      warned = True
      logging.warning(
        'The iterator of a feed has no get_state and set_state: a run that '
        'resumes will read the source from its beginning, and go on right only '
        'if that yields the same again.'
      )
    return sources.saved([size, [piece[:3] for piece in held or begins]])

  def set_state(state):
    nonlocal size, begins, held, prefetch, is_over
    saved_size, known = sources.restored(state)
    size = micro_batch_size or saved_size
    begins = [pieces.Piece(*piece) for piece in known]
    held, prefetch, is_over = [], None, False

  return Feed(get_state, set_state, start_prefetch, place, locate, read, begin)
