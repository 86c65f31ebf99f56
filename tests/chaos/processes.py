"""Runs of adaopt.experiments.compare that are started, ended and looked at."""

import atexit
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from absl import app, flags

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

# As in conftest.py, for forks and for processes that begin anew.
for name, value in (
  ('jax_compilation_cache_dir', str(ROOT / '.pytest_cache' / 'jax')),
  ('jax_persistent_cache_min_compile_time_secs', 0.0),
):
  jax.config.update(name, value)
  os.environ[name.upper()] = str(value)

from adaopt.experiments import compare, datasets  # noqa: E402
from adaopt.experiments.plots import comparison  # noqa: E402

datasets.DATASETS['digits'](None)  # for what it imports

PATIENCE = 180
"""Seconds after which a process counts as stuck."""

ARGUMENTS = (
  f'--config={ROOT}/experiments/configs/digits.py',
  '--config.num_examples=1500',
  '--config.eval_interval=500',
  '--config.schemes.adadagrad.max_batch_size=32',
  '--config.schemes.adagrad_8.batch_size=16',
  '--config.max_micro_batch_size=16',
  '--checkpoint_examples=200',
)

ALONE = ('--schemes=adadagrad',)
TOGETHER = ('--schemes=adagrad_8', '--seeds=2')  # as one program


class Process(NamedTuple):
  """A run of adaopt.experiments.compare."""

  pid: int
  log: pathlib.Path  # its output


def _arguments(workdir, chosen):
  return [*ARGUMENTS, *chosen, f'--workdir={workdir}']


def fork(
  workdir: pathlib.Path,
  chosen: tuple[str, ...],
  prepare: Callable[[], None] = lambda: None,
) -> Process:
  """Starts a process that has imported everything already.

  It draws no pictures, which would take half of its time.

  Args:
    workdir: Its workdir; its output is added to WORKDIR.log.
    chosen: `ALONE` or `TOGETHER`.
    prepare: What it does first.
  """
  log = pathlib.Path(f'{workdir}.log')
  pid = os.fork()
  if pid:
    return Process(pid, log)
  status = 1
  try:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    comparison.save = lambda curves, folder: None
    prepare()
    flags.FLAGS.unparse_flags()
    # Where ml_collections looks for what overrides a config.
    sys.argv = ['compare', *_arguments(workdir, chosen)]
    app.run(compare.main)
  except SystemExit as end:
    if isinstance(end.code, str):
      print(end.code, file=sys.stderr)
    status = end.code if isinstance(end.code, int) else int(bool(end.code))
  except BaseException:
    traceback.print_exc()
  finally:
    # Otherwise this process would go on as if it were the first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(status)


def spawn(workdir: pathlib.Path, chosen: tuple[str, ...]) -> Process:
  """Starts a process as a user does."""
  log = pathlib.Path(f'{workdir}.log')
  command = [sys.executable, '-m', 'adaopt.experiments.compare']
  with log.open('ab') as output:
    process = subprocess.Popen(
      command + _arguments(workdir, chosen),
      cwd=ROOT,
      stdout=output,
      stderr=output,
    )
  process.returncode = 0  # it is waited for by its pid
  return Process(process.pid, log)


def is_running(process: Process) -> bool:
  """Whether a process goes on."""
  options = os.WEXITED | os.WNOHANG | os.WNOWAIT
  return os.waitid(os.P_PID, process.pid, options) is None


def finish(process: Process) -> int | None:
  """The exit status, or None if it was stuck and has been killed."""
  end = time.monotonic() + PATIENCE
  while is_running(process):
    if time.monotonic() > end:
      os.kill(process.pid, signal.SIGKILL)
      os.waitpid(process.pid, 0)
      return None
    time.sleep(0.01)
  return os.waitstatus_to_exitcode(os.waitpid(process.pid, 0)[1])


def _folders(workdir):
  return sorted(workdir.glob('*/seed_*'))


def _read(path):
  return json.loads(path.read_text())


def is_done(workdir: pathlib.Path) -> bool:
  """Whether all runs have finished."""
  ends = [folder / 'end.json' for folder in _folders(workdir)]
  return bool(ends) and all(p.exists() and _read(p)['finished'] for p in ends)


def left(workdir: pathlib.Path) -> dict[str, Any]:
  """What finished runs leave, but for their seconds."""
  found = {}
  for folder in _folders(workdir):
    lines = (folder / 'metrics.jsonl').read_text().splitlines()
    steps = {int(p.name) for p in folder.glob('checkpoints/[0-9]*')}
    made_of = folder / 'checkpoints' / str(max(steps, default=0)) / 'made_of'
    found[folder.name] = {
      'metrics': [json.loads(line) | {'seconds': None} for line in lines],
      'run': _read(folder / 'run.json'),
      'state': _read(made_of / 'metadata') if steps else None,
    }
  return found
