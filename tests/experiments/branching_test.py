"""A critical batch size read off wrong, or a branch that is not its trunk's."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adaopt
from adaopt.experiments import models
from adaopt.experiments.branching import __main__ as branching
from adaopt.experiments.branching import branches, crossing, reporting
from adaopt.experiments.configs import frontier
from adaopt.experiments.frontier import training

SIZES = np.array([8, 16, 32, 64])
NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
  ('above', 'size', 'bound'),
  [
    # Half way from 0.00 to 0.02 in the logarithm: √2 · 16.
    ([0.0, 0.0, 0.02, 0.5], 16 * 2**0.5, ''),
    # From −0.01 to 0.03, half way too.
    ([0.0, -0.01, 0.03, 0.5], 16 * 2**0.5, ''),
    # Exactly at the tolerance passes.
    ([0.0, 0.0, 0.01, 0.5], 32.0, ''),
    ([0.0, 0.0, 0.0, 0.01], 64.0, '≥'),
    # The second size fails: the first may be too large itself.
    ([0.0, 0.02, 0.1, 0.5], 8 * 2**0.5, '≤'),
    # The largest that passes, though a smaller one does not.
    ([0.0, 0.02, 0.0, 0.02], 32 * 2**0.5, ''),
    # Nothing to interpolate to.
    ([0.0, 0.0, INF, INF], 16.0, ''),
    ([0.0, 0.005, 0.005, NAN], 32.0, ''),
    ([0.0, NAN, NAN, NAN], 8.0, '≤'),
    # The smallest one diverged, and with it what all are compared to.
    ([NAN, NAN, NAN, NAN], NAN, ''),
  ],
)
def test_the_crossing_is_interpolated_in_the_logarithm(above, size, bound):
  found = crossing.crossing(SIZES, np.array(above), 0.01)
  np.testing.assert_allclose(found[0], size, rtol=1e-12)
  assert found[1] == bound


def test_excess_is_of_means_with_the_error_of_paired_differences():
  losses = np.array([[1.0, 3.0], [1.2, 3.4], [NAN, 3.0]])
  above, error = crossing.excess(losses)
  # Differences 0.2 and 0.4 over the mean 2: 0.1 and 0.2.
  np.testing.assert_allclose(above, [0.0, 0.15, NAN])
  np.testing.assert_allclose(error, [0.0, 0.05, NAN])
  assert np.isnan(crossing.excess(losses[:, :1])[1]).all()


def test_the_error_of_a_critical_size_is_the_jackknifes():
  losses = np.ones([3, 3])
  losses[2] = 1.02, 1.04, 1.08
  found = crossing.critical(np.array([8, 16, 32]), losses, 0.02)
  logs = [16 * 2 ** (0.02 / x) for x in (0.06, 0.05, 0.03)]
  logs = np.log(logs)
  spread = np.sum((logs - logs.mean()) ** 2)
  np.testing.assert_allclose(found.error, np.sqrt(2 / 3 * spread))
  np.testing.assert_allclose(found.batch_size, 16 * 2 ** (0.02 / (0.14 / 3)))
  # No seed moves a bound.
  bound = crossing.critical(np.array([8, 16, 32]), np.ones([3, 3]), 0.02)
  assert bound == (32.0, 0.0, '≥')


def test_sizes_divide_the_examples_of_a_branch():
  config = frontier.get_config('digits')
  assert branches.sizes(config, 32) == [8, 16, 32]
  assert branches.default_examples(config) == 2048  # ≤ 60 000 / 20
  for wrong in (8, 20, 24):
    with pytest.raises(ValueError, match=f'branch of {wrong} .* power of 2'):
      branches.sizes(config, wrong)


def test_sizes_of_a_curve_are_interpolated_in_the_logarithm():
  curve = [(0, 8), (100, 32)]
  np.testing.assert_allclose(reporting.size_at(curve, 50), 16.0)
  assert reporting.size_at(curve, 500) == pytest.approx(32.0)


def tiny_digits():
  config = frontier.get_config('digits')
  config.num_examples = 640
  config.micro_batch_sizes = (32,)
  return config


@pytest.fixture(scope='module')
def splits():
  return training.load(tiny_digits(), None)


PLAN = branches.Plan(learning_rate=0.02, num_examples=32, num_seeds=2)


@pytest.fixture(scope='module')
def trunk(splits):
  """One, as its programs take long to compile."""
  return branches.make_trunk(tiny_digits(), PLAN, splits)


@pytest.mark.slow
def test_a_branch_of_one_step_and_the_noise_scale_before_the_first(
  splits, trunk
):
  config = tiny_digits()
  point = trunk(0)
  model = models.MODELS[config.model]()

  def loss_fn(params, batch):
    logits = model.apply(params, batch['input'])
    return jnp.mean(
      optax.softmax_cross_entropy_with_integer_labels(logits, batch['label'])
    )

  params = model.init(jax.random.key(0), splits['train']['input'][:2])
  losses = []
  for seed in (1, 2):
    batch = adaopt.draw(splits['train'], seed, jnp.arange(32))
    gradient = jax.grad(loss_fn)(params, batch)
    # A batch of 4 · 8 has 4 times the rate; the momentum starts at 0.
    moved = jax.tree.map(lambda x, g: x - 0.08 * g, params, gradient)
    losses.append(loss_fn(moved, splits['validation']))
  # Rounding of float32 sums in another order.
  np.testing.assert_allclose(point.losses[-1], losses, rtol=1e-5)
  np.testing.assert_allclose(
    point.loss, loss_fn(params, splits['validation']), rtol=1e-5
  )
  estimate = jax.jit(adaopt.value_and_statistics(loss_fn))
  _, statistics = estimate(params, splits['train'])
  v = sum(map(float, jax.tree.leaves(statistics.variance)))
  m = float(optax.tree.norm(statistics.mean, squared=True))
  np.testing.assert_allclose(point.noise_scale, v / m, rtol=1e-4)
  assert np.isnan(point.running_noise_scale)


@pytest.mark.slow
def test_points_are_run_once_and_reported(trunk, tmp_path, monkeypatch):
  config = tiny_digits()
  monkeypatch.setattr(branches, 'make_trunk', lambda *_: trunk)

  def run(shares):
    return branching.run_all(config, PLAN, shares, 0.01, None, tmp_path)

  table = run([0.5, 0.25])
  rows = [line.split('|')[1].strip() for line in table.splitlines()[2:]]
  assert rows == ['160', '320']
  assert (tmp_path / 'branching.md').read_text() == table + '\n'
  assert (tmp_path / 'branching.png').read_bytes().startswith(b'\x89PNG')
  _, *lines = (tmp_path / 'branching.jsonl').read_text().splitlines()
  names, values = zip(*map(json.loads, lines), strict=True)
  assert names == (
    'branches at 160',
    'branches at 320',
    'adaptive_1',
    'adaptive_1p5',
  )
  assert values[2][0] == values[3][0] == [0, 8]
  for value in values[:2]:
    point = branches.Point(**value)
    assert point.batch_sizes == [8, 16, 32]
    assert np.isfinite(point.losses).all()
    assert point.running_noise_scale > 0
    # Streams differ, and batch sizes.
    assert len(set(np.ravel(point.losses))) == 6

  def refuse(*_):
    return lambda _: pytest.fail('ran again')

  monkeypatch.setattr(branches, 'make_trunk', refuse)
  monkeypatch.setattr(branches, 'make_adaptive', refuse)
  assert run([0.25, 0.5]) == table
  other = PLAN._replace(learning_rate=0.01)
  with pytest.raises(ValueError, match='other settings'):
    branching.run_all(config, other, [0.5], 0.01, None, tmp_path)
