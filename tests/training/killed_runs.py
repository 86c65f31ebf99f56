"""Trains from a feed, saves every step, and resumes the newest that is whole.

Run by feed_states_test.py as a program of its own, which is killed. With a
second argument it also trains without a stop, and prints whether the resumed
run ended in the same bits, and after which step it resumed.
"""

import pathlib
import sys

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp

from tests.training import feed_states_test as runs


def train(feed, start, save):
  state = start
  for state, _ in runs.steps(feed, start):
    save(state)
  return state


def main(folder, compares):
  options = ocp.CheckpointManagerOptions(max_to_keep=2)
  manager = ocp.CheckpointManager(folder, options=options)
  start = runs.start()
  state, feed = start, runs.feed_of('filtered and shuffled')
  newest = manager.latest_step()
  if newest is not None:
    restore = ocp.args.Composite(
      state=ocp.args.StandardRestore(start),
      feed=grain.checkpoint.CheckpointRestore(feed),
    )
    state = manager.restore(newest, args=restore).state

  def save(state):
    args = ocp.args.Composite(
      state=ocp.args.StandardSave(state),
      feed=grain.checkpoint.CheckpointSave(feed),
    )
    manager.save(int(state.step), args=args)
    print('saved', int(state.step), flush=True)

  state = train(feed, state, save)
  manager.wait_until_finished()
  if compares:
    feed = runs.feed_of('filtered and shuffled')
    whole = train(feed, start, lambda state: None)
    same = jax.tree.leaves(jax.tree.map(np.array_equal, state, whole))
    print(f'after {newest} the same {all(same)}')


if __name__ == '__main__':
  main(pathlib.Path(sys.argv[1]), len(sys.argv) > 2)
