"""The speeches of a play as padded sequences, and as a stream of grain."""

import functools
import itertools

import grain
import numpy as np


def cut(text: np.ndarray, length: int) -> np.ndarray:
  """Cuts a text behind every blank line, and longer speeches into pieces.

  Args:
    text: Tokens, of which 0 is the line break. [n] int32.
    length: T, the most tokens of a piece.

  Returns:
    Where each piece begins and ends, [k, 2]: every token is in one.
  """
  behind = 2 + np.flatnonzero((text[:-1] == 0) & (text[1:] == 0))
  edges = np.unique([0, *behind, len(text)])
  return np.array(
    [
      (begin, min(begin + length, stop))
      for start, stop in itertools.pairwise(edges)
      for begin in range(start, stop, length)
    ]
  )


def sequence(
  text: np.ndarray, length: int, piece: np.ndarray
) -> dict[str, np.ndarray]:
  """A piece of a text, padded.

  Args:
    text: As for `cut`.
    length: T.
    piece: Its begin and its end, [2].

  Returns:
    'label' [T] int32, the tokens of the piece; 'input' [T] int32, those before
    each of them, a line break before the first of the text; and 'weight' [T]
    float32, 1 for a token and 0 for padding.
  """
  begin, end = piece
  padded = lambda x: np.pad(x, (0, length - len(x)))
  before = text[begin - 1 : end - 1] if begin else np.r_[0, text[: end - 1]]
  return {
    'input': padded(before[: end - begin]).astype(np.int32),
    'label': padded(text[begin:end]),
    'weight': padded(np.ones(end - begin, np.float32)),
  }


def stream(text: np.ndarray, length: int, seed: int) -> grain.MapDataset:
  """All sequences of a text without end, in a new order every time."""
  return (
    grain.MapDataset.source(cut(text, length))
    .seed(seed)
    .shuffle()
    .repeat()
    .map(functools.partial(sequence, text, length))
  )


def batches(
  text: np.ndarray, length: int, size: int
) -> list[dict[str, np.ndarray]]:
  """All sequences of a text once, the last batch filled up with empty ones."""
  pieces = cut(text, length)
  filled = np.pad(pieces, [(0, -len(pieces) % size), (0, 0)])
  rows = [sequence(text, length, piece) for piece in filled]
  return [
    {name: np.stack([row[name] for row in part]) for name in part[0]}
    for part in (rows[i : i + size] for i in range(0, len(rows), size))
  ]
