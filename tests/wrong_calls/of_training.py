"""Wrong calls of training steps and loops."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import adaopt
from adaopt import training
from tests.wrong_calls import kinds
from tests.wrong_calls.right import (
  ADAPTIVE,
  BATCH,
  PARAMS,
  loss_fn,
  loss_of_state,
)
from tests.wrong_calls.table import Case, kind

STATE = adaopt.init_train_state(PARAMS, ADAPTIVE)
optimizer = kinds.optimizer + kinds.without_batch_size
accumulating = kind(
  'Pass the optimizer within it',
  adaopt.accumulate(ADAPTIVE),
  shown='adaopt.accumulate',
) + kind(
  'Pass the optimizer within it',
  optax.MultiSteps(ADAPTIVE, 2).gradient_transformation(),
  shown='optax.MultiSteps',
)


RIGHT = object()


class Unhashable:
  """A loss function that can key no cache."""

  __hash__ = None

  def __call__(self, params, batch):
    return loss_fn(params, batch)


def first_step(
  loss_fn=loss_fn,
  optimizer=ADAPTIVE,
  state=STATE,
  dataset=BATCH,
  **options,
):
  """A first step."""
  step = training.train_step(loss_fn, optimizer, micro_batch_size=4, **options)
  return step(state, dataset)


in_steps = [
  Case(
    training.train_step,
    dict(loss_fn=loss_fn, optimizer=ADAPTIVE),
    dict(
      loss_fn=kinds.loss,
      optimizer=kinds.optimizer,
      micro_batch_size=kinds.count,
      group_size=kinds.count,
      has_aux=kinds.flag,
      donate=kinds.flag,
      draw=kinds.functions_of('(dataset, seed, positions) -> batch')
      + kind('cannot be called with', kinds.no_argument, abs, shown='got'),
      driver=kinds.functions_of('of the parts of a step')
      + kind('cannot be called with', kinds.no_argument, shown='no_argument'),
    ),
  ),
  Case(
    training.train_step,
    {},
    dict(
      loss_fn=kinds.returned_loss
      + kind(
        'model_state= to fit', loss_of_state, shown='the state holds none'
      ),
      dataset=tuple(w for w in kinds.batch if w.shown != 'iterator'),
      state=kind('init_train_state', None, {}, PARAMS, shown='got'),
      draw=kind('one for each position', kinds.returns_none, shown='got')
      + kind('one for each position', kinds.returns_text, shown='got')
      + kind(
        'one for each position',
        lambda dataset, *_: {'x': jnp.ones([3, 2])},
        shown='got leading axes [[3]]',
      ),
    ),
    first_step,
    named=dict(loss_fn='os'),
  ),
  *(
    Case(
      public,
      dict(parts=RIGHT),
      dict(
        parts=kind('pass the driver itself', None, 1.0, abs, {}, loss_fn, STATE)
      ),
      lambda parts, public=public: (
        public(parts)
        if parts is not RIGHT
        else training.train_step(loss_fn, ADAPTIVE, driver=public)
      ),
    )
    for public in (training.traced, training.dispatched, training.automatic)
  ),
  Case(
    training.largest_micro_batch_size,
    dict(
      loss_fn=loss_fn,
      optimizer=ADAPTIVE,
      state=STATE,
      dataset=BATCH,
      num_bytes=2**30,
      at_most=1,
    ),
    dict(
      loss_fn=kinds.loss,
      optimizer=kinds.optimizer,
      state=kind('init_train_state', None, {}, PARAMS, shown='got'),
      dataset=tuple(w for w in kinds.batch if w.shown != 'iterator'),
      num_bytes=kind('at least 1 and below 2^63', 0, -1, 4.0, '4', 2**63),
      at_most=kinds.count,
      group_size=kinds.count,
      has_aux=kinds.flag,
      draw=kinds.functions_of('(dataset, seed, positions) -> batch'),
    ),
  ),
  Case(
    training.feed_step,
    dict(loss_fn=loss_fn, optimizer=ADAPTIVE),
    dict(
      loss_fn=kinds.loss,
      optimizer=kinds.optimizer,
      micro_batch_size=tuple(w for w in kinds.count if w.value is not None),
      group_size=kinds.count,
      has_aux=kinds.flag,
      donate=kinds.flag,
    ),
  ),
  Case(
    training.feed_step,
    dict(state=STATE, feed=adaopt.feed([BATCH])),
    dict(
      feed=kind('adaopt.feed(', None, BATCH, iter([]), 1.0, adaopt.feed),
      state=kind('init_train_state', None, {}, PARAMS, shown='got'),
    ),
    lambda state, feed: training.feed_step(loss_fn, ADAPTIVE)(state, feed),
  ),
  Case(
    training.init_train_state,
    dict(params=PARAMS, optimizer=ADAPTIVE),
    dict(
      params=kinds.params,
      optimizer=optimizer + accumulating,
      seed=kinds.seed,
      model_state=kind('a parameter key', {'k': jax.random.key(0)}, shown='key')
      + kind('only arrays', {'n': 'a'}, abs, {'f': abs}, shown='model_state'),
    ),
    named=dict(params='parameter', optimizer='optim'),
  ),
  Case(
    adaopt.TrainState,
    dict(params_or_state=STATE),
    dict(
      params_or_state=kind(
        'of another optimizer',
        STATE._replace(opt_state=()),
        STATE._replace(opt_state=optax.adam(0.1).init(PARAMS)),
        shown='opt_state is',
      )
    ),
    lambda params_or_state: adaopt.fit(
      loss_fn, ADAPTIVE, params_or_state, BATCH, num_examples=4, check=False
    ),
    named=dict(params_or_state='state'),
  ),
]

FIT = dict(
  loss_fn=loss_fn,
  optimizer=ADAPTIVE,
  params_or_state=PARAMS,
  dataset=BATCH,
  num_examples=4,
)
in_loops = [
  Case(
    training.fit,
    FIT,
    dict(
      loss_fn=kinds.kept_loss
      + kinds.returned_loss
      + kind('must be hashable', Unhashable(), shown='got a Unhashable')
      + kind(
        'model_state= to fit', loss_of_state, shown='the state holds none'
      ),
      optimizer=optimizer + accumulating,
      params_or_state=kinds.params,
      dataset=tuple(w for w in kinds.batch if w.shown != 'iterator')
      + kind('pass adaopt.feed(it)', iter([1]), range(3), shown='dataset')
      + kind('pass adaopt.feed(it)', (x for x in [1]), shown='generator'),
      num_examples=kinds.count + kind('below 2^30', 2**30, shown='too large'),
      total_weight=tuple(w for w in kinds.positive if w.value is not None),
      seed=tuple(w for w in kinds.seed if w.value is not None),
      model_state=kind('no parameter model_state', {}, 1, shown='holds')
      + kind('a parameter key', {'k': jax.random.key(0)}, shown='random key'),
      max_micro_batch_size=tuple(w for w in kinds.count if w.value is not None),
      group_size=kinds.count,
      has_aux=kinds.flag,
      donate=kinds.flag,
      check=kinds.flag,
      draw=kinds.kept_functions_of('(dataset, seed, positions) -> batch')[1:]
      + kind('cannot be called with', kinds.no_argument, abs, shown='got'),
      driver=kinds.kept_functions_of('of the parts of a step')[1:]
      + kind('cannot be called with', kinds.no_argument, shown='no_argument'),
    ),
    named=dict(
      loss_fn='os',
      params_or_state='parameter',
      dataset='',
      optimizer='optim',
    ),
  ),
  Case(
    training.fit,
    dict(FIT, params_or_state=STATE),
    dict(
      seed=kind('with parameters only', 0, 3, shown='seed='),
      model_state=kind('with parameters only', {}, shown='of its own'),
    ),
  ),
  Case(
    training.iterate,
    dict(
      step_of=lambda size: lambda state, data: (state, None),
      state=STATE._replace(examples=jnp.int32(4)),
      dataset=BATCH,
      num_examples=4,
      max_micro_batch_size=4,
    ),
    dict(
      step_of=kinds.functions_of('of the micro-batch size')
      + kind('cannot be called with', kinds.no_argument, shown='no_argument'),
      state=kind('examples', None, {}, PARAMS, 1.0, shown='got'),
      dataset=kind('only arrays of numbers', {'x': 'a'}, shown="string 'a'")
      + kind('only arrays of numbers', {'x': np.array(['a'])}, shown='<U1')
      + kind('only arrays of numbers', {'x': abs}, shown="function 'abs'")
      + kind('only arrays of numbers', iter([1]), shown='iterator'),
      num_examples=kinds.count,
      total_weight=tuple(w for w in kinds.positive if w.value is not None),
      max_micro_batch_size=kinds.count,
      donate=kinds.flag,
      start=kinds.functions_of('(state, dataset)')
      + kind('cannot be called with', kinds.no_argument, shown='no_argument'),
    ),
  ),
]


CASES = [*in_steps, *in_loops]
