"""A long run that is stopped and resumed again and again, and its memory."""

import os
import pathlib
import random
import re
import signal
import statistics
import time
from typing import NamedTuple

import processes

ENDLESS = (*processes.ALONE, f'--config.num_examples={2**30 - 1}')
WARM = 3000  # examples after which a process holds all that it needs
SECONDS = (30, 60)  # from then on until it is stopped

FLAT = 0.05
"""The share of its memory that a process may gain before it counts as grown."""


class Start(NamedTuple):
  """What a process held that was started and stopped."""

  examples: int  # of the run so far
  warm: float  # MB of memory when it was warm
  last: float  # MB before it was stopped


def _memory(process):
  """MB that a process holds."""
  status = pathlib.Path(f'/proc/{process.pid}/status').read_text()
  return int(re.search(r'VmRSS:\s+(\d+)', status)[1]) / 1024


def _consumed(workdir):
  """Examples that a run has consumed, by the end of its metrics."""
  for path in workdir.glob('*/seed_*/metrics.jsonl'):
    with path.open('rb') as lines:
      lines.seek(max(0, lines.seek(0, os.SEEK_END) - 4096))
      return int([0, *re.findall(rb'"examples": (\d+)', lines.read())][-1])
  return 0


def soak(workdir: pathlib.Path, minutes: float) -> list[Start] | None:
  """Stops a run by SIGTERM and resumes it, until the minutes are over.

  Args:
    workdir: Its workdir.
    minutes: How long.

  Returns:
    What each process held; None if one did not end in time, or failed.
  """
  end, starts = time.monotonic() + 60 * minutes, []
  while time.monotonic() < end:
    before = _consumed(workdir)
    process = processes.spawn(workdir, ENDLESS)
    while _consumed(workdir) < before + WARM and processes.is_running(process):
      time.sleep(0.5)
    warm = _memory(process)
    time.sleep(random.uniform(*SECONDS))
    last = _memory(process)
    os.kill(process.pid, signal.SIGTERM)
    if processes.finish(process) != 0:
      return None
    starts.append(Start(_consumed(workdir), warm, last))
    print(starts[-1], flush=True)
  return starts


def has_grown(starts: list[Start]) -> bool:
  """Whether processes gained memory, one by one or from start to start."""
  half = len(starts) // 2
  gains = [start.last / start.warm - 1 for start in starts]
  early, late = (
    statistics.median(start.last for start in part)
    for part in (starts[: half + 1], starts[half:])
  )
  return statistics.median(gains) > FLAT or late / early - 1 > FLAT
