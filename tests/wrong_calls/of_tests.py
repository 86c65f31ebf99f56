"""Wrong calls of criteria, and of what they are made of."""

import jax.numpy as jnp
import optax

import adaopt
from adaopt import criteria
from tests.wrong_calls import kinds
from tests.wrong_calls.right import STATISTICS, G, adapted
from tests.wrong_calls.table import Case, kind

TESTS = (
  (criteria.big_batch_test, criteria.big_batch_test()),
  (criteria.norm_test, adaopt.norm_test(0.5)),
  (criteria.inner_product_test, adaopt.inner_product_test(0.5)),
  (criteria.orthogonality_test, criteria.orthogonality_test(0.5)),
  (
    criteria.augmented_inner_product_test,
    criteria.augmented_inner_product_test(1, 1),
  ),
  (criteria.coordinate_norm_test, adaopt.coordinate_norm_test(0.5)),
)
STATEFUL = (
  (criteria.debiased_norm_test, criteria.debiased_norm_test(0.5), {}),
  (criteria.gradient_noise_scale, criteria.gradient_noise_scale(), {}),
  (criteria.cabs, criteria.cabs(0.1), dict(value=1.0)),
  (criteria.sign_noise_scale, criteria.sign_noise_scale(0.5), {}),
  (criteria.goodput, criteria.goodput(seconds=(1.0, 0.1)), {}),
  (
    criteria.gradient_diversity,
    criteria.gradient_diversity(0.1, num_examples=10),
    {},
  ),
)
EYE = jnp.eye(2)
MATRICES = adaopt.GradientStatistics(4, {'w': EYE}, matrix_variance={'w': EYE})
no_statistics = kind(
  'such as value_and_statistics returns', None, 4.0, {}, G, 'x', shown='got'
)
without_noise = kind(
  'unless only= leaves it out',
  adaopt.GradientStatistics(4, G),
  shown='which is None',
)


def of_state(criterion, extra):
  """A criterion's requirement from a first update."""
  return lambda statistics: criterion.update(
    statistics, criterion.init(G), **extra
  )


CASES = [
  *(
    Case(
      public,
      dict(statistics=STATISTICS),
      dict(statistics=no_statistics + without_noise),
      lambda statistics, criterion=criterion: criterion(statistics),
      named=dict(statistics='tatistics'),
    )
    for public, criterion in TESTS
  ),
  *(
    Case(
      public,
      dict(statistics=STATISTICS),
      dict(statistics=no_statistics + without_noise),
      of_state(criterion, extra),
      named=dict(statistics='tatistics'),
    )
    for public, criterion, extra in STATEFUL
  ),
  Case(
    criteria.spectral_noise_scale,
    dict(statistics=MATRICES),
    dict(
      statistics=no_statistics
      + without_noise
      + kind(
        'use sign_noise_scale',
        MATRICES._replace(mean={'w': G}, matrix_variance={'w': None}),
        shown='no matrix',
      )
      + kind(
        'unless only= leaves it out',
        MATRICES._replace(
          mean={'w': EYE, 'b': G}, matrix_variance={'w': EYE, 'b': None}
        ),
        shown='coordinate_variance, which is None',
      )
    ),
    of_state(criteria.spectral_noise_scale(0.5), {}),
    named=dict(statistics='tatistics'),
  ),
  *(
    Case(
      public,
      dict(statistics=statistics, test='mine'),
      dict(statistics=no_statistics + without_noise),
      named=dict(statistics='tatistics'),
    )
    for public, statistics in (
      (criteria.total_variance, STATISTICS),
      (criteria.variance_along_mean, STATISTICS),
      (criteria.coordinate_variance, STATISTICS),
      (criteria.matrix_variance, MATRICES),
    )
  ),
  Case(
    criteria.squared_norm,
    dict(statistics=STATISTICS),
    dict(statistics=no_statistics),
    named=dict(statistics='tatistics'),
  ),
  Case(
    criteria.debiased,
    dict(statistics=STATISTICS, floor=0.1, test='mine'),
    dict(statistics=no_statistics + without_noise, floor=kinds.floor),
    named=dict(statistics='tatistics'),
  ),
  Case(
    criteria.ratio,
    dict(noise=1.0, signal=2.0),
    {
      name: kind(
        'must be real numbers', None, 'x', ['a'], 1j, abs, {}, {'w': 1.0}
      )
      for name in ('noise', 'signal')
    },
  ),
  Case(
    criteria.coordinate_norm_test,
    dict(reduce=jnp.max),
    dict(reduce=kinds.numbers_of('reduce')),
    lambda reduce: criteria.coordinate_norm_test(0.5, reduce)(STATISTICS),
  ),
  Case(
    criteria.ratio_of_averages,
    dict(measure=lambda statistics: criteria.NoiseAndSignal(1.0, 1.0, 0.0)),
    dict(
      measure=kind('NoiseAndSignal', kinds.returns_none, shown='got None')
      + kind('NoiseAndSignal', kinds.returns_text, shown="got '0.5'")
      + kind('NoiseAndSignal', lambda *_: (1.0, 2.0), shown='got (1.0, 2.0)')
    ),
    lambda measure: of_state(criteria.ratio_of_averages(measure, 0.5), {})(
      STATISTICS
    ),
  ),
  Case(
    criteria.of_tensors,
    dict(filter=lambda path: True),
    dict(
      filter=kind('must return a bool', kinds.returns_none, shown='got None')
      + kind('must return a bool', kinds.returns_text, shown="got '0.5'")
      + kind('must return a bool', lambda path: 1, shown='got 1')
      + kind('their paths are', lambda path: False, shown='selects no tensor')
      + kind('like the parameters', {'u': True}, shown='got PyTreeDef')
      + kind('their paths are', {'w': False}, shown='selects no tensor')
    ),
    lambda filter: criteria.of_tensors(adaopt.norm_test(0.5), filter)(
      STATISTICS._replace(
        mean={'w': G}, variance={'w': 1.0}, coordinate_variance=None
      )
    ),
    named=dict(filter='of_tensors'),
  ),
  Case(
    criteria.preconditioned_norm_test,
    dict(preconditioner=lambda state: G, opt_state=optax.adam(0.1).init(G)),
    dict(
      preconditioner=kind(
        'a diagonal like the gradient', kinds.returns_none, shown='got PyTree'
      )
      + kind('like the gradient', lambda state: {'w': G}, shown='got PyTree')
      + kind('like the gradient', kinds.returns_vector, shown='got float32[3]')
      + kind('like the gradient', kinds.returns_text, shown="got '0.5'"),
      opt_state=kind('pass opt_state=', None, shown='the state'),
    ),
    lambda preconditioner, opt_state: criteria.preconditioned_norm_test(
      0.5, preconditioner
    ).update(STATISTICS, (), opt_state=opt_state),
    named=dict(opt_state='state'),
  ),
  *(
    Case(
      public,
      dict(opt_state=right),
      dict(
        opt_state=kind(
          'chain with one such optimizer',
          *(None, (), optax.sgd(0.1).init(G), G, 'x', optax.adam),
          shown='got 0',
        )
        + kind('chain with one such optimizer', (right, right), shown='got 2')
      ),
      lambda opt_state, public=public: public()(opt_state),
      named=dict(opt_state='optimizer state'),
    )
    for public, right in (
      (criteria.adam_preconditioner, optax.adam(0.1).init(G)),
      (criteria.adagrad_preconditioner, adaopt.adagrad(0.1).init(G)),
    )
  ),
  Case(
    criteria.cabs,
    dict(value=1.0),
    dict(value=kind('pass value=', None, shown='needs the loss')),
    lambda value: criteria.cabs(0.1).update(
      STATISTICS, criteria.cabs(0.1).init(G), value=value
    ),
  ),
  Case(
    criteria.critical_batch_size,
    dict(value=jnp.array(1.0)),
    dict(
      value=kind('pass value=', None, shown='needs the loss')
      + kind('a real scalar', 'x', 1j, abs, [1.0])
      + kind('a real scalar', G, shown='got float32[2]')
    ),
    lambda value: criteria.critical_batch_size(1, 1).update(
      STATISTICS, criteria.critical_batch_size(1, 1).init(G), value=value
    ),
  ),
  Case(
    criteria.NoiseAndSignal,
    dict(measured=criteria.NoiseAndSignal(1.0, 1.0, 0.0)),
    dict(
      measured=kind(
        'must return a number',
        *(criteria.NoiseAndSignal(G, 1.0, 0.0),),
        *(criteria.NoiseAndSignal(1.0, G, 0.0),),
        shown='got shape [2]',
      )
    ),
    lambda measured: adapted(
      criteria.ratio_of_averages(lambda statistics, **_: measured, 0.5)
    ),
    named=dict(measured='criterion'),
  ),
  Case(
    criteria.with_seconds,
    dict(opt_state=criteria.goodput().init(G), fixed=1.0, per_example=0.1),
    dict(
      opt_state=kind(
        'criterion goodput()',
        *(None, (), 1.0, optax.sgd(0.1).init(G)),
        criteria.goodput(seconds=(1, 2)).init(G),
        shown='no seconds',
      ),
      fixed=kinds.not_negative,
      per_example=kinds.not_negative,
      micro_batch_size=kinds.positive,
      reach=kinds.not_negative,
    ),
    named=dict(opt_state='state'),
  ),
]
