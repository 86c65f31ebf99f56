"""Wrong calls of `bridges`."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

from adaopt import bridges
from tests.wrong_calls import kinds
from tests.wrong_calls.right import BATCH, PARAMS
from tests.wrong_calls.table import Case, kind

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
CASES = [
  Case(
    bridges.nnx_loss,
    dict(model=MODEL, loss=bridge_loss),
    dict(
      loss=loss_of_model,
      model=kind('an nnx.Module', nnx.Linear, shown='got the class Linear')
      + kind('an nnx.Module', LINEN, shown='got Dense')
      + kind('an nnx.Module', None, 'model', abs, {}, PARAMS, shown='got'),
      wrt=kind('name what is to be trained', nnx.BatchStat, shown='BatchStat')
      + kind('wrt=nnx.Param', 0.5, 7, {}, shown='wrt='),
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
