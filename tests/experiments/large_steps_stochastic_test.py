"""Batches that are not what they are called, or examples that go uncounted."""

import csv

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripts

import adaopt
from adaopt import logistic
from adaopt.experiments.large_steps import (
  separable,
  stochastic,
  usage,
  walks,
)


@pytest.fixture(name='problem', scope='module')
def make_problem():
  return stochastic.scaled(separable.digits_pair((1, 8)))


def trace(make, problem, step_sizes, budget, over=jax.vmap, seeds=(0, 1)):
  seen = walks.trace(
    make,
    problem,
    jnp.array(step_sizes),
    jnp.array(seeds),
    budget=budget,
    checks=4,
    over=over,
  )
  return jax.tree.map(np.asarray, seen)


def params_after(walk, steps):
  state = walk.state
  for _ in range(steps):
    state = walk.step(state)
  return walk.view(state)


def test_features_have_radius_one(problem):
  np.testing.assert_allclose(problem.radius, 1, rtol=1e-6)


def test_examples_without_features_are_left_out():
  pair = separable.digits_pair((1, 8))
  some = pair._replace(features=pair.features * (np.arange(356) != 3)[:, None])
  assert stochastic.scaled(some).features.shape == (355, 64)


@pytest.mark.slow
def test_batches_are_those_of_sampled(problem):
  make = walks.on_batches(logistic.normalized_lr_gd, 8)
  view = params_after(make(problem, 2.0, 5), 6)
  method = logistic.sampled(
    logistic.normalized_lr_gd(2.0), 8, jax.random.key(5)
  )
  state = method.init(problem)
  for _ in range(6):
    state = method.step(state, problem)
  # Sums in another order, in float32.
  np.testing.assert_allclose(view.params, state.params, atol=1e-5)
  assert (view.updates, view.examples) == (6, 48)


@pytest.mark.slow
def test_the_toolkit_on_whole_batches_is_normalized_lr_gd(problem):
  n = len(problem.signs)
  make = walks.adapting(adaopt.normalized_lr_gd, adaopt.norm_test(0.5), n)
  view = params_after(make(problem, 3.0, jnp.array(0)), 4)
  method = logistic.normalized_lr_gd(3.0)
  state = method.init(problem)
  for _ in range(4):
    state = method.step(state, problem)
  np.testing.assert_allclose(view.params, state.params, rtol=1e-3, atol=1e-4)
  assert (view.updates, view.examples) == (4, 4 * n)


def test_every_walk_pays_for_the_examples_it_sees(problem):
  n = len(problem.signs)
  whole = trace(walks.on_all(logistic.lr_gd), problem, [1.0, 9.0], 4 * n)
  np.testing.assert_array_equal(whole.updates, np.tile(range(5), [2, 2, 1]))
  np.testing.assert_array_equal(whole.examples, n * whole.updates)
  # θ_0 = 0 errs everywhere.
  np.testing.assert_array_equal(whole.errors[..., 0], n)
  np.testing.assert_allclose(whole.loss[..., 0], np.log(2), rtol=1e-6)
  few = trace(walks.on_batches(logistic.lr_gd, 7), problem, [1.0], 400)
  targets = np.arange(5) * 100
  assert np.all((few.examples >= targets) & (few.examples < targets + 7))
  np.testing.assert_array_equal(few.examples, 7 * few.updates)


def test_a_batch_that_adapts_grows_up_to_all_examples(problem):
  make = walks.adapting(adaopt.normalized_lr_gd, adaopt.norm_test(0.9), 4)
  seen = trace(make, problem, [10.0], 2000, over=walks.mapped)
  sizes = np.diff(seen.examples) / np.maximum(np.diff(seen.updates), 1)
  assert np.all(sizes[..., -1] > sizes[..., 0])
  assert np.all(seen.examples[..., -1] < 2000 + len(problem.signs))
  assert np.any(seen.updates[0, 0] != seen.updates[0, 1])  # Of two seeds.


def make_seen():
  """Two step sizes and two seeds of 10 examples, checked at 0, 20 and 40."""
  shape = (2, 2, 3)
  return walks.Seen(
    updates=np.broadcast_to([0, 2, 4], shape),
    examples=np.broadcast_to([0, 20, 40], shape),
    errors=np.array(
      [[[10, 3, 1], [10, 2, 2]], [[10, 0, 1], [10, 5, 0]]],
    ),
    loss=np.broadcast_to([0.7, 0.2, 0.3], shape),
  )


def test_rows_say_when_all_examples_were_on_their_side():
  rows = usage.summarise('p', 'm', ['a', 'b'], make_seen(), 10)
  assert list(rows.seed) == [0, 1, 0, 1]
  assert list(rows.passes) == [np.inf, np.inf, 2, 4]
  assert list(rows.solved_by) == [np.inf, np.inf, 2, 4]
  assert list(rows.error) == [10, 20, 10, 0]
  assert set(rows.mean_batch_size) == {10}
  assert set(rows.rises) == {1}
  assert usage.best(rows) == 'b'
  assert '| 3.0 ± 1.4 ' in usage.table(rows)
  rows.loc[3, 'passes'] = np.inf
  assert '| 2.0 (1 never) ' in usage.table(rows)
  assert usage.best(rows) == 'b'  # One of two seeds, not none.


@pytest.mark.slow
def test_the_script_leaves_a_table_and_a_picture(tmp_path):
  done = scripts.run(
    'large_steps.stochastic',
    f'--workdir={tmp_path}',
    '--stochastic_problem=digits_1_8',
    '--contender=LR+GD',
    '--contender=perceptron, b = 1',
    '--examples=3000',
    '--seeds=2',
  )
  assert done.returncode == 0, done.stderr
  assert (tmp_path / 'stochastic.png').stat().st_size > 0
  assert (tmp_path / 'stochastic.md').read_text().strip() in done.stdout
  with (tmp_path / 'stochastic.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == len(stochastic.STEP_SIZES) + 2


def test_missing_files_are_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='a9a needs a9a and'):
    stochastic.PROBLEMS['a9a'](str(tmp_path))
