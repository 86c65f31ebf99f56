"""Shakespeare's plays as sequences of characters."""

import pathlib

import numpy as np

from adaopt.experiments.datasets import base

SHAKESPEARE = base.Source(
  folders=('text', '.'),
  origin='https://raw.githubusercontent.com/karpathy/char-rnn/master/data/'
  'tinyshakespeare/input.txt',
)

_FILE = 'tinyshakespeare.txt'
VOCABULARY = 65
_LENGTH = 128


def _windows(tokens: np.ndarray) -> dict[str, np.ndarray]:
  """Windows of 129 tokens, as the first 128 and the 128 that follow them."""
  width = _LENGTH + 1
  n = len(tokens) // width
  windows = tokens[: n * width].reshape(n, width)
  return {'input': windows[:, :-1], 'label': windows[:, 1:]}


def read_shakespeare(data_dir: str | None = None) -> np.ndarray:
  """Tiny Shakespeare as characters, [1 115 394] int32.

  A token is the index of its character among the 65 of the text in order; the
  line break is 0.

  Raises:
    FileNotFoundError: If the file is missing.
    ValueError: If the file has another text.

  References:
    Karpathy, `char-rnn <https://github.com/karpathy/char-rnn>`_, 2015
  """

  def find(folder: pathlib.Path) -> pathlib.Path | None:
    return base.first_file(folder, _FILE, ('',))

  path = base.search(
    find, SHAKESPEARE, data_dir, need=f'Shakespeare needs the file {_FILE}'
  )
  content = np.frombuffer(path.read_bytes(), np.uint8)
  vocabulary, tokens = np.unique(content, return_inverse=True)
  if len(vocabulary) != VOCABULARY:
    raise ValueError(
      f'{path} holds {len(vocabulary)} distinct characters, but Tiny '
      f'Shakespeare has {VOCABULARY}; get a fresh copy of it.'
    )
  if len(tokens) // 10 <= _LENGTH:
    raise ValueError(
      f'{path} holds {len(tokens)} characters: the tenth that is for testing '
      f'has no window of {_LENGTH + 1}; get a fresh copy of it.'
    )
  return tokens.astype(np.int32)


def load_shakespeare(data_dir: str | None = None) -> base.Dataset:
  """Tiny Shakespeare by characters: 7781 and 864 sequences of 128.

  The first 90 % of the text is for training, the rest for testing. Each part is
  cut into windows of 129 characters that do not overlap; the last 105 and 84
  characters of the parts are dropped. The label of a token is the next token.

  Inputs and labels are [n, 128] int32.

  Raises:
    FileNotFoundError: If the file is missing.
    ValueError: If the file has another text.
  """
  tokens = read_shakespeare(data_dir)
  train, test = np.split(tokens, [len(tokens) * 9 // 10])
  return base.Dataset(_windows(train), _windows(test))
