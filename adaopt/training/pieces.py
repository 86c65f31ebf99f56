"""Pieces of a stream: the micro-batches that are kept of it, in their order."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from adaopt._common import arithmetic, base
from adaopt.training import sources


class Piece(NamedTuple):
  """A micro-batch as it was read."""

  first: int  # the position of its first example
  count: int  # how many examples it has, at most m
  mark: sources.Mark  # where the source stood before it
  examples: base.Batch = None  # [m, ...], filled up by the first one


def end(piece: Piece) -> int:
  """The position behind a piece."""
  return piece.first + piece.count


def holding(pieces: Iterable[Piece], position: int) -> Piece | None:
  """The piece that holds a position, if one does."""
  for piece in pieces:
    if piece.first <= position < end(piece):
      return piece
  return None


def kept(pieces: Sequence[Piece], positions: Sequence[int]) -> list[Piece]:
  """The pieces that hold one of some positions, and the last one."""
  holds_one = lambda piece: any(holding([piece], p) for p in positions)
  return [*filter(holds_one, pieces[:-1]), *pieces[-1:]]


def located(pieces: Sequence[Piece], count: int) -> tuple[Piece, int]:
  """The last piece where a train state may stand, and its position.

  Args:
    pieces: The pieces.
    count: The examples that the state has consumed, modulo 2³¹.

  Returns:
    The piece, and the position, at most behind it.

  Raises:
    ValueError: If the state stands in no piece.
  """
  for piece in reversed(pieces):
    offset = (count - piece.first) & arithmetic.LARGEST
    if offset <= piece.count:
      return piece, piece.first + offset
  raise ValueError(
    f'the train state has consumed {count} examples, and the feed can go on '
    f'between {pieces[0].first} and {end(pieces[-1])}: give its set_state what '
    'get_state returned when the state was saved; a new stream starts from '
    'state._replace(examples=jnp.int32(0)).'
  )
