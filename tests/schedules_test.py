"""If these fail, Seesaw cuts or grows by another factor, or elsewhere."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adaopt


def test_seesaw_cuts_by_the_root_and_grows_by_the_factor_at_each_boundary():
  learning_rate, batch_size = adaopt.seesaw(0.8, 10, [100, 300, 301], 4.0)
  examples = [0, 99, 100, 299, 300, 301, 10_000]
  np.testing.assert_allclose(
    [learning_rate(n) for n in examples],
    [0.8, 0.8, 0.4, 0.4, 0.2, 0.1, 0.1],
    rtol=1e-6,
  )
  np.testing.assert_allclose(
    [batch_size(n) for n in examples],
    [10, 10, 40, 40, 160, 640, 640],
    rtol=1e-6,
  )


@pytest.mark.parametrize('factor', [1.5, 2.0, 10.0])
def test_rate_over_root_of_batch_falls_as_with_the_schedule_replaced(factor):
  boundaries = [10, 20, 35]
  learning_rate, batch_size = adaopt.seesaw(0.3, 64, boundaries, factor)
  replaced = optax.piecewise_constant_schedule(
    0.3, dict.fromkeys(boundaries, 1 / factor)
  )
  for n in (0, 10, 19, 20, 50):
    ratio = learning_rate(n) / np.sqrt(batch_size(n))
    np.testing.assert_allclose(ratio, replaced(n) / 8, rtol=1e-6)


def test_seesaw_schedules_the_transforms_by_the_examples_seen():
  learning_rate, batch_size = adaopt.seesaw(0.1, 3, boundaries=[6, 12])
  optimizer = optax.chain(
    adaopt.schedule_batch_size(batch_size),
    adaopt.scale_by_example_schedule(learning_rate),
  )
  updates = jnp.ones([])
  state = optimizer.init(updates)
  sizes, rates = [], []
  for _ in range(5):
    b = optax.tree.get(state, 'batch_size')
    statistics = adaopt.GradientStatistics(b, updates)
    scaled, state = optimizer.update(updates, state, statistics=statistics)
    sizes.append(int(b))
    rates.append(scaled)
  assert sizes == [3, 3, 6, 12, 12]
  np.testing.assert_allclose(rates, 0.1 / np.sqrt([1, 1, 2, 4, 4]), rtol=1e-6)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (dict(learning_rate=0), 'learning_rate must be positive .* got 0'),
    (dict(batch_size=8.5), r'batch_size must be an integer .* got 8\.5'),
    (dict(factor=1.0), r'factor must be above 1, got 1\.0'),
    (dict(factor=np.inf), 'factor must be positive and finite, got inf'),
    (dict(boundaries=[0.5]), r'boundary must be an integer .* got 0\.5'),
    (dict(boundaries=[20, 10]), r'boundaries must rise, got \[20, 10\]'),
    (dict(boundaries=[10, 10]), r'boundaries must rise, got \[10, 10\]'),
  ],
)
def test_seesaw_refuses(options, message):
  good = dict(learning_rate=0.1, batch_size=8, boundaries=[10], factor=2.0)
  with pytest.raises(ValueError, match=message):
    adaopt.seesaw(**good | options)
