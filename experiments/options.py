"""Command-line flags that the experiment scripts share."""

import os
import pathlib
import sys

from absl import flags, logging

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
