"""Experiments, run as a user runs them."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


def python(*arguments: str) -> subprocess.CompletedProcess:
  """What `python ARGUMENTS` leaves: exit status and output."""
  return subprocess.run(
    [sys.executable, *arguments],
    cwd=ROOT,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    check=False,
  )


def run(module: str, *flags: str) -> subprocess.CompletedProcess:
  """As `python`, of `python -m adaopt.experiments.MODULE`."""
  return python('-m', f'adaopt.experiments.{module}', *flags)
