"""Wrong calls of statistics over devices."""

import jax.numpy as jnp

import adaopt
from adaopt import statistics
from tests.wrong_calls import kinds
from tests.wrong_calls.right import in_map
from tests.wrong_calls.table import Case, kind


def device_statistics(w, **arguments):
  """Of the loss and the gradient of a device, if no others are said."""
  arguments = dict(loss=jnp.sum(w), gradient={'w': w}) | arguments
  return adaopt.device_statistics(**arguments)


def shard_statistics(w, **arguments):
  """Likewise, without shards."""
  arguments = dict(loss=jnp.sum(w), gradient={'w': w}) | arguments
  return statistics.shard_statistics(**arguments)


device_loss = kind('the mean loss', None, 'x', abs, {}, 1j, shown='got') + kind(
  'the mean loss', jnp.ones(2), shown='got float32[2]'
)
CASES = [
  Case(
    statistics.device_statistics,
    dict(axis_name='x', group_size=4),
    dict(
      axis_name=kinds.axis_name + kind('of jax.shard_map', None),
      group_size=kinds.count,
      loss=device_loss,
      gradient=kind('only arrays', {'w': 'a'}, abs, shown='gradient')
      + kind('pass that of the loss', None, {}, shown='no array'),
    ),
    in_map(device_statistics),
  ),
  Case(
    statistics.shard_statistics,
    dict(axis_name='x', group_size=4, dimensions={'w': None}),
    dict(
      axis_name=kinds.axis_name + kind('of jax.shard_map', None),
      group_size=kinds.count,
      loss=device_loss
      + kind(
        'use device_statistics', adaopt.WeightedLoss(1.0, 1.0), shown='Weighted'
      ),
      gradient=kind('only arrays', {'w': 'a'}, abs, shown='gradient')
      + kind('pass that of the loss', None, {}, shown='no array'),
      dimensions=kind('like params', None, {}, 0, shown='got PyTreeDef')
      + kind('must be an integer', {'w': 'a'}, shown="got 'a'")
      + kind('must be an integer', {'w': 0.5}, shown='got 0.5')
      + kind('must be an integer', {'w': -1}, shown='got -1')
      + kind('must be axes', {'w': 1}, shown='got 1'),
    ),
    in_map(shard_statistics),
  ),
]
