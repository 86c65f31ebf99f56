"""Interrupts training by SIGINT again and again, and resumes what was left.

Run by interruption_test.py as a program of its own, since a signal strikes
anywhere. Prints how many runs were interrupted and how many of the resumed runs
ended in other bits.
"""

import os
import signal
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np

import adaopt
from adaopt import training

DRIVERS = {'traced': training.traced, 'dispatched': training.dispatched}
OPTIMIZER = adaopt.adadagrad(
  0.5, adaopt.norm_test(0.3), init_batch_size=4, max_batch_size=64
)
DATASET = np.random.default_rng(0).normal(1.0, size=[256, 3]).astype('f4')


def loss_fn(params, batch):
  return jnp.mean((params['w'] - batch) ** 2)


def train(last, driver):
  """Trains on from the last state of a list, which it keeps up to date."""
  for state, _ in adaopt.fit(
    loss_fn,
    OPTIMIZER,
    last[-1],
    DATASET,
    num_examples=6000,
    max_micro_batch_size=8,
    driver=driver,
  ):
    last[:] = [state]


def interrupt(last, driver, delay):
  """Whether a SIGINT after a delay ended a run."""
  kill = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
  try:
    kill.start()
    train(last, driver)
    kill.join()
    time.sleep(1.0)  # The signal comes here if the run was over before it.
  except KeyboardInterrupt:
    return int(last[-1].examples) < 6000
  return False


def main(driver, times):
  # A job in the background may have been started with SIGINT ignored.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  start = adaopt.init_train_state({'w': jnp.zeros(3)}, OPTIMIZER)
  train([start], driver)
  begin, whole = time.perf_counter(), [start]
  train(whole, driver)
  seconds = time.perf_counter() - begin
  interrupted = differ = 0
  for i in range(times):
    last = [start]
    interrupted += interrupt(last, driver, seconds * i / times)
    train(last, driver)
    same = jax.tree.map(np.array_equal, last, whole)
    differ += not all(jax.tree.leaves(same))
  print(f'interrupted {interrupted}, differ {differ}')


if __name__ == '__main__':
  main(DRIVERS[sys.argv[1]], int(sys.argv[2]))
