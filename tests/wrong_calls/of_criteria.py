"""Wrong calls that make criteria."""

import numpy as np

import adaopt
from adaopt import criteria
from tests.wrong_calls import kinds
from tests.wrong_calls.right import adapted
from tests.wrong_calls.table import Case, kind

CASES = [
  Case(criteria.norm_test, dict(eta=0.5), dict(eta=kinds.positive)),
  Case(
    criteria.inner_product_test, dict(theta=0.5), dict(theta=kinds.positive)
  ),
  Case(criteria.orthogonality_test, dict(nu=0.5), dict(nu=kinds.positive)),
  Case(
    criteria.augmented_inner_product_test,
    dict(theta=0.5, nu=0.5),
    dict(theta=kinds.positive, nu=kinds.positive),
  ),
  Case(
    criteria.coordinate_norm_test,
    dict(eta=0.5),
    dict(
      eta=kinds.positive,
      reduce=kinds.functions_of('of the requirements [d]'),
    ),
  ),
  Case(
    criteria.debiased_norm_test,
    dict(eta=0.5),
    dict(eta=kinds.positive, decay=kinds.decay, floor=kinds.floor),
  ),
  Case(
    criteria.gradient_noise_scale,
    {},
    dict(decay=kinds.decay, floor=kinds.floor),
  ),
  Case(
    criteria.cabs,
    dict(learning_rate=0.1),
    dict(learning_rate=kinds.positive, decay=kinds.decay),
  ),
  Case(
    criteria.critical_batch_size,
    dict(scale=2e8, alpha=0.21),
    dict(
      scale=kinds.positive,
      alpha=kinds.positive,
      tokens_per_example=kinds.positive,
      decay=kinds.decay,
    ),
  ),
  Case(
    criteria.sign_noise_scale,
    dict(theta=0.5),
    dict(theta=kinds.positive, decay=kinds.decay),
  ),
  Case(
    criteria.spectral_noise_scale,
    dict(theta=0.5),
    dict(theta=kinds.positive, decay=kinds.decay),
  ),
  Case(
    criteria.goodput,
    dict(seconds=(1.0, 0.1)),
    dict(
      seconds=kind(
        'a pair (fixed, per_example)', 1.0, (1.0,), 'x', abs, (1, 2, 3)
      )
      + kind('not both be 0', (0, 0), shown='seconds=(fixed')
      + kind('at least 0', (-1, 1), shown='fixed')
      + kind('at least 0', (1, np.nan), shown='per_example')
      + kind('a number', ('1', 1), ([1], 1), (None, 1), shown='fixed'),
      micro_batch_size=kinds.positive,
      decay=kinds.decay,
      floor=kinds.floor,
    ),
    named=dict(seconds=''),
  ),
  Case(
    criteria.gradient_diversity,
    dict(delta=0.1, num_examples=100),
    dict(
      delta=kinds.positive,
      num_examples=kinds.count,
      num_epochs=kinds.count
      + kind('below 2^31', 2**30, shown='num_epochs * num_examples'),
    ),
  ),
  Case(
    criteria.preconditioned_norm_test,
    dict(eta=0.5, preconditioner=criteria.adam_preconditioner()),
    dict(
      eta=kinds.positive,
      preconditioner=kinds.functions_of('of the optimizer state')
      + kind(
        'call it', criteria.adam_preconditioner, shown='adam_preconditioner'
      )
      + kind('call it', criteria.adagrad_preconditioner, shown='adagrad')
      + kind('cannot be called with', kinds.no_argument, shown='no_argument'),
    ),
  ),
  Case(
    criteria.adagrad_preconditioner,
    {},
    dict(eps=kinds.not_negative, eps_root=kinds.not_negative),
  ),
  Case(
    criteria.adam_preconditioner,
    {},
    dict(b2=kinds.decay, eps=kinds.not_negative, eps_root=kinds.not_negative),
  ),
  Case(
    criteria.all_of,
    {'criterion 0': adaopt.norm_test(0.5)},
    {'criterion 0': kinds.criterion},
    lambda **named: criteria.all_of(*named.values()),
  ),
  Case(
    criteria.all_of,
    dict(criteria=[adaopt.norm_test(0.5)]),
    dict(criteria=kind('at least one criterion', [], shown='got none')),
    lambda criteria: adaopt.all_of(*criteria),
    named=dict(criteria='criterion'),
  ),
  Case(
    criteria.of_tensors,
    dict(criterion=adaopt.norm_test(0.5), filter=lambda path: True),
    dict(
      criterion=kinds.criterion,
      filter=kind(
        "a function of a tensor's path",
        *(None, 'norm', 1, [], {}, {'w': 1}, ['norm'], np.ones(2)),
      )
      + kind('cannot be called with', kinds.no_argument, shown='no_argument'),
    ),
  ),
  Case(
    criteria.ratio_of_averages,
    dict(
      measure=lambda statistics: criteria.NoiseAndSignal(1.0, 1.0, 0.0),
      decay=0.5,
    ),
    dict(
      measure=kinds.functions_of('of the statistics'),
      decay=kinds.decay,
    ),
  ),
  Case(
    adaopt.StatefulCriterion,
    dict(criterion=criteria.gradient_noise_scale()),
    dict(
      criterion=kind(
        'a function of params',
        adaopt.StatefulCriterion('x', abs),
        shown="got 'x'",
      )
      + kind(
        '-> (required, state)', adaopt.StatefulCriterion(abs, {}), shown='{}'
      )
      + kind(
        'must return (required, state)',
        adaopt.StatefulCriterion(lambda p: (), lambda *_, **__: 4),
        shown='got 4',
      )
      + kind(
        'must return (required, state)',
        adaopt.StatefulCriterion(lambda p: (), kinds.returns_none),
        shown='got None',
      )
      + kind(
        'must return (required, state)',
        adaopt.StatefulCriterion(lambda p: (), lambda *_, **__: (1, 2, 3)),
        shown='got (1, 2, 3)',
      )
      + kind(
        'a state of the structure',
        adaopt.StatefulCriterion(lambda p: (), lambda *_, **__: (4, {})),
        shown='got PyTreeDef',
      )
    ),
    lambda criterion: adapted(criterion),
  ),
]
