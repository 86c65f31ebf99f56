"""The flags, and the ends, of scripts that run a config."""

import contextlib
import errno
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
def ending_in_words(resumes: str) -> Iterator[None]:
  """Ends the script with a sentence for what a user can mend.

  Args:
    resumes: What the same command does after an interruption.
  """
  try:
    yield
  except OSError as error:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    sys.exit(f'{error}; make room, then {resumes}' if full else str(error))
  except ValueError as error:
    sys.exit(str(error))
  except KeyboardInterrupt:
    sys.exit(f'Interrupted; {resumes}')
