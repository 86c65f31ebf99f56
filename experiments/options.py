"""What the scripts of the experiments share on their command lines."""

import os

from absl import flags, logging

DATA_DIR = flags.DEFINE_string(
  'data_dir',
  os.environ.get('ADAOPT_DATA'),
  'Where the data sets lie. By default the variable ADAOPT_DATA.',
)
WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Where the results of the runs are.'
)
SEEDS = flags.DEFINE_integer(
  'seeds', 1, 'How many seeds of each scheme.', lower_bound=1
)


def quiet() -> None:
  """Keeps JAX's notes on absent accelerators off, unless --verbosity is set."""
  if not flags.FLAGS['verbosity'].present:
    logging.set_verbosity(logging.WARNING)
