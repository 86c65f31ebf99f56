"""Wrong calls of `statistics`, `per_example` and `bridges`."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

import adaopt
from adaopt import bridges, per_example, statistics
from tests.wrong_calls import kinds
from tests.wrong_calls.of_optimizers import STATISTICS
from tests.wrong_calls.table import Case, kind

PARAMS = {'w': jnp.ones(2)}
BATCH = {'x': jnp.ones([4, 2])}


def loss_fn(params, batch):
  """A mean over examples."""
  return jnp.mean((batch['x'] @ params['w']) ** 2)


def loss_of_key(params, batch, key):
  """One that draws random numbers."""
  return jax.random.uniform(key) * loss_fn(params, batch)


def loss_of_state(params, batch, model_state):
  """One with a model state."""
  return loss_fn(params, batch), model_state


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
axis_name = kind(
  'of jax.shard_map, jax.vmap or jax.pmap', 'devices', 3, ('x', 'y')
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


def of_examples(public, **more):
  """Wrong calls of an estimate of `per_example`."""

  def call(loss_fn=loss_fn, params=PARAMS, batch=BATCH, has_aux=False, **kw):
    return public(loss_fn, has_aux=has_aux)(params, batch, **kw, **more)

  return [
    Case(
      public,
      dict(loss_fn=loss_fn),
      dict(
        loss_fn=kinds.functions_of('(params, batch) -> loss'),
        has_aux=kinds.flag,
      ),
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
      axis_name=axis_name,
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
    lambda statistics: adapted_by(statistics),
  ),
]


def adapted_by(found):
  """An update by statistics."""
  transform = adaopt.adapt_batch_size(
    adaopt.norm_test(0.5), init_batch_size=2, max_batch_size=8
  )
  return transform.update(found, transform.init(None), statistics=found)


def in_map(function):
  """A function of devices, mapped over an axis x of four."""
  return lambda **arguments: jax.vmap(
    lambda w: function(w, **arguments), axis_name='x'
  )(jnp.arange(8.0).reshape(4, 2))


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
on_devices = [
  Case(
    statistics.device_statistics,
    dict(axis_name='x', group_size=4),
    dict(
      axis_name=axis_name + kind('of jax.shard_map', None),
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
      axis_name=axis_name + kind('of jax.shard_map', None),
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

MODEL = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
LINEN = nn.Dense(1)
VARIABLES = LINEN.init(jax.random.key(0), jnp.ones([1, 2]))
bridge_loss = lambda model, batch: jnp.mean(model(batch['x']) ** 2)


def run(bridge):
  """The loss of a bridge."""
  return bridge.loss_fn(
    bridge.params, BATCH, jax.random.key(0), bridge.model_state
  )


loss_of_model = kinds.functions_of('(model, batch) → loss') + kind(
  'cannot be called with', kinds.no_argument, shown='no_argument'
)
in_bridges = [
  Case(
    bridges.nnx_loss,
    dict(model=MODEL, loss=bridge_loss),
    dict(
      loss=loss_of_model,
      model=kind('an nnx.Module', nnx.Linear, shown='got the class Linear')
      + kind('an nnx.Module', LINEN, shown='got Dense')
      + kind('an nnx.Module', None, 'model', abs, {}, PARAMS, shown='got'),
      wrt=kind('name what is to be trained', nnx.BatchStat, shown='BatchStat')
      + kind('wrt=nnx.Param', 0.5, None, {}, shown='wrt='),
    ),
  ),
  Case(
    bridges.linen_loss,
    dict(model=LINEN, variables=VARIABLES, loss=bridge_loss),
    dict(
      loss=loss_of_model,
      model=kind('a module of Linen', nn.Dense, shown='got the class Dense')
      + kind('a module of Linen', MODEL, shown='got Linear')
      + kind('a module of Linen', None, 'model', abs, {}, shown='got'),
      variables=kind(
        'what model.init returned', {}, {'batch_stats': {}}, shown='got ['
      )
      + kind('what model.init returned', {'params': {}}, shown="['params']")
      + kind(
        'what model.init returned',
        None,
        'x',
        1.0,
        abs,
        jnp.ones(2),
        MODEL,
        shown='got',
      ),
      streams=kind('a sequence of names', 'dropout', shown="'dropout'")
      + kind('a sequence of names', None, 1, [1], [None], abs, shown='got'),
    ),
  ),
  *(
    Case(
      bridges.Bridge,
      dict(loss=bridge_loss),
      dict(
        loss=kind('or the pair (loss, aux)', lambda *_: (1, 2, 3), shown='of 3')
      ),
      call,
    )
    for call in (
      lambda loss: run(bridges.nnx_loss(MODEL, loss)),
      lambda loss: run(bridges.linen_loss(LINEN, VARIABLES, loss)),
    )
  ),
]
CASES = [*in_statistics, *in_examples, *on_devices, *in_bridges]
