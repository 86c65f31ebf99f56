"""Experiments, run as a user runs them."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


def run(module: str, *flags: str) -> subprocess.CompletedProcess:
  """What `python -m experiments.MODULE` leaves: exit status and output."""
  return subprocess.run(
    [sys.executable, '-m', f'experiments.{module}', *flags],
    cwd=ROOT,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    check=False,
  )
