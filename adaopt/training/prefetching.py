"""Micro-batches that are read and sent to devices before they are needed.

Each process of a mesh reads its own source. It tells the others what it found
when it has read a micro-batch, and hears of them when it takes it: in between
the devices pass that on, beside their work. So a stream ends on all processes
where it ends on one, and none waits for a micro-batch that another one lacks.
"""

import collections
from collections.abc import Callable
from typing import NamedTuple

import jax
from absl import logging

from adaopt._common import checks
from adaopt.training import agreeing, pieces, placing, sources

HAS, ENDED, FAILED = range(3)
"""What became of reading a micro-batch."""

Target = jax.sharding.Sharding | None
"""Where to put micro-batches."""


class Prefetch(NamedTuple):
  """Micro-batches in the order of a source."""

  fetch: Callable[[Target], None]  # reads one; keeps what goes wrong
  take: Callable[[Target], pieces.Piece]  # the next one; StopIteration: none
  count: Callable[[], int]  # how many were read and not taken


def lead(target: Target) -> int:
  """How many more micro-batches are to be read before one is computed with.

  Among processes one: what they tell each other about it is then ahead of the
  work in the queues of the devices, which never wait for the host.
  """
  return int(_is_of_several(target))


def _is_of_several(target):
  mesh = getattr(target, 'mesh', None)
  return len(agreeing.processes(mesh)) > 1


def opened(
  open_source: Callable[[], sources.Reader], first: int, size: int | None
) -> Prefetch:
  """Reads a source from where its reader stands.

  Args:
    open_source: () → the reader of the source; what it raises is kept as well.
    first: The position of the next example.
    size: m, the examples of a micro-batch; None: as many as the first one has.

  Returns:
    What reads and hands out. All processes of a mesh must call it alike.
  """
  queue = collections.deque()
  reader, stopped = None, None
  position, last_count = first, size

  def read(target):
    nonlocal reader, size, position, last_count
    reader = reader or open_source()
    mark = reader.mark()
    batch = reader.read()
    count = checks.num_examples(batch)
    if last_count != size:
      raise ValueError(
        f'a micro-batch of the feed has {last_count} examples, fewer than the '
        f'{size} of the first, and is not the last one; repeat a dataset '
        'before it is batched, or feed single examples.'
      )
    size = size or count
    placing.check_shares(size, target)
    compared = position, batch if position == first else sources.layout(batch)
    if count == size:
      batch = placing.placed(batch, target)
    piece = pieces.Piece(position, count, mark, batch)
    position, last_count = position + count, count
    return piece, compared

  def fetch(target):
    nonlocal stopped
    outcome, compared = stopped, ()
    if stopped is None:
      try:
        outcome, compared = read(target)
      except BaseException as error:
        stopped = outcome = error
        if not isinstance(error, Exception):  # No source outlives Ctrl-C.
          raise
    queue.append((outcome, _tell(outcome, compared, target)))

  def take(target):
    outcome, answers = queue.popleft()
    outcome = _agreed(outcome, answers())
    if not isinstance(outcome, pieces.Piece):
      raise outcome
    if outcome.count == size:
      return outcome
    # The last one. It is filled once all processes have it: a global array is
    # filled by all of its devices.
    filled = sources.filled(outcome.examples, size)
    return outcome._replace(examples=placing.placed(filled, target))

  return Prefetch(fetch, take, lambda: len(queue))


def _tell(outcome, compared, target):
  """Tells the other processes what was read: how to hear of them."""
  if not _is_of_several(target):
    return dict  # Nothing.
  status = FAILED
  if isinstance(outcome, pieces.Piece):
    status = HAS
  elif isinstance(outcome, StopIteration):
    status = ENDED
  return agreeing.ask(target.mesh, [status, agreeing.digest(compared)])


def _agreed(outcome, answers):
  """What all processes take for the outcome: a piece, or why there is none."""
  of = lambda kind: [p for p, (status, _) in answers.items() if status == kind]
  if of(FAILED):
    if not isinstance(outcome, pieces.Piece | StopIteration):
      return outcome
    return ValueError(
      f'the source of the feed failed in process {of(FAILED)[0]}, where its '
      'error says why; the other processes cannot go on without it.'
    )
  if of(ENDED):
    if of(HAS):
      logging.warning(
        'The source of the feed ended in process %d and has more in process '
        '%d: the run ends there in all.',
        of(ENDED)[0],
        of(HAS)[0],
      )
    return StopIteration()
  if len({digest for _, digest in answers.values()}) > 1:
    return ValueError(
      f'the {len(answers)} processes read different micro-batches at position '
      f'{outcome.first}, and a run takes one: yield the same arrays on all, or '
      'global arrays of their rows by jax.make_array_from_process_local_data.'
    )
  return outcome
