"""Runs an experiment: python -m experiments.main --config=… --workdir=…"""

import pathlib
import sys

from absl import app, flags
from ml_collections import config_flags

from experiments import options, results, runs, train

_CONFIG = config_flags.DEFINE_config_file(
  'config', help_string='The config file; --config.key=value overrides it.'
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Where the results go.', required=True
)


def main(argv: list[str]) -> None:
  """Trains every scheme of the config and prints the table."""
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments: {" ".join(argv[1:])}')
  options.quiet()
  try:
    planned = runs.plan(_CONFIG.value, options.DATA_DIR.value)
    pathlib.Path(_WORKDIR.value).mkdir(parents=True, exist_ok=True)
  except (OSError, ValueError) as error:
    sys.exit(str(error))
  except KeyboardInterrupt:
    sys.exit('Interrupted before the first run.')
  rows = train.run_all(planned, _CONFIG.value, _WORKDIR.value)
  print(results.table(rows))
  print(f'Picture: {pathlib.Path(_WORKDIR.value, "curves.png")}')


if __name__ == '__main__':
  flags.mark_flag_as_required('config')
  app.run(main)
