"""Wrong calls of `noise`."""

import jax
import jax.numpy as jnp
import optax

import adaopt
from adaopt import noise
from tests.wrong_calls import kinds
from tests.wrong_calls.right import STATISTICS, G, in_map
from tests.wrong_calls.table import Case, kind

NOISE = adaopt.noise_scale(half_life=100)
NOISE_STATE = NOISE.update(G, NOISE.init(G), statistics=STATISTICS)[1]
REPORT = adaopt.noise_report(NOISE_STATE, G)
no_state = kind(
  'pass the state of one',
  *(None, (), 1.0, optax.sgd(0.1).init(G), abs),
  shown='0 noise_scale',
)
without_variance = kind(
  'unless only= leaves it out',
  adaopt.GradientStatistics(4, G),
  shown='which is None',
)
CASES = [
  Case(noise.noise_scale, dict(half_life=10), dict(half_life=kinds.positive)),
  Case(
    noise.noise_report,
    dict(opt_state=NOISE_STATE, params=G),
    dict(
      opt_state=no_state
      + kind('chain one', (NOISE_STATE,) * 2, shown='states of 2 noise_scale'),
      params=kind('initialised with', None, {}, shown='got 0')
      + kind('initialised with', [G, G], shown='got 2'),
      batch_size=tuple(w for w in kinds.count if w.value is not None),
    ),
    named=dict(opt_state='noise_scale', params='parameters'),
  ),
  Case(
    noise.noise_estimates,
    dict(state=NOISE_STATE),
    dict(state=no_state),
  ),
  *(
    Case(
      public,
      dict(report=REPORT),
      dict(
        report=kind('noise_report(', None, 'x', 1.0, {}, abs, shown='got')
        + kind('noise_report(', NOISE_STATE, shown='got NoiseScaleState')
        + kind('noise_report(', REPORT.total, shown='got NoiseRow')
      ),
    )
    for public in (noise.noise_table, noise.noise_advice)
  ),
  Case(
    noise.between_micro_batches,
    dict(gradients={'w': jnp.ones([3, 2])}, micro_batch_size=4),
    dict(
      micro_batch_size=kinds.count,
      gradients=kind('no array', None, {}, shown='no array')
      + kind('leading', {'w': 1.0}, 2.0, shown='scalar')
      + kind('must be equal', [jnp.ones(2), jnp.ones(3)], shown='2, ')
      + kind('only arrays of numbers', 'a', {'w': abs}, shown="'a"),
    ),
    named=dict(gradients='gradients'),
  ),
  Case(
    noise.between_devices,
    dict(axis_name='x', micro_batch_size=4),
    dict(
      axis_name=kinds.axis_name + kind('of jax.shard_map', None),
      micro_batch_size=kinds.count,
      gradient=kind('only arrays', {'w': 'a'}, abs, shown='gradient')
      + kind('pass that of the loss', None, {}, shown='no array'),
    ),
    in_map(
      lambda w, **more: noise.between_devices(**dict(gradient={'w': w}) | more)
    ),
  ),
  Case(
    noise.from_two_sizes,
    dict(gradient=G, squared_norms=8.0, batch_size=8, micro_batch_size=2),
    dict(
      batch_size=kinds.count + kind('is not below', 2, 1, shown='batch_size='),
      micro_batch_size=kinds.count
      + kind('is not below', 8, 9, shown='micro_batch_size='),
      squared_norms=kind(
        'must be like the parameters', {'w': 8.0}, None, shown='got'
      )
      + kind('must have the shape', jnp.ones(2), shown='got [2]')
      + kind('arrays of numbers', 'a', abs, shown='squared_norms'),
      gradient=kind('arrays of numbers', 'a', abs, shown='gradient')
      + kind('must be like', {'w': G}, None, shown='got'),
    ),
    named=dict(gradient='', squared_norms='squared_norms'),
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
    for public in (
      noise.gradient_snr,
      noise.debiased_gradient_snr,
      noise.stopping_evidence,
    )
  ),
  *(
    Case(
      public,
      dict(statistics=STATISTICS, curvature=G),
      dict(
        statistics=kind(
          'such as value_and_statistics returns',
          *(None, {}, G, abs, 'x', 1.0),
          shown='got',
        )
        + without_variance,
        curvature=kind('must be like', {'w': G}, None, shown='got')
        + kind('must have the shape', jnp.ones(3), 1.0, shown='got [')
        + kind('arrays of numbers', 'a', abs, shown='curvature')
        + kind('must be real numbers', G * 1j, shown='got complex64'),
        damping=kinds.not_negative,
      ),
      named=dict(statistics='tatistics'),
    )
    for public in (noise.tic_trace, noise.tic_diagonal)
  ),
  Case(
    noise.hessian_diagonal,
    dict(loss=lambda p: jnp.sum(p**2), params=G, key=jax.random.key(0)),
    dict(
      loss=kinds.functions_of('of params')
      + kind('cannot be called', kinds.no_argument, shown='no_argument')
      + kind('a real scalar', kinds.returns_none, shown='got None')
      + kind('a real scalar', kinds.returns_text, shown="got '0.5'")
      + kind('a real scalar', kinds.returns_vector, shown='got float32[3]')
      + kind('a real scalar', kinds.returns_complex, shown='got 1j'),
      params=kinds.params
      + kind('must be real', jnp.ones(2, complex), shown='got complex64'),
      key=kinds.key,
      num_probes=kinds.count,
    ),
    named=dict(params='param'),
  ),
  Case(
    noise.average_of,
    dict(measure=noise.stopping_evidence, half_life=10),
    dict(
      measure=kinds.functions_of('of the statistics')
      + kind('cannot be called', kinds.no_argument, shown='no_argument')
      + kind('must return real numbers', kinds.returns_none, shown='got None')
      + kind('must return real', kinds.returns_text, shown="'0.5'")
      + kind('must return real', kinds.returns_vector, shown='float32[3]')
      + kind('must return real', kinds.returns_complex, shown='1j'),
      half_life=kinds.positive,
    ),
    lambda **arguments: noise.average_of(**arguments).init(G),
  ),
  Case(
    noise.between_steps,
    dict(instrument=NOISE, batch_size=4),
    dict(instrument=kinds.optimizer, batch_size=kinds.count),
  ),
  Case(
    noise.two_level,
    dict(gradients={'w': jnp.ones([3, 2, 4])}),
    dict(
      gradients=kind('no array', None, {}, shown='no array')
      + kind('leading', {'w': 1.0}, 2.0, shown='scalar')
      + kind('must be equal', [jnp.ones(2), jnp.ones(3)], shown='2, ')
      + kind('only arrays of numbers', 'a', {'w': abs}, shown="'a")
      + kind('at least two of each', jnp.ones([3, 1]), shown='[3, 1]')
      + kind('at least two of each', jnp.ones([1, 3]), shown='[1, 3]')
      + kind(
        'at least two of each',
        [jnp.ones([3, 2]), jnp.ones([3, 4])],
        shown='[3, 2], [3, 4]',
      ),
    ),
    named=dict(gradients='gradients'),
  ),
  Case(
    noise.two_level_from_sums,
    dict(between=jnp.ones(3), within=jnp.ones(3), group_size=4),
    {
      name: kind('at least two groups', 1.0, jnp.ones([3, 1]), shown='[')
      + kind('at least two groups', jnp.ones(2), jnp.ones(1), shown='[3]')
      + kind('must be numbers', 'x', abs, {}, shown='got')
      + kind('must be real numbers', jnp.ones(3) * 1j, shown='got complex')
      for name in ('between', 'within')
    }
    | dict(group_size=kinds.integers(2)),
  ),
  Case(
    noise.best_group_size,
    dict(
      components=noise.two_level(jnp.arange(6.0).reshape(3, 2)),
      group_cost=1.0,
      member_cost=2.0,
    ),
    dict(
      components=kind(
        'of two_level(gradients)', None, {}, 'x', 1.0, G, abs, shown='got'
      ),
      group_cost=kinds.positive,
      member_cost=kinds.positive,
    ),
  ),
]
