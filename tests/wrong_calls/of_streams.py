"""Wrong calls of streams and feeds."""

import jax
import jax.numpy as jnp
import numpy as np

import adaopt
from adaopt import training
from tests.wrong_calls import kinds
from tests.wrong_calls.right import BATCH, G
from tests.wrong_calls.table import Case, kind

SHORT = {'x': jnp.ones([1, 2])}


def read_all(feed):
  """Reads a feed to its end."""
  feed.locate(0)
  return feed.read(100)


CASES = [
  Case(
    training.example_indices,
    dict(seed=0, positions=jnp.arange(3), num_examples=5),
    dict(seed=kinds.seed, positions=kinds.positions, num_examples=kinds.count),
  ),
  Case(
    training.example_keys,
    dict(seed=0, positions=jnp.arange(3)),
    dict(
      seed=kinds.seed,
      positions=kinds.positions
      + kind('must be [b]', 3, shown='got []')
      + kind('must be [b]', jnp.ones([2, 3], int), shown='got [2, 3]'),
    ),
  ),
  Case(
    training.draw,
    dict(dataset=BATCH, seed=0, positions=jnp.arange(3)),
    dict(dataset=kinds.batch, seed=kinds.seed, positions=kinds.positions),
    named=dict(dataset=''),
  ),
  Case(
    training.feed,
    dict(source=[BATCH]),
    dict(
      source=kind('pass arrays to fit', None, 1.0, abs, shown='got')
      + kind('pass arrays to fit', jnp.ones(3), np.ones(3), shown='rray')
      + kind('pass arrays to fit', 'text', shown='got str')
      + kind('pass arrays to fit', BATCH, shown='got dict'),
      micro_batch_size=tuple(w for w in kinds.count if w.value is not None),
      sharding=kind('a jax.sharding.Sharding', 'x', 1, jax.devices()[0], abs),
    ),
    named=dict(source='iterable'),
  ),
  Case(
    training.Feed,
    dict(source=[BATCH]),
    dict(
      source=kind('of one structure', [BATCH, {'y': G}], shown='element 1')
      + kind('leading example axis', [1.0], shown='feed is a scalar')
      + kind('only arrays of numbers', [{'x': 'a'}], shown='<U1')
      + kind('pad or crop them', [SHORT, BATCH], shown='element 1')
      + kind('repeat a dataset', [BATCH, SHORT, BATCH], shown='fewer')
    ),
    lambda source: read_all(adaopt.feed(source)),
    named=dict(source='feed'),
  ),
  Case(
    training.Feed,
    dict(state=adaopt.feed([BATCH]).get_state()),
    dict(
      state=kind('what get_state returned', None, b'', b'{}', 'x', 1, b'[1]')
    ),
    lambda state: adaopt.feed([BATCH]).set_state(state),
  ),
]
