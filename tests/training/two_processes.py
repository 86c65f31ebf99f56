"""One of two processes of four devices each, that train one model together.

  python -m tests.training.two_processes PROCESS PORT FOLDER

Prints a line for each way to hand over the data, and saves a run in a folder.
"""

import functools
import sys

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import adaopt
from tests.training import shared_run


def ways_of_data(process, rows):
  """How a state is put on the mesh, and the dataset beside it."""
  x = shared_run.X
  half = x[48 * process : 48 * process + 48]
  whole_rows = jax.make_array_from_process_local_data(rows, half)
  return {
    'the same arrays': (shared_run.whole, x),
    'global arrays': (shared_run.whole, whole_rows),
    'fully sharded': (shared_run.in_parts, x),
    'a half each': (shared_run.whole, half),
    'of two lengths': (shared_run.whole, x[: 40 + process]),
  }


def ways_of_feeds(process, rows):
  """Sources of micro-batches."""
  batches = shared_run.micro_batches()
  from_rows = functools.partial(jax.make_array_from_process_local_data, rows)
  own = [np.split(batch, 2)[process] for batch in batches]

  def failing():
    yield from batches[:5]
    if process == 1:
      raise OSError('the disk is gone')
    yield from batches[5:]

  return {
    'a feed of the same': batches,
    'a feed of rows': map(from_rows, own),
    'feeds of two lengths': batches[: 9 + process],
    'rows of two lengths': map(from_rows, own[: 10 - process]),
    'feeds of other data': batches[process:],
    'feeds of other shapes': [batch[:, process:] for batch in batches],
    'a feed that fails in one': failing(),
  }


def main(process, port, folder):
  jax.config.update('jax_num_cpu_devices', 4)
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  jax.distributed.initialize(f'localhost:{port}', 2, process)
  mesh = shared_run.mesh_of(8)
  rows = NamedSharding(mesh, P('data'))

  def report(name, dataset, spec_of=shared_run.whole, state=None, **options):
    state = state or shared_run.new_state()
    state = shared_run.place(state, mesh, spec_of)
    try:
      found = shared_run.run(state, dataset, **options)
    except (OSError, ValueError) as error:
      found = [error]
    print(name, *found, sep='; ', flush=True)

  for name, (spec_of, dataset) in ways_of_data(process, rows).items():
    report(name, dataset, spec_of)
  report('other seeds', shared_run.X, state=shared_run.new_state(seed=process))
  state = shared_run.new_state()
  state = state._replace(params={'w': state.params['w'] + process})
  report('other parameters', shared_run.X, state=state)
  timed = dict(optimizer=shared_run.TIMED)
  report('seconds', shared_run.X, state=shared_run.new_state(**timed), **timed)
  report('other budgets', shared_run.X, num_examples=300 + process)
  optimizer = shared_run.optimizer_of(64 + process)
  report('other optimizers', shared_run.X, optimizer=optimizer)
  for name, source in ways_of_feeds(process, rows).items():
    report(name, adaopt.feed(source))
  state = shared_run.new_state()
  shared_run.save(folder, shared_run.place(state, mesh, shared_run.in_parts))


if __name__ == '__main__':
  main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
