"""Wrong calls of `optimizers`, `transforms` and `batch_size`."""

import jax.numpy as jnp
import numpy as np
import optax

import adaopt
from adaopt import batch_size, optimizers, transforms
from tests.wrong_calls import kinds
from tests.wrong_calls.table import Case, Left, kind

G = jnp.array([1.0, 2.0])
STATISTICS = adaopt.GradientStatistics(
  batch_size=jnp.int32(4),
  mean=G,
  variance=jnp.float32(3),
  coordinate_variance=G,
  variance_along_mean=jnp.float32(1),
)
ADAPTIVE = adaopt.adaptive(
  optax.sgd(1.0), 0.1, init_batch_size=2, max_batch_size=8
)
INJECTED = optax.inject_hyperparams(optax.adam)(0.1)


def update(transform, **extra):
  """A first update by a transform."""
  return transform.update(G, transform.init(G), G, **extra)


SIZES = {
  'init_batch_size': kinds.count
  + kind('start lower or allow more', 16, shown='init_batch_size=16'),
  'max_batch_size': kinds.count
  + kind('start lower or allow more', 1, shown='max_batch_size=1'),
  'multiple_of': kinds.count + kind('choose one', 3, 16, shown='multiple_of='),
  'test_interval': kinds.count,
  'policy': kinds.policy,
}
BOUNDS = dict(init_batch_size=2, max_batch_size=8)
CONSTANTS = dict(
  initial_accumulator_value=kinds.not_negative,
  eps=kinds.not_negative,
)

without_batch_size = [
  Case(
    optimizers.adagrad,
    dict(learning_rate=0.1),
    dict(
      learning_rate=kinds.learning_rate,
      eps_root=kinds.not_negative,
      **CONSTANTS,
    ),
  ),
  Case(
    optimizers.adagrad_norm,
    dict(learning_rate=0.1),
    dict(learning_rate=kinds.learning_rate, **CONSTANTS),
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
      **CONSTANTS,
      **SIZES,
    ),
  ),
  Case(
    optimizers.adadagrad_norm,
    dict(learning_rate=0.1, criterion=adaopt.norm_test(0.5), **BOUNDS),
    dict(
      learning_rate=kinds.learning_rate,
      criterion=kinds.criterion,
      **CONSTANTS,
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


def updates_of(public, transform, wrong):
  """Wrong statistics in the update of a transform."""
  return Case(
    public,
    dict(statistics=STATISTICS),
    dict(statistics=wrong),
    lambda **extra: update(transform, **extra),
  )


def adapted(criterion=lambda _: 4, policy=adaopt.follow):
  """An update by a batch size with this criterion and this policy."""
  transform = adaopt.adapt_batch_size(criterion, policy=policy, **BOUNDS)
  return update(transform, statistics=STATISTICS)


in_updates = [
  updates_of(optimizers.adaptive, ADAPTIVE, kinds.sized_statistics),
  updates_of(
    optimizers.adadagrad,
    adaopt.adadagrad(0.1, adaopt.norm_test(0.5), **BOUNDS),
    kinds.required_statistics,
  ),
  updates_of(
    optimizers.adadagrad_norm,
    adaopt.adadagrad_norm(0.1, adaopt.norm_test(0.5), **BOUNDS),
    kinds.required_statistics,
  ),
  updates_of(
    batch_size.adapt_batch_size,
    adaopt.adapt_batch_size(adaopt.norm_test(0.5), **BOUNDS),
    kinds.required_statistics,
  ),
  updates_of(
    batch_size.schedule_batch_size,
    adaopt.schedule_batch_size(4),
    kinds.required_statistics[1:],  # It does without.
  ),
  updates_of(
    transforms.scale_by_example_schedule,
    adaopt.scale_by_example_schedule(lambda n: 1.0),
    kinds.sized_statistics,
  ),
  updates_of(
    transforms.scale_by_batch_size,
    adaopt.scale_by_batch_size(1.0),
    kinds.sized_statistics,
  ),
  updates_of(
    transforms.scale_by_adascale,
    adaopt.scale_by_adascale(base_batch_size=2),
    kinds.sized_statistics,
  ),
  updates_of(
    transforms.follow_batch_size,
    adaopt.follow_batch_size(INJECTED, decays='b2'),
    kinds.sized_statistics,
  ),
  updates_of(
    adaopt.noise_scale,
    adaopt.noise_scale(half_life=100),
    kinds.required_statistics
    + kind(
      'unless only= leaves it out',
      adaopt.GradientStatistics(4, G),
      shown='which is None',
    )
    + kind(
      'pass those of the parameters',
      STATISTICS._replace(mean={'w': G}, variance={'w': 1.0}),
      shown='got',
    ),
  ),
  updates_of(
    batch_size.accumulate,
    adaopt.accumulate(ADAPTIVE),
    kind('pass statistics= to', Left(), None, shown='needs the statistics')
    + kinds.required_statistics[1:]
    + kind(
      'computes it unless only= leaves it out',
      adaopt.GradientStatistics(4, G),
      shown='statistics.variance of every',
    )
    + kind(
      'an entry for every tensor',
      STATISTICS._replace(variance=(1.0, 2.0)),
      shown='got PyTreeDef',
    )
    + kind(
      'must have the shape',
      STATISTICS._replace(variance=jnp.ones(3)),
      shown='got [3]',
    )
    + kind(
      'must be an integer',
      STATISTICS._replace(batch_size=0),
      STATISTICS._replace(batch_size=2.5),
      shown='statistics.batch_size',
    )
    + kind(
      'pass weighted=True',
      STATISTICS._replace(weight=1.0),
      shown='of a WeightedLoss',
    ),
  ),
  Case(
    batch_size.accumulate,
    dict(statistics=STATISTICS),
    dict(
      statistics=kind(
        'a multiple of group_size=4',
        STATISTICS._replace(batch_size=6),
        shown='6 examples',
      )
    ),
    lambda **extra: update(adaopt.accumulate(ADAPTIVE, group_size=4), **extra),
  ),
  *(
    Case(
      public,
      dict(mean_residual=0.5),
      dict(
        mean_residual=kind('pass mean_residual=', Left(), shown='got None')
        + kind('pass mean_residual=', None, '0.5', 1j, jnp.ones(2), [0.5], abs)
      ),
      lambda mean_residual=None, public=public, make=make: update(
        make(), mean_residual=mean_residual
      ),
    )
    for public, make in (
      (transforms.scale_by_mean_residual, transforms.scale_by_mean_residual),
      (optimizers.normalized_lr_gd, lambda: optimizers.normalized_lr_gd(0.1)),
    )
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

_TWO = optax.chain(INJECTED, optax.inject_hyperparams(optax.adam)(0.1))
others = [
  Case(
    batch_size.accumulate,
    dict(optimizer=ADAPTIVE),
    dict(
      optimizer=kinds.optimizer + kinds.without_batch_size,
      group_size=kinds.count,
      weighted=kinds.flag,
    ),
    lambda **arguments: adaopt.accumulate(**arguments).init(G),
  ),
  Case(
    batch_size.has_updated,
    dict(state=adaopt.accumulate(ADAPTIVE).init(G)),
    dict(
      state=kind(
        'the state of one accumulate',
        *(None, (), 1.0, ADAPTIVE.init(G), optax.sgd(0.1)),
        shown='got 0',
      )
      + kind(
        'the state of one accumulate',
        (adaopt.accumulate(ADAPTIVE).init(G),) * 2,
        shown='got 2',
      )
    ),
  ),
  *(
    Case(public, dict(factor=2.0), dict(factor=kinds.factor))
    for public in (
      batch_size.capped_growth,
      batch_size.geometric_growth,
      batch_size.hysteresis,
    )
  ),
  Case(
    batch_size.schedule_batch_size,
    dict(schedule=4),
    dict(
      schedule=tuple(w for w in kinds.count if not callable(w.value))
      + kinds.schedule('schedule')
      + kind('at least 1', lambda n: 0.0, lambda n: -4, shown='schedule(0)')
      + kind('finite', lambda n: jnp.nan, shown='got nan')
    ),
  ),
  Case(
    batch_size.seesaw,
    dict(learning_rate=0.1, init_batch_size=4, boundaries=[10, 20]),
    dict(
      learning_rate=kinds.positive,
      init_batch_size=kinds.count,
      factor=kinds.factor,
      boundaries=kind('must rise', [20, 10], [5, 5])
      + kind('an integer of at least 1', [0], [-1], shown='boundar')
      + kind('an integer of at least 1', [2.5], ['4'], [None], shown='boundar')
      + kind('a sequence of', None, 10, 0.5, abs, jnp.array(3)),
    ),
    named=dict(boundaries='boundar'),
  ),
  *(
    Case(
      public,
      {},
      dict(eps_root=kinds.not_negative, **CONSTANTS)
      if public is transforms.scale_by_adagrad
      else CONSTANTS,
    )
    for public in (
      transforms.scale_by_adagrad,
      transforms.scale_by_adagrad_norm,
    )
  ),
  Case(
    transforms.scale_by_adascale,
    dict(base_batch_size=4),
    dict(
      base_batch_size=kinds.positive,
      schedule=kinds.only_schedule,
      decay=kinds.decay,
      floor=kinds.floor,
    ),
  ),
  Case(transforms.scale_by_batch_size, {}, dict(exponent=kinds.not_negative)),
  Case(
    transforms.scale_by_example_schedule,
    dict(schedule=lambda n: 1.0),
    dict(schedule=kinds.only_schedule),
  ),
  Case(
    transforms.follow_batch_size,
    dict(optimizer=INJECTED, decays='b2'),
    dict(
      optimizer=kinds.optimizer
      + kind(
        'injected constants', optax.adam(0.1), shown='with the state tuple'
      ),
      decays=kind('name some', (), [], shown='follows no constant')
      + kind('there are b1', 'b3', ('momentum',), shown='not an injected')
      + kind('a decay, a trace or scaled', ['b2', 'b2'], shown='named twice')
      + kind('names', None, 0.9, [0.9], abs, {'b2': 1}, b'b2'),
      trace=kind('there are b1', 'momentum', shown='momentum is not')
      + kind('a decay, a trace or scaled', 'b2', shown='b2 is named twice')
      + kind('must be the name', 0.9, ['b1'], abs, b'b1'),
      scaled=kind('finite powers', {'eps': np.nan}, shown='got nan for eps')
      + kind('finite powers', {'eps': 'x'}, shown="got 'x' for eps")
      + kind('finite powers', {'eps': None}, shown='got None for eps')
      + kind('finite powers', {'eps': [1.0]}, shown='got [1.0] for eps')
      + kind('finite powers', {'eps': 1j}, shown='got 1j for eps')
      + kind('there are b1', {'weight_decay': 1}, shown='weight_decay is not')
      + kind('must map names to powers', 0.5, 'eps', ['eps'], abs),
      base_batch_size=tuple(w for w in kinds.count if w.value is not None),
    ),
    lambda **arguments: adaopt.follow_batch_size(**arguments).init(G),
    named=dict(decays='', trace='', scaled=''),
  ),
  Case(
    transforms.follow_batch_size,
    dict(decay=0.9),
    dict(
      decay=kind('must be in [0, 1)', 1.0, 1.5, -0.1)
      + kind('a number', optax.constant_schedule(0.9), shown='schedule')
    ),
    lambda decay: adaopt.follow_batch_size(
      optax.inject_hyperparams(optax.adam)(0.1, b2=decay), decays='b2'
    ).init(G),
    named=dict(decay='b2'),
  ),
  *(
    Case(
      public,
      dict(logits=jnp.ones([2, 3]), labels=jnp.array([0, 2])),
      dict(
        labels=kind('from 0 to 2', jnp.array([0, 3]), shown='got 0 to 3')
        + kind('from 0 to 2', np.array([-1, 2]), shown='got -1 to 2')
        + kind('must be integers', jnp.ones(2), shown='got float32')
        + kind('must be integers', jnp.ones(2, bool), shown='got bool')
        + kind('must be integers', np.array(['no', 'b']), shown='got <U2')
        + kind('must be integers', ['no', 'yes'], None, abs)
        + kind('must be integers', np.ones(2) * 1j, shown='got complex')
        + kind('labels [b]', 1, shown='labels []')
        + kind('labels [b]', jnp.array([0, 1, 2]), shown='labels [3]')
        + kind('labels [b]', jnp.ones([2, 3]), shown='labels [2, 3]'),
        logits=kind('[b] or [b, k]', 1.0, shown='logits []')
        + kind('[b] or [b, k]', jnp.ones([3, 2]), shown='logits [3, 2]')
        + kind('[b] or [b, k]', jnp.ones([2, 3, 4]), shown='logits [2, 3, 4]')
        + kind('two classes', jnp.ones([2, 1]), shown='[b, 1]')
        + kind('must be real', jnp.ones([2, 3]) * 1j, shown='got complex')
        + kind('must be real', np.full([2, 3], 'no'), shown='got <U2')
        + kind('must be real', np.full([2, 3], None), shown='got object')
        + kind('must be real', None, 'no', abs),
      ),
    )
    for public in (transforms.log_odds, transforms.mean_residual)
  ),
]

CASES = [*without_batch_size, *with_batch_size, *in_updates, *returned, *others]
