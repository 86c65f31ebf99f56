"""Trains on a file that is larger than the memory it may have.

Run by feed_states_test.py as a program of its own, whose memory is limited.
Prints how many examples it trained on, and whether the file fits.
"""

import os
import pathlib
import resource
import sys

import grain
import jax.numpy as jnp
import numpy as np
import optax

import adaopt

ROWS, WIDTH, EVERY = 8192, 8192, 64
BYTES = 4 * WIDTH
MEMORY = 128 * 2**20  # beyond what a run takes that has begun; the file: 256


class Rows:
  """A source of grain that reads a row at a time."""

  def __init__(self, path):
    self.file = os.open(path, os.O_RDONLY)

  def __len__(self):
    return ROWS

  def __getitem__(self, index):
    return np.frombuffer(os.pread(self.file, BYTES, index * BYTES), np.float32)


def write(path):
  """Every 64th row of ones; the rest is left out of the disk."""
  with open(path, 'wb') as file:
    file.truncate(ROWS * BYTES)
    for index in range(0, ROWS, EVERY):
      file.seek(index * BYTES)
      file.write(np.ones(WIDTH, np.float32).tobytes())


def limit():
  pages = int(pathlib.Path('/proc/self/statm').read_text().split()[0])
  most = pages * resource.getpagesize() + MEMORY
  resource.setrlimit(resource.RLIMIT_AS, (most, most))


def loss_fn(params, batch):
  return jnp.mean((params - batch) ** 2)


def fits(path):
  try:
    np.fromfile(path, np.float32)
  except MemoryError:
    return False
  return True


def main(path):
  write(path)
  dataset = grain.MapDataset.source(Rows(path)).shuffle(0)
  optimizer = optax.chain(adaopt.schedule_batch_size(100), optax.sgd(200.0))
  feed = adaopt.feed(dataset, micro_batch_size=64)
  steps = adaopt.fit(loss_fn, optimizer, jnp.zeros([1, WIDTH]), feed)
  next(steps)
  limit()
  *_, (state, metrics) = steps
  print(f'trained on {metrics.examples}, the file fits: {fits(path)}')
  print('mean', float(state.params.mean() * EVERY))


if __name__ == '__main__':
  main(pathlib.Path(sys.argv[1]))
