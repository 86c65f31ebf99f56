"""Command-line flags that the experiment scripts share."""

import os
import pathlib
import sys
from collections.abc import Callable
from typing import TypeVar

from absl import flags, logging

Data = TypeVar('Data')

DATA_DIR = flags.DEFINE_string(
  'data_dir',
  os.environ.get('ADAOPT_DATA'),
  'Folder of the data sets. Default: the environment variable ADAOPT_DATA.',
)
WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the results.')
SEEDS = flags.DEFINE_integer(
  'seeds', 1, 'Number of seeds per scheme.', lower_bound=1
)


def quiet() -> None:
  """Hides JAX's notes on missing accelerators unless --verbosity is set."""
  if not flags.FLAGS['verbosity'].present:
    logging.set_verbosity(logging.WARNING)


def load(read: Callable[[str | None], Data]) -> Data:
  """What a loader makes of --data_dir.

  Ends the script with a sentence if files are missing or damaged.
  """
  try:
    return read(DATA_DIR.value)
  except (OSError, ValueError) as error:
    sys.exit(str(error))


def make_workdir() -> pathlib.Path:
  """The folder of the results, made where it is missing.

  Ends the script with a sentence if it cannot be made.
  """
  folder = pathlib.Path(WORKDIR.value)
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    sys.exit(str(error))
  return folder
