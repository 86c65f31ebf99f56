"""Wrong calls of the sums of `per_example`: clipped, normalised, weighted."""

import jax.numpy as jnp
import numpy as np
import optax

from adaopt import per_example
from tests.wrong_calls import kinds
from tests.wrong_calls.of_losses import mask, of_examples
from tests.wrong_calls.right import BATCH, PARAMS, loss_fn
from tests.wrong_calls.table import INF, NAN, Case, kind

ONES = np.ones(4, np.float32)


def of_units(public, *given, **more):
  """Wrong calls of what all sums take."""

  def call(mask=None, group_size=1):
    summed = public(loss_fn, *given, group_size=group_size)
    return summed(PARAMS, BATCH, mask=mask, **more)

  return [
    *of_examples(public, *given, **more),
    Case(
      public,
      {},
      dict(
        mask=mask,
        group_size=kinds.count
        + kind('not a multiple of', 3, shown='group_size=3'),
      ),
      call,
    ),
  ]


max_norm = (
  kind('must be a number', '0.5', b'0.5', 1j, np.ones(2), kinds.Model)
  + kind('must be a number', optax.sgd)
  + kind('must be a number', {'w': '1'}, shown="got '1'")
  + kind('must be a number', [abs], shown='got <built-in function abs>')
  + kind('finite and at least 0', -1, -0.5, NAN, -INF)
  + kind('finite and at least 0', [1.0, NAN], shown='got nan')
  + kind('a number above 0', 0, 0.0, np.float32(0), True)
  + kind('a number above 0', {'w': 0.0}, shown='got 0.0')
  + kind('a bound or several', None, {}, [], ())
  + kind('a prefix of', {'v': 1.0}, [1.0, 2.0], {'w': {'a': 1.0}}, shown='got')
)
asked = 'real numbers [4], one for each unit'
weights = (
  kind(asked, None, 'ones', {}, shown='got')
  + kind(asked, 1.0, shown='got float32[]')
  + kind(asked, np.ones(3, np.float32), shown='got float32[3]')
  + kind(asked, 1j * ONES, shown='got complex64[4]')
  + kind('cannot be called with 2', kinds.no_argument, shown='no_argument')
  + kind('cannot be called with 2', lambda norms: norms, shown='lambda')
  + kind(asked, kinds.returns_none, shown='weights(norms, losses)')
  + kind(asked, kinds.returns_text, shown='weights(norms, losses)')
  + kind(asked, kinds.returns_vector, shown='got float32[3]')
  + kind(asked, kinds.returns_complex, shown='got complex64[]')
)
direction = (
  kind('must be like the parameters', {}, jnp.ones(2), shown='got')
  + kind('the shape of its parameter', {'w': jnp.ones(3)}, shown='got [3]')
  + kind('only arrays', {'w': 'a'}, {'w': abs}, shown='is the')
)

CASES = [
  *of_units(per_example.clipped_sum, 1.0),
  *of_units(per_example.normalized_sum),
  *of_units(per_example.weighted_sum, weights=lambda norms, losses: 1 / norms),
  Case(
    per_example.clipped_sum,
    dict(max_norm=1.0),
    dict(max_norm=max_norm),
    lambda max_norm: per_example.clipped_sum(loss_fn, max_norm)(PARAMS, BATCH),
  ),
  Case(
    per_example.normalized_sum,
    dict(loss_fn=loss_fn, gamma=0.1),
    dict(gamma=kinds.not_negative),
  ),
  Case(
    per_example.weighted_sum,
    dict(weights=ONES),
    dict(weights=weights),
    lambda weights: per_example.weighted_sum(loss_fn)(PARAMS, BATCH, weights),
  ),
  Case(
    per_example.weighted_sum,
    dict(direction=PARAMS),
    dict(direction=direction),
    lambda direction: per_example.weighted_sum(loss_fn)(
      PARAMS, BATCH, lambda *known: known[2], direction=direction
    ),
  ),
]
