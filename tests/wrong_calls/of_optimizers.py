"""Wrong calls of `optimizers`, and of what holds a batch size."""

import optax

import adaopt
from adaopt import batch_size, optimizers
from tests.wrong_calls import kinds
from tests.wrong_calls.right import BOUNDS, adapted
from tests.wrong_calls.table import Case, kind

SIZES = {
  'init_batch_size': kinds.count
  + kind('start lower or allow more', 16, shown='init_batch_size=16'),
  'max_batch_size': kinds.count
  + kind('start lower or allow more', 1, shown='max_batch_size=1'),
  'multiple_of': kinds.count + kind('choose one', 3, 16, shown='multiple_of='),
  'test_interval': kinds.count,
  'policy': kinds.policy,
}


without_batch_size = [
  Case(
    optimizers.adagrad,
    dict(learning_rate=0.1),
    dict(
      learning_rate=kinds.learning_rate,
      eps_root=kinds.not_negative,
      **kinds.adagrad_constants,
    ),
  ),
  Case(
    optimizers.adagrad_norm,
    dict(learning_rate=0.1),
    dict(learning_rate=kinds.learning_rate, **kinds.adagrad_constants),
  ),
  Case(
    optimizers.normalized_lr_gd,
    dict(learning_rate=0.1),
    dict(learning_rate=kinds.learning_rate),
  ),
]


with_batch_size = [
  Case(
    optimizers.adaptive,
    dict(optimizer=optax.sgd(1.0), learning_rate=0.1, **BOUNDS),
    dict(
      optimizer=kinds.optimizer,
      learning_rate=kinds.learning_rate,
      criterion=kinds.criterion[1:],  # None is the default.
      scaling=kinds.optimizer[1:],
      **SIZES | dict(policy=kinds.policy[1:]),
    ),
  ),
  Case(
    optimizers.adadagrad,
    dict(learning_rate=0.1, criterion=adaopt.norm_test(0.5), **BOUNDS),
    dict(
      learning_rate=kinds.learning_rate,
      criterion=kinds.criterion,
      eps_root=kinds.not_negative,
      **kinds.adagrad_constants,
      **SIZES,
    ),
  ),
  Case(
    optimizers.adadagrad_norm,
    dict(learning_rate=0.1, criterion=adaopt.norm_test(0.5), **BOUNDS),
    dict(
      learning_rate=kinds.learning_rate,
      criterion=kinds.criterion,
      **kinds.adagrad_constants,
      **SIZES,
    ),
  ),
  Case(
    batch_size.adapt_batch_size,
    dict(criterion=adaopt.norm_test(0.5), **BOUNDS),
    dict(criterion=kinds.criterion, **SIZES),
  ),
  Case(
    adaopt.Policy,
    dict(policy=adaopt.follow),
    dict(
      policy=kind('must be a function', adaopt.Policy(None), shown='got None')
      + kind('must be a function', adaopt.Policy('x'), shown="got 'x'")
      + kind('call it', adaopt.Policy(adaopt.capped_growth), shown='capped')
      + kind('two arguments', adaopt.Policy(abs), shown='abs')
    ),
    lambda policy: adaopt.adapt_batch_size(
      adaopt.norm_test(0.5), policy=policy, **BOUNDS
    ),
  ),
]


returned = [
  Case(
    batch_size.adapt_batch_size,
    {},
    dict(
      criterion=kinds.numbers_of('criterion'),
      policy=kinds.numbers_of('policy'),
    ),
    adapted,
  ),
]


CASES = [*without_batch_size, *with_batch_size, *returned]
