"""What every script of the experiments shares on its command line."""

import os

from absl import flags

DATA_DIR = flags.DEFINE_string(
  'data_dir',
  os.environ.get('ADAOPT_DATA'),
  'Where the data sets lie. By default the variable ADAOPT_DATA.',
)


def set_defaults() -> None:
  """Keeps JAX's notes on the accelerators it did not find off the screen."""
  flags.FLAGS.set_default('verbosity', -1)
