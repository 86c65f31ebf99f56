"""If these fail, a policy moves the batch size where it should stay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adaopt
from adaopt.batch_size import policies

NAN, INF = float('nan'), float('inf')
LARGEST = 2**31 - 1


@pytest.mark.slow
@pytest.mark.parametrize(
  ('policy', 'current', 'required', 'expected'),
  [
    (adaopt.follow, 8, 3.5, 4),
    (adaopt.follow, 8, INF, LARGEST),
    (adaopt.batch_size.measure, 8, 3.5, 8),
    (adaopt.batch_size.measure, 8, INF, 8),
    (adaopt.batch_size.hysteresis(4.0), 64, 16.0, 64),
    (adaopt.batch_size.hysteresis(4.0), 64, 15.9, 16),
    (adaopt.batch_size.hysteresis(4.0), 64, 64.0, 64),
    (adaopt.batch_size.hysteresis(4.0), 64, 65.5, 66),
    (adaopt.batch_size.hysteresis(4.0), 64, 0.0, 0),
    (lambda current, required: required, 8, 3.5, 8),
    (lambda current, required: required, 8, 9.5, 9.5),
    (jnp.maximum, 8, 9.5, 10),
    (jnp.maximum, 8, INF, LARGEST),
    (adaopt.capped_growth(2.0), 8, 3.5, 8),
    (adaopt.capped_growth(2.0), 8, 9.5, 10),
    (adaopt.capped_growth(2.0), 8, INF, 16),
    (adaopt.batch_size.geometric_growth(1.5), 8, 8.0, 8),
    (adaopt.batch_size.geometric_growth(1.5), 8, 8.5, 12),
    (adaopt.batch_size.geometric_growth(1.5), 8, INF, 12),
  ],
)
def test_next_sizes(policy, current, required, expected):
  next_size = policies.declared(policy).next_size
  assert next_size(current, required) == expected
  traced = jax.jit(next_size)(jnp.int32(current), jnp.float32(required))
  assert traced == expected


@pytest.mark.parametrize(
  ('policy', 'sizes', 'due'),
  [
    (adaopt.follow, [64, 9, 64], True),
    (adaopt.batch_size.geometric_growth(2.0), [16, 16, 32], True),
    (adaopt.batch_size.geometric_growth(8.0), [64, 64, 64], False),
    (lambda current, required: required, [64, 64, 64], False),
    (adaopt.batch_size.measure, [8, 8, 8], True),
    # 9 < 64 / 4, at the largest size.
    (adaopt.batch_size.hysteresis(4.0), [64, 9, 64], True),
    (adaopt.batch_size.hysteresis(8.0), [64, 64, 64], True),
    (
      adaopt.Policy(
        lambda current, required: jnp.where(
          required < current / 4, current / 2, jnp.maximum(current, required)
        )
      ),
      [64, 32, 64],
      True,
    ),
  ],
)
def test_a_held_size_moves_by_the_policy(policy, sizes, due):
  transform = adaopt.adapt_batch_size(
    lambda statistics: statistics.variance,
    init_batch_size=8,
    max_batch_size=64,
    policy=policy,
  )
  updates = jnp.ones(1)
  state = transform.init(updates)
  found = []
  for required in (1000.0, 9.0, 1000.0):
    statistics = adaopt.GradientStatistics(
      jnp.int32(8), updates, jnp.float32(required)
    )
    _, state = transform.update(updates, state, statistics=statistics)
    found.append(int(state.batch_size))
  assert found == sizes
  assert bool(state.test_due) == due


@pytest.mark.parametrize('factor', [1.0, 0.25, 0, -2.0, NAN, INF])
@pytest.mark.parametrize(
  'policy',
  [
    adaopt.capped_growth,
    adaopt.batch_size.geometric_growth,
    adaopt.batch_size.hysteresis,
  ],
)
def test_a_factor_that_does_not_grow_is_refused(policy, factor):
  with pytest.raises(ValueError, match=f'factor .* got {factor}'):
    policy(factor)


def test_a_factor_may_be_traced():
  sizes = jax.jit(
    jax.vmap(
      lambda factor: adaopt.batch_size.geometric_growth(factor)(8.0, 9.0)
    )
  )(jnp.array([1.5, 2.0]))
  np.testing.assert_array_equal(sizes, [12, 16])
