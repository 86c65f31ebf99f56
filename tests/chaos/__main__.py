"""Kills, full disks, second processes and a soak: python tests/chaos

Runs adaopt.experiments.compare on digits, ends it at random moments in every
way there is, resumes it, and compares what is left at the end with what an
undisturbed run leaves, but for the seconds. `make chaos` runs it. With
--soak_minutes it also stops and resumes a long run for so long, and looks at
its memory.
"""

import collections
import itertools
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any, NamedTuple

import jax
import processes
import soak
from absl import app, flags

_KILLS = flags.DEFINE_integer('kills', 300, 'Kills.', lower_bound=0)
_DISKS = flags.DEFINE_integer('disks', 20, 'Full disks.', lower_bound=0)
_LIMITS = flags.DEFINE_integer('limits', 20, 'Limited files.', lower_bound=0)
_LOCKS = flags.DEFINE_integer('locks', 10, 'Second processes.', lower_bound=0)
_SOAK_MINUTES = flags.DEFINE_float(
  'soak_minutes', 0.0, 'Minutes of a long run.', lower_bound=0.0
)
_CHAOS_SEED = flags.DEFINE_integer('chaos_seed', 0, 'Seed of the moments.')

KILLS_A_ROUND = 10
AS_A_USER = 0.05  # of the processes that are killed: they take seconds to start
COMPILING = 0.1  # of them find nothing compiled
SAVING = 0.4  # are ended while they save

WAYS = {
  'SIGKILL': (signal.SIGKILL,),
  'SIGTERM': (signal.SIGTERM,),
  'Ctrl-C': (signal.SIGINT,),
  'Ctrl-C twice': (signal.SIGINT, signal.SIGINT),
}

FULL = ('[Errno 28] No space left on device: ', '[Errno 27] File too large: ')
WRONG = ('stuck', 'different', 'refused', 'without a word', 'grown')


class Undisturbed(NamedTuple):
  """A run that nothing happens to."""

  chosen: tuple[str, ...]
  left: dict[str, Any]  # at its end
  seconds: float


def run_undisturbed(
  chosen: tuple[str, ...], workdir: pathlib.Path
) -> Undisturbed:
  """Runs it twice: the second time finds compiled what it needs."""
  for _ in range(2):
    shutil.rmtree(workdir, ignore_errors=True)
    begin = time.monotonic()
    process = processes.fork(workdir, chosen)
    if processes.finish(process) != 0:
      sys.exit(process.log.read_text())
    seconds = time.monotonic() - begin
  print(f'{" ".join(chosen)}: {seconds:.1f} s undisturbed.', flush=True)
  return Undisturbed(chosen, processes.left(workdir), seconds)


def _judge(kind, workdir, process, whole):
  """What came of a run that should finish; keeps what went wrong."""
  status = processes.finish(process)
  if status is None:
    verdict = 'stuck'
  elif status:
    verdict = 'refused'
  else:
    same = processes.left(workdir) == whole.left
    verdict = 'identical' if same else 'different'
  if verdict != 'identical':
    kept = pathlib.Path(tempfile.gettempdir(), f'chaos_{time.time_ns()}')
    shutil.copytree(workdir, kept)
    shutil.copy(process.log, f'{kept}.log')
    print(f'{kind}: {verdict}; see {kept} and {kept}.log', flush=True)
  return f'{kind}: runs {verdict}'


def _compile_anew():
  jax.config.update('jax_enable_compilation_cache', False)


def _wait_for_a_moment(process, workdir, seconds):
  """Waits until a random moment, or one of saving; returns whether it is one.

  A process that never saves is left to end.
  """
  if random.random() > SAVING:
    time.sleep(random.uniform(0, seconds))
    return False
  while not any(workdir.glob('*/seed_*/checkpoints/*tmp*')):
    if not processes.is_running(process):
      return False
    time.sleep(0.002)
  time.sleep(random.uniform(0, 0.05))
  return True


def _kill(process, way):
  """Ends a process in one of the ways; False if it had ended before."""
  killed = False
  for number in WAYS[way]:
    if killed:
      time.sleep(random.uniform(0, 0.5))
    if processes.is_running(process):
      os.kill(process.pid, number)
      killed = True
  return killed


def kills(workdir, whole, counts):
  """Kills and resumptions, and a last start that is left alone."""
  for _ in range(KILLS_A_ROUND):
    compiling, seconds = random.random() < COMPILING, whole.seconds
    if random.random() < AS_A_USER:
      process = processes.spawn(workdir, whole.chosen)
      seconds *= 3
    elif compiling:
      process = processes.fork(workdir, whole.chosen, _compile_anew)
    else:
      process = processes.fork(workdir, whole.chosen)
    saving = _wait_for_a_moment(process, workdir, seconds)
    way = random.choice(list(WAYS))
    if _kill(process, way):
      counts[f'kills: {way}'] += 1
      counts['of them while saving'] += saving
      counts['of them with nothing compiled'] += compiling
    if processes.finish(process) is None:
      counts['kills: stuck'] += 1
    if processes.is_done(workdir):
      break
  process = processes.fork(workdir, whole.chosen)
  counts[_judge('kills', workdir, process, whole)] += 1
  # What no one caught; threads of orbax may print errors of their own.
  if re.search(r'compare.py", line \d+, in run_all', process.log.read_text()):
    counts['kills: ended without a word'] += 1


def _ending(process):
  """How a process ended that had no room."""
  status = processes.finish(process)
  if status is None:
    return 'stuck'
  if status == 0:
    return 'had room'
  time.sleep(0.5)  # for who writes the log
  # Threads of orbax may have words of their own behind it.
  said = any(words in process.log.read_text() for words in FULL)
  return 'ended in words' if said else 'ended without a word'


def full_disk(workdir, whole, counts):
  """A disk that is full at a random moment, and then has room."""
  workdir.mkdir()
  disk = ['tmpfs', '-t', 'tmpfs', str(workdir)]
  size = random.randrange(2**12, 2**19)
  subprocess.run(['mount', *disk, '-o', f'size={size}'], check=True)
  try:
    process = processes.fork(workdir, whole.chosen)
    counts[f'full disks: {_ending(process)}'] += 1
    subprocess.run(['mount', *disk, '-o', 'remount,size=64m'], check=True)
    process = processes.fork(workdir, whole.chosen)
    counts[_judge('full disks', workdir, process, whole)] += 1
  finally:
    subprocess.run(['umount', str(workdir)], check=True)


def limited_files(workdir, whole, counts):
  """Files that may not outgrow a random size, and then may."""
  size = int(2 ** random.uniform(9, 15))

  def limit():
    # The log, which is a file too, is written by another process.
    command = ['tee', '-a', f'{workdir}.log']
    log = subprocess.Popen(
      command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    for descriptor in (1, 2):
      os.dup2(log.stdin.fileno(), descriptor)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

  process = processes.fork(workdir, whole.chosen, limit)
  counts[f'limited files: {_ending(process)}'] += 1
  process = processes.fork(workdir, whole.chosen)
  counts[_judge('limited files', workdir, process, whole)] += 1


def second_process(workdir, whole, counts):
  """A second process in the folder, and a third after the first was killed."""
  first = processes.fork(workdir, whole.chosen)
  while not (workdir / 'lock').exists():
    time.sleep(0.01)
  os.kill(first.pid, signal.SIGSTOP)  # or it might end too early
  second = processes.fork(workdir, whole.chosen)
  status = processes.finish(second)
  os.kill(first.pid, signal.SIGCONT)
  said = f'in use by process {first.pid} on ' in second.log.read_text()
  how = 'told of the first' if status == 1 and said else 'without a word'
  counts[f'second processes: {how}'] += 1
  if random.random() < 0.5:
    os.kill(first.pid, signal.SIGKILL)
    processes.finish(first)
    first = processes.fork(workdir, whole.chosen)
  counts[_judge('second processes', workdir, first, whole)] += 1


def main(argv: list[str]) -> None:
  """Runs all, prints the counts; exits with 1 if anything went wrong."""
  del argv
  random.seed(_CHAOS_SEED.value)
  counts, begin = collections.Counter(), time.monotonic()
  # Not a TemporaryDirectory: the end of any fork would delete it.
  folder = pathlib.Path(tempfile.mkdtemp())
  fresh = (folder / str(i) for i in itertools.count())
  wholes = itertools.cycle(
    [
      run_undisturbed(chosen, next(fresh))
      for chosen in (processes.ALONE, processes.TOGETHER)
    ]
  )
  disks = _DISKS.value
  if os.geteuid():
    print('Full disks are left out: only root can mount one.')
    disks = 0
  for number, disturb in (
    (disks, full_disk),
    (_LIMITS.value, limited_files),
    (_LOCKS.value, second_process),
  ):
    for _ in range(number):
      disturb(next(fresh), next(wholes), counts)
      print(dict(counts), flush=True)
  while sum(counts[f'kills: {way}'] for way in WAYS) < _KILLS.value:
    kills(next(fresh), next(wholes), counts)
    print(dict(counts), flush=True)
  if _SOAK_MINUTES.value:
    starts = soak.soak(next(fresh), _SOAK_MINUTES.value)
    if starts is None:
      counts['soak: stuck or refused'] += 1
    else:
      counts['soak: starts'] += len(starts)
      counts['soak: memory has grown'] += soak.has_grown(starts)
  shutil.rmtree(folder)
  for name, count in sorted(counts.items()):
    print(f'{count:5d} {name}')
  print(f'{time.monotonic() - begin:.0f} s')
  sys.exit(any(x for name, x in counts.items() for y in WRONG if y in name))


if __name__ == '__main__':
  app.run(main)
