"""If these fail, Seesaw cuts elsewhere than the schedule it stands for."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adaopt
from adaopt.batch_size import seesaw_from_schedule

N = 20_000
SCHEDULES = {
  'cosine': optax.cosine_decay_schedule(0.3, N),
  'warm-up': optax.warmup_cosine_decay_schedule(0.0, 0.3, 3001, N, 0.003),
  'linear': optax.linear_schedule(0.3, 0.0, N),
  'warm-up, stable, decay': optax.join_schedules(
    [
      optax.linear_schedule(0.1, 0.3, 500),
      optax.constant_schedule(0.3),
      optax.linear_schedule(0.3, 0.01, N - 10_000),
    ],
    [500, 10_000],
  ),
  'exponential': optax.exponential_decay(0.3, N // 5, 0.5, staircase=True),
}


def _oracle(values, init, largest, factor):
  """Rates and sizes at every example, by a walk over all of them."""
  top = int(np.argmax(values))
  rates, sizes, cuts = values.copy(), np.full(len(values), init, float), 0
  for n in range(top, len(values)):
    # A rounding of float32 counts as come to.
    while 0 < values[n] <= values[top] * factor ** -(cuts + 1) * (1 + 1e-6):
      cuts += 1
    sizes[n] = min(init * factor**cuts, largest)
    if values[n] > 0:
      rates[n] = values[top] * factor**-cuts * np.sqrt(sizes[n] / init)
  return rates, sizes


@pytest.mark.slow
@pytest.mark.parametrize('factor', [2.0, 1.3])
@pytest.mark.parametrize('name', SCHEDULES)
def test_rates_and_sizes_are_those_of_a_walk_over_all_examples(name, factor):
  schedule = SCHEDULES[name]
  rate, size = seesaw_from_schedule(
    schedule, 16, 300, num_examples=N, factor=factor
  )
  examples = jnp.arange(N, dtype=jnp.int32)
  values = np.asarray(jax.vmap(schedule)(examples), np.float64)
  rates, sizes = _oracle(values, 16, 300, factor)
  np.testing.assert_allclose(jax.vmap(rate)(examples), rates, rtol=2e-6)
  np.testing.assert_allclose(jax.vmap(size)(examples), sizes, rtol=2e-6)
  assert sizes[-1] > 200
  # α / √b is that of the schedule, but for less than one cut.
  positive = values > 0
  ratio = (rates / np.sqrt(sizes / 16))[positive] / values[positive]
  assert ratio.min() > 1 - 2e-6
  assert ratio.max() < factor + 2e-6


def test_without_an_end_of_growth_it_is_seesaw_at_its_boundaries():
  replaced = optax.piecewise_constant_schedule(0.3, {700: 0.5, 1500: 0.5})
  found = seesaw_from_schedule(replaced, 8, 1000, num_examples=2000)
  expected = adaopt.seesaw(0.3, 8, [700, 1500], factor=2.0)
  for n in (0, 699, 700, 1499, 1500, 1999, 10**6):
    for one, other in zip(found, expected, strict=True):
      np.testing.assert_allclose(one(n), other(n), rtol=1e-6)


def test_a_long_budget_is_searched_to_the_example():
  budget = 2**31 - 1
  schedule = optax.linear_schedule(1.0, 0.0, 2**30)
  _, size = seesaw_from_schedule(schedule, 1, 4, num_examples=budget)
  # 1 − n / 2³⁰ in float32 is at most ½ (1 + 1e-6) from n = 2²⁹ − 537 on; its
  # own rounding is 2⁻²⁵, 32 examples.
  assert [int(size(n)) for n in (2**29 - 600, 2**29)] == [1, 2]


def test_transforms_take_both():
  cosine = optax.cosine_decay_schedule(0.1, 200)
  rate, size = seesaw_from_schedule(cosine, 4, 32, num_examples=200)
  optimizer = optax.chain(
    adaopt.schedule_batch_size(size), adaopt.scale_by_example_schedule(rate)
  )
  updates = jnp.ones([])
  state, sizes, seen = optimizer.init(updates), [], 0
  while seen < 200:
    b = optax.tree.get(state, 'batch_size')
    statistics = adaopt.GradientStatistics(b, updates)
    scaled, state = optimizer.update(updates, state, statistics=statistics)
    np.testing.assert_allclose(scaled, rate(seen), rtol=1e-6)
    sizes.append(int(b))
    seen += int(b)
  assert sorted(set(sizes)) == [4, 8, 16, 32]
  assert sizes == sorted(sizes)


@pytest.mark.parametrize(
  ('options', 'sentence'),
  [
    (dict(schedule=0.1), r'schedule must be a function .* got 0\.1'),
    (
      dict(schedule=optax.constant_schedule(0.0)),
      r'schedule must be .* above 0 within num_examples=100, got 0\.0',
    ),
    (
      dict(schedule=lambda n: jnp.where(n > 50, jnp.nan, 1.0)),
      'schedule must be finite',
    ),
    (
      dict(schedule=lambda n: jnp.where(n == 60, 0.9, 1.0 - n / 100)),
      'schedule must not rise after its maximum.* near n=60',
    ),
    (dict(init_batch_size=32), 'init_batch_size=32 exceeds max_batch_size=16'),
    (dict(factor=1.0), r'factor must be above 1, got 1\.0'),
    (dict(factor=1.001), r'factor=1\.001 makes \d+ cuts of the schedule'),
    (dict(num_examples=2**31), 'num_examples must be an integer'),
  ],
)
def test_what_is_out_of_range_is_refused(options, sentence):
  good = dict(
    schedule=optax.cosine_decay_schedule(0.1, 100),
    init_batch_size=8,
    max_batch_size=16,
    num_examples=100,
  )
  with pytest.raises(ValueError, match=sentence):
    seesaw_from_schedule(**good | options)


def test_a_rise_is_seen_where_it_is_wider_than_the_points_are_apart():
  # 2049 points of 20480 examples are 10 apart.
  def with_rise(width):
    return lambda n: jnp.where(
      (n >= 10_001) & (n < 10_001 + width), 0.25, 0.3 - 1e-5 * n
    )

  build = lambda width: seesaw_from_schedule(
    with_rise(width), 8, 64, num_examples=20_481
  )
  with pytest.raises(ValueError, match='rises near n=1001'):
    build(20)
  build(5)
