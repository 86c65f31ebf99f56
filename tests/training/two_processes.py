"""One of two processes of four devices each, that train one model together.

  python -m tests.training.two_processes PROCESS PORT

Prints a line for each way to hand over the data.
"""

import functools
import sys

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.training import shared_run


def place(mesh, spec_of, x):
  x = np.asarray(x)
  sharding = NamedSharding(mesh, spec_of(x))
  return jax.make_array_from_callback(x.shape, sharding, x.__getitem__)


def whole(x):
  del x
  return P()


def in_parts(x):
  return P('data') if x.ndim == 2 else P()


def main(process, port):
  jax.config.update('jax_num_cpu_devices', 4)
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  jax.distributed.initialize(f'localhost:{port}', 2, process)
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  x = shared_run.X
  half = x[48 * process : 48 * process + 48]
  rows = NamedSharding(mesh, P('data'))
  ways = {
    'the same arrays': (whole, x),
    'global arrays': (
      whole,
      jax.make_array_from_process_local_data(rows, half),
    ),
    'fully sharded': (in_parts, x),
    'a half each': (whole, half),
    'of two lengths': (whole, x[: 40 + process]),
  }
  for name, (spec_of, dataset) in ways.items():
    put = functools.partial(place, mesh, spec_of)
    state = jax.tree.map(put, shared_run.new_state())
    try:
      print(name, *shared_run.run(state, dataset), sep='; ', flush=True)
    except ValueError as error:
      print(name, error, sep='; ', flush=True)


if __name__ == '__main__':
  main(*map(int, sys.argv[1:]))
