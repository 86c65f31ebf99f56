"""Wrong calls of `transforms`, and of the rest of `batch_size`."""

import jax.numpy as jnp
import numpy as np
import optax

import adaopt
from adaopt import batch_size, transforms
from tests.wrong_calls import kinds
from tests.wrong_calls.right import ADAPTIVE, INJECTED, STATISTICS, G, update
from tests.wrong_calls.table import Case, kind

WITHOUT_VARIANCE = kind(
  'unless only= leaves it out',
  adaopt.GradientStatistics(4, G),
  shown='which is None',
)

CASES = [
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
      + kinds.uncalled_schedules
      + kind('must be a number', kinds.returns_none, shown='got None')
      + kind('must be a number', kinds.returns_text, shown="got '0.5'")
      + kind('must be a number', kinds.returns_vector, shown='got Array(')
      + kind('must be a number', kinds.returns_complex, shown='got 1j')
      + kind('must be a number', optax.sgd, shown='GradientTransformation')
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
  Case(
    batch_size.seesaw_from_schedule,
    dict(
      schedule=optax.cosine_decay_schedule(0.1, 100),
      init_batch_size=4,
      max_batch_size=64,
      num_examples=100,
    ),
    dict(
      schedule=kinds.only_schedule
      + kind('above 0', lambda n: 0.0 * n, shown='got 0.0')
      + kind('not rise after its maximum', lambda n: (n - 50) ** 2, shown='got')
      + kind('must be finite', lambda n: n + jnp.nan, shown='got nan'),
      init_batch_size=kinds.count
      + kind('start lower or allow more', 128, shown='init_batch_size=128'),
      max_batch_size=kinds.count
      + kind('start lower or allow more', 1, shown='max_batch_size=1'),
      num_examples=kinds.count,
      factor=kinds.factor
      + kind('take a larger one', 1.0001, shown='factor=1.0001'),
    ),
  ),
  Case(
    batch_size.stage_schedule,
    dict(text='0:4 100:8', tokens_per_example=2),
    dict(
      text=kind("such as '0:768 250B:1536'", None, 4, 0.5, b'0:4', [], abs)
      + kind("such as '0:768 250B:1536'", '', ' ')
      + kind("begin it with '0:size'", '5:4', '1K:4 2K:8')
      + kind('must rise', '0:4 5:8 5:16', '0:4 1K:8 10:16')
      + kind('threshold:size such as 250B:1536', '4', '0:x', '0:-4', '0=4')
      + kind('threshold:size such as 250B:1536', '0:4 5', shown="got '5'")
      + kind('threshold:size such as 250B:1536', '0:4 5b:8', shown="'5b:8'")
      + kind('a whole number', '0:4 0.5:8', shown="got '0.5:8'")
      + kind('an integer of at least 1 and below 2^31', '0:0', shown='got 0'),
      tokens_per_example=kinds.count,
    ),
  ),
  Case(
    batch_size.late_switch,
    dict(init_batch_size=4, max_batch_size=64, num_examples=100, fraction=0.8),
    dict(
      init_batch_size=kinds.count
      + kind('start lower or allow more', 128, shown='init_batch_size=128'),
      max_batch_size=kinds.count
      + kind('start lower or allow more', 1, shown='max_batch_size=1'),
      num_examples=kinds.long_count,
      fraction=kinds.positive
      + kind('below 1', 1, 1.5, np.float32(2))
      + kind('a larger num_examples', 0.001, 0.999),
    ),
  ),
  Case(
    batch_size.hold_until,
    dict(transform=adaopt.schedule_batch_size(4), num_examples=100),
    dict(
      transform=kinds.optimizer
      + kinds.without_batch_size
      + kind(
        'what is within accumulate',
        adaopt.accumulate(ADAPTIVE),
        shown='counts whole batches',
      ),
      num_examples=kinds.long_count,
    ),
    lambda **arguments: batch_size.hold_until(**arguments).init(G),
    named=dict(transform=''),
  ),
  *(
    Case(
      public,
      {},
      dict(eps_root=kinds.not_negative, **kinds.adagrad_constants)
      if public is transforms.scale_by_adagrad
      else kinds.adagrad_constants,
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
      exponent=kinds.not_negative,
    ),
  ),
  Case(
    transforms.scale_by_legw,
    dict(base_batch_size=4, warmup_examples=100),
    dict(base_batch_size=kinds.positive, warmup_examples=kinds.positive),
  ),
  Case(
    transforms.scale_by_power_schedule,
    dict(max_learning_rate=0.02, tokens_per_example=1024),
    dict(
      max_learning_rate=kinds.positive,
      tokens_per_example=kinds.positive,
      amplitude=kinds.positive,
      exponent=kinds.positive,
    ),
  ),
  Case(
    transforms.reset_moments,
    dict(optimizer=optax.scale_by_adam()),
    dict(
      optimizer=kinds.optimizer
      + kind('chain what holds it outside', ADAPTIVE, shown='batch size that')
      + kind(
        'chain what holds it outside',
        optax.add_noise(0.1, 0.0, key=0),
        shown='random key that',
      ),
      factor=kinds.factor,
    ),
    lambda **arguments: transforms.reset_moments(**arguments).init(G),
    named=dict(optimizer=''),
  ),
  Case(
    transforms.rescale_second_moment,
    dict(optimizer=optax.scale_by_adam()),
    dict(
      optimizer=kinds.optimizer
      + kind('a field nu', optax.sgd(0.1), shown='got the state tuple')
      + kind('averages g²', optax.scale_by_belief(), shown='of AdaBelief')
      + kind('an average', optax.scale_by_amsgrad(), shown='of AMSGrad'),
      decay=kinds.decay,
      floor=kinds.floor,
    ),
    lambda **arguments: transforms.rescale_second_moment(**arguments).init(G),
    named=dict(optimizer=''),
  ),
  Case(
    transforms.scale_by_adam,
    {},
    dict(
      b1=kinds.decay,
      b2=kinds.decay,
      eps=kinds.not_negative,
      eps_root=kinds.not_negative,
      second_moment=kinds.functions_of('of the statistics')
      + kind('cannot be called', kinds.no_argument, shown='no_argument'),
    ),
  ),
  Case(
    transforms.scale_by_adam,
    dict(second_moment=transforms.square_of_mean),
    dict(
      second_moment=kind(
        'a diagonal like the gradient', kinds.returns_none, shown='got PyTree'
      )
      + kind('like the gradient', lambda _: {'w': G}, shown='got PyTree')
      + kind('like the gradient', kinds.returns_vector, shown='got float32[3]')
      + kind('like the gradient', kinds.returns_complex, shown='got 1j')
      + kind('like the gradient', kinds.returns_text, shown="got '0.5'")
      + kind(
        'batch_size must be a number',
        transforms.square_at_batch_size,
        shown='got GradientStatistics',
      ),
    ),
    lambda **arguments: update(
      transforms.scale_by_adam(**arguments), statistics=STATISTICS
    ),
    named=dict(second_moment=''),
  ),
  Case(
    transforms.square_at_batch_size,
    dict(batch_size=4),
    dict(
      batch_size=tuple(w for w in kinds.positive if w.value is not kinds.INF),
      floor=kinds.floor,
    ),
  ),
  *(
    Case(
      public,
      dict(statistics=STATISTICS),
      dict(
        statistics=kind(
          'such as value_and_statistics returns',
          *(None, {}, G, abs, 'x', 1.0),
          shown='got',
        )
        + without_variance
      ),
      named=dict(statistics='tatistics'),
    )
    for public, without_variance in (
      (transforms.square_of_mean, ()),
      (transforms.mean_of_squares, WITHOUT_VARIANCE),
      (transforms.variance_of_gradients, WITHOUT_VARIANCE),
    )
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
