"""Wrong calls with losses: `statistics` and `per_example`."""

import jax
import jax.numpy as jnp
import numpy as np

import adaopt
from adaopt import per_example, statistics
from tests.wrong_calls import kinds
from tests.wrong_calls.right import (
  BATCH,
  BOUNDS,
  PARAMS,
  STATISTICS,
  loss_fn,
  loss_of_key,
  loss_of_state,
  update,
)
from tests.wrong_calls.table import Case, kind


def weighted(total, weight):
  """A loss function that returns a weighted loss, made of this one's value."""
  return lambda params, batch: adaopt.WeightedLoss(
    total(loss_fn(params, batch)), weight(loss_fn(params, batch))
  )


same, one = lambda x: x, lambda x: jnp.ones([])
weighted_losses = (
  kind('a real scalar', weighted(lambda x: x[None], one), shown='float32[1]')
  + kind('a real scalar', weighted(lambda x: x * 1j, one), shown='complex64[]')
  + kind('return the sum', weighted(lambda x: 1.0, one), shown='1.0')
  + kind('return the sum', weighted(lambda x: None, one), shown='None')
  + kind('a real scalar', weighted(same, lambda x: x[None]), shown='float32[1]')
  + kind('a real scalar', weighted(same, lambda x: 1j), shown='1j')
  + kind('a real scalar', weighted(same, lambda x: None), shown='None')
  + kind('a real scalar', weighted(same, lambda x: '1'), shown="'1'")
)
with_aux = (
  kind('must return (loss, aux)', loss_fn, shown='with has_aux=True')
  + kind('must return (loss, aux)', lambda *_: [1, 2], shown='returned list')
  + kind(
    'must return (loss, aux)', lambda *_: (1, 2, 3), shown='returned tuple'
  )
  + kind('must return (loss, aux)', kinds.returns_none, shown='NoneType')
)
with_state = (
  kind('must return', lambda params, batch, model_state: None, shown='NoneType')
  + kind(
    'must return',
    lambda params, batch, model_state: jnp.ones([]),
    shown='returned Array',
  )
  + kind(
    'of the structure that it was given',
    lambda params, batch, model_state: (loss_fn(params, batch), {}),
    shown='got PyTreeDef',
  )
  + kind(
    'must keep its shape [2]',
    lambda params, batch, model_state: (
      loss_fn(params, batch),
      {'n': jnp.ones(3)},
    ),
    shown='got [3]',
  )
  + kind(
    'which cannot be averaged',
    lambda params, batch, model_state: (
      loss_fn(params, batch),
      {'n': jax.random.split(jax.random.key(0))},
    ),
    shown='key<',
  )
)
key = (
  kind('as jax.random.key makes it', jax.random.PRNGKey(0), shown='uint32')
  + kind('as jax.random.key makes it', 0, shown='int')
  + kind('as jax.random.key makes it', 'key', shown='str')
  + kind('as jax.random.key makes it', np.ones(4), shown='float64')
  + kind(
    'one for each of 4 examples',
    jax.random.split(jax.random.key(0), 3),
    shown='got [3]',
  )
  + kind(
    'one for each of 4 examples',
    jax.random.split(jax.random.key(0), (4, 1)),
    shown='got [4, 1]',
  )
  + kind('pass key=', None, shown='none was passed')
)
mask = (
  kind('one for each of 4 examples', jnp.ones(3, bool), shown='got bool[3]')
  + kind('must be bools', jnp.ones(4), shown='got float32[4]')
  + kind('must be bools', np.ones(4, int), shown='got int')
  + kind('must be bools', jnp.ones([4, 1], bool), shown='got bool[4, 1]')
  + kind('must be bools', True, shown='got bool[]')
  + kind('must be bools', 'all', ['no'], abs, {})
)


passed = {
  'params': kinds.params,
  'batch': kinds.batch,
}


def estimated(
  loss_fn=loss_fn, params=PARAMS, batch=BATCH, has_aux=False, **options
):
  """Statistics, traced and never compiled."""
  options, keywords = dict(options), {}
  for name in ('key', 'mask', 'model_state'):
    if name in options:
      keywords[name] = options.pop(name)
  estimate = adaopt.value_and_statistics(loss_fn, has_aux=has_aux, **options)
  return estimate(params, batch, **keywords)


def of_examples(public, *given, **more):
  """Wrong calls of an estimate of `per_example`, with what else it is given."""

  def make(loss_fn=loss_fn, has_aux=False):
    return public(loss_fn, *given, has_aux=has_aux)

  def call(loss_fn=loss_fn, params=PARAMS, batch=BATCH, has_aux=False, **kw):
    return make(loss_fn, has_aux)(params, batch, **kw, **more)

  return [
    Case(
      public,
      dict(loss_fn=loss_fn),
      dict(
        loss_fn=kinds.functions_of('(params, batch) -> loss'),
        has_aux=kinds.flag,
      ),
      make,
    ),
    Case(
      public,
      {},
      dict(loss_fn=kinds.loss + kinds.returned_loss, **passed),
      call,
      named=dict(params='parameter', loss_fn='os'),
    ),
    Case(
      adaopt.WeightedLoss,
      {},
      dict(loss_fn=weighted_losses),
      call,
      named=dict(loss_fn='WeightedLoss.'),
    ),
    Case(
      public,
      dict(loss_fn=lambda *args: (loss_fn(*args), {})),
      dict(loss_fn=with_aux),
      lambda loss_fn: call(loss_fn, has_aux=True),
    ),
    Case(
      public,
      dict(loss_fn=loss_of_key, key=jax.random.key(0)),
      dict(key=key),
      call,
    ),
    Case(
      public,
      dict(loss_fn=loss_of_state, model_state={'n': jnp.ones(2)}),
      dict(
        model_state=kind('pass model_state=', None, shown='none was passed')
        + kind('a parameter key', {'k': jax.random.key(0)}, shown='random key'),
        loss_fn=with_state,
      ),
      call,
      named=dict(loss_fn='model_state'),
    ),
  ]


in_examples = [
  *of_examples(per_example.squared_norms),
  *of_examples(per_example.second_moment),
  *of_examples(per_example.mean_of_signs),
  *of_examples(per_example.inner_products, direction=PARAMS),
  Case(
    per_example.inner_products,
    dict(direction=PARAMS),
    dict(
      direction=kind(
        'must be like the parameters', None, {}, jnp.ones(2), shown='got'
      )
      + kind('the shape of its parameter', {'w': jnp.ones(3)}, shown='got [3]')
      + kind('only arrays', {'w': 'a'}, {'w': abs}, shown='is the')
    ),
    lambda direction: per_example.inner_products(loss_fn)(
      PARAMS, BATCH, direction
    ),
  ),
]

in_statistics = [
  Case(
    statistics.value_and_statistics,
    dict(loss_fn=loss_fn),
    dict(
      loss_fn=kinds.functions_of('(params, batch) -> loss'),
      group_size=kinds.count,
      has_aux=kinds.flag,
      only=kind(
        'a tuple of names', None, 'variance', 1, 0.5, abs, iter(['variance'])
      )
      + kind('must name some of variance', ['noise'], shown="got 'noise'")
      + kind('must name some of variance', [1], shown='got 1'),
    ),
  ),
  Case(
    statistics.value_and_statistics,
    {},
    dict(
      loss_fn=kinds.loss + kinds.returned_loss,
      mask=mask,
      axis_name=kinds.axis_name,
      group_size=kind('enlarge the batch', 3, shown='samples of 3')
      + kind('enlarge the batch', 4, 100, shown='a batch of 4'),
      model_state=kind('no parameter model_state', {}, 1, shown='was passed'),
      key=kind('no parameter key', jax.random.key(0), shown='was passed'),
      **passed,
    ),
    estimated,
    named=dict(params='parameter', loss_fn='os', group_size=''),
  ),
  Case(
    statistics.value_and_statistics,
    dict(loss_fn=lambda *args: (loss_fn(*args), {})),
    dict(loss_fn=with_aux),
    lambda loss_fn: estimated(loss_fn, has_aux=True),
  ),
  Case(
    statistics.value_and_statistics,
    dict(loss_fn=loss_of_key, key=jax.random.key(0)),
    dict(key=key),
    estimated,
  ),
  Case(
    statistics.value_and_statistics,
    dict(loss_fn=loss_of_state, model_state={'n': jnp.ones(2)}),
    dict(
      model_state=kind('pass model_state=', None, shown='none was passed')
      + kind('a parameter key', {'k': jax.random.key(0)}, shown='random key'),
      loss_fn=with_state,
    ),
    estimated,
    named=dict(loss_fn='model_state'),
  ),
  Case(
    statistics.check_independent_examples,
    dict(loss_fn=loss_fn, params=PARAMS, batch=BATCH),
    dict(
      loss_fn=kinds.loss
      + kinds.returned_loss
      + kind('pass model_state=', loss_of_state, shown='takes a model_state'),
      has_aux=kinds.flag
      + kind('must return (loss, aux)', True, shown='with has_aux=True'),
      model_state=kind('no parameter model_state', {}, 1, shown='was passed'),
      batch=kinds.batch
      + kind('at least two', {'x': jnp.ones([1, 2])}, shown='batch of 1'),
      params=kinds.params,
    ),
    named=dict(params='parameter', loss_fn='os', has_aux='has_aux'),
  ),
  Case(
    statistics.pad,
    dict(batch=BATCH, size=8),
    dict(
      batch=kinds.batch,
      size=kinds.count
      + kind('the largest batch size', 3, 1, shown='holds 4 examples'),
    ),
  ),
  Case(
    adaopt.GradientStatistics,
    dict(statistics=STATISTICS),
    dict(
      statistics=kind(
        'adaopt.GradientStatistics', {}, 1.0, jnp.ones(2), shown='got'
      )
      + kind(
        'unless only= leaves it out',
        STATISTICS._replace(variance=None, coordinate_variance=None),
        shown='which is None',
      )
    ),
    lambda statistics: update(
      adaopt.adapt_batch_size(adaopt.norm_test(0.5), **BOUNDS),
      statistics=statistics,
    ),
  ),
]


CASES = [*in_statistics, *in_examples]
