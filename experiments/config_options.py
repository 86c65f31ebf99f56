"""The flags, and the ends, of scripts that run a config."""

import contextlib
import sys
from collections.abc import Iterator

from absl import flags
from ml_collections import config_flags

CONFIG = config_flags.DEFINE_config_file(
  'config', help_string='The config file; --config.key=value overrides it.'
)
SCHEMES = flags.DEFINE_list(
  'schemes', None, 'Schemes of the config to run. Default: all.'
)


@contextlib.contextmanager
def ending_in_words(interrupted: str) -> Iterator[None]:
  """Ends the script with a sentence for what a user can mend.

  Args:
    interrupted: What to say after Ctrl-C.
  """
  try:
    yield
  except (OSError, ValueError) as error:
    sys.exit(str(error))
  except KeyboardInterrupt:
    sys.exit(interrupted)
