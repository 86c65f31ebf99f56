"""Command-line flags that the experiment scripts share."""

import os

from absl import flags, logging
from ml_collections import config_flags

CONFIG = config_flags.DEFINE_config_file(
  'config', help_string='The config file; --config.key=value overrides it.'
)
SCHEMES = flags.DEFINE_list(
  'schemes', None, 'Schemes of the config to run. Default: all.'
)
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
