"""A frontier that credits a scheme with steps that it did not save."""

import json
import math
import pathlib

import hypothesis
import jax
import numpy as np
import optax
import pytest
from hypothesis import strategies as st

import adaopt
from adaopt.experiments import datasets, models, runs, schemes
from adaopt.experiments.configs import digits
from adaopt.experiments.configs import frontier as workloads
from adaopt.experiments.frontier import (
  plan,
  reporting,
  saving,
  search,
  training,
  trials,
)
from adaopt.experiments.plots import frontier as pictures

OUTCOME = trials.Outcome(
  steps=10,
  examples=160,
  train_loss=0.5,
  validation_loss=0.6,
  test_loss=0.7,
  test_accuracy=0.8,
  seconds=1.0,
  rounds=(10, 10, 10),
  curve=((0, 16), (80, 16)),
)


def at(steps, *losses):
  return saving.Point(np.full(len(losses), float(steps)), np.array(losses))


FIXED = [at(1000, 0.1, 0.1), at(100, 0.2, 0.2), at(10, 0.4, 0.4)]


@pytest.mark.parametrize(
  ('scheme', 'share', 'bound'),
  [
    # Half-way between 0.1 and 0.2 the frontier takes 10^2.5 steps.
    (at(100, 0.15, 0.15), 1 - 10**-0.5, ''),
    (at(100, 0.1, 0.1), 0.9, ''),
    (at(1000, 0.1, 0.1), 0.0, ''),
    (at(1000, 0.2, 0.2), -9.0, ''),
    (at(500, 0.05, 0.05), 0.5, '≥'),
    (at(10, 0.5, 0.5), 0.0, '≤'),
  ],
)
def test_steps_are_saved_at_equal_loss(scheme, share, bound):
  found = saving.saving(scheme, FIXED)
  assert found.share == pytest.approx(share, abs=1e-12)
  assert found.error == pytest.approx(0, abs=1e-12)
  assert found.bound == bound


def test_a_batch_size_that_another_beats_in_steps_and_loss_does_not_count():
  worse = at(500, 0.3, 0.3)
  scheme = at(100, 0.15, 0.15)
  assert saving.saving(scheme, [*FIXED, worse]) == saving.saving(scheme, FIXED)


def test_the_standard_error_is_that_of_the_mean():
  # On a frontier of one slope, log S_F is linear in the loss, and so is the
  # error: 1/slope times that of the mean loss.
  losses = np.array([0.14, 0.15, 0.18])
  fixed = [at(1000, *[0.1] * 3), at(10, *[0.3] * 3)]
  slope = math.log(100) / 0.2
  found = saving.saving(at(50, *losses), fixed)
  error = slope * np.std(losses, ddof=1) / math.sqrt(3)
  assert found.error == pytest.approx((1 - found.share) * error)


def test_one_seed_has_no_standard_error():
  fixed = [at(1000, 0.1), at(10, 0.3)]
  assert math.isnan(saving.saving(at(50, 0.2), fixed).error)


@hypothesis.given(st.floats(-12, 12), st.floats(0.01, 100), st.floats(0.1, 10))
def test_the_search_finds_the_best_rate_of_the_grid(shift, guess, width):
  optimum = guess * 2**shift / 3
  loss_of = lambda rate: width * abs(math.log(rate / optimum))
  try:
    found = search.best_rate(loss_of, guess)
  except ValueError as error:
    assert 'edge of the grid' in str(error)  # noqa: PT017
    assert abs(math.log2(optimum / guess)) > search.MOST - 4
  else:
    assert loss_of(found) <= min(loss_of(found / 2), loss_of(2 * found))


def test_a_rate_that_diverges_is_never_chosen():
  loss_of = lambda rate: 1 / rate if rate < 0.5 else math.nan
  assert search.best_rate(loss_of, 1.0) == 0.25
  with pytest.raises(ValueError, match='edge of the grid'):
    search.best_rate(lambda rate: math.nan, 1.0)


@pytest.mark.parametrize('name', workloads.WORKLOADS)
def test_every_workload_names_what_there_is(name):
  config = workloads.get_config(name)
  sizes = config.batch_sizes
  assert len(sizes) >= 6
  assert config.init in sizes
  assert config.dataset in datasets.DATASETS
  assert config.model in models.MODELS
  assert config.augmentation in runs.DRAWS
  for scheme in (*config.fixed, *config.schemes):
    optimizer = schemes.make_optimizer(plan.scheme_of(config, scheme)[0])
    jax.eval_shape(optimizer.init, {'w': np.zeros(3, np.float32)})


def test_an_override_of_the_budget_reaches_the_learning_rates():
  config = workloads.get_config()
  config.num_examples = 1000
  for name in ('fixed_8', 'adaptive_1', 'goodput_8'):
    scheme, _ = plan.scheme_of(config, name)
    assert scheme.learning_rate.decay_steps == 1000
  assert plan.scheme_of(config, 'seesaw')[0].num_examples == 1000


def test_a_config_of_another_experiment_is_refused():
  with pytest.raises(ValueError, match='no fixed batch sizes'):
    plan.check(digits.get_config())


def test_schemes_start_at_a_fixed_batch_size():
  config = workloads.get_config()
  plan.check(config)
  config.init = 9
  with pytest.raises(ValueError, match=r'init=9 must be one of the .* 8, 16,'):
    plan.check(config)


@pytest.mark.parametrize('name', ['adaptive_1p5', 'b2_adaptive_1p5', 'cabs_1'])
def test_a_parameter_may_have_any_name(name):
  """Those of LayerNorm are called scale, also in the moments of Adam."""
  scheme, held = plan.scheme_of(workloads.get_config('shakespeare'), name)
  optimizer = schemes.make_optimizer(scheme)
  params = {'scale': np.zeros(3, np.float32)}
  state = adaopt.init_train_state(params, optimizer)
  state = training.holding(state, **held)
  found = optax.tree.get(state.opt_state, 'requirement_scale')
  assert found == pytest.approx(held['requirement_scale'])


def test_unknown_workloads_and_schemes_are_named():
  with pytest.raises(ValueError, match="unknown workload 'x'"):
    workloads.get_config('x')
  with pytest.raises(ValueError, match="unknown scheme 'x'"):
    plan.scheme_of(workloads.get_config(), 'x')


@pytest.fixture(scope='module')
def small():
  config = workloads.get_config('digits')
  config.num_examples = 640
  config.batch_sizes = (8, 64)
  config.fixed = workloads.fixed(config.batch_sizes, config.num_examples)
  config.micro_batch_sizes = (64,)
  return config, training.load(config, None)


@pytest.fixture(scope='module')
def run(small, tmp_path_factory):
  config, splits = small
  path = tmp_path_factory.mktemp('frontier') / 'trials.jsonl'
  return plan.remembering(config, splits, path), path


def test_the_validation_split_is_taken_from_the_training_examples(small):
  _, splits = small
  sizes = {name: len(part['label']) for name, part in splits.items()}
  assert sizes == {'train': 1150, 'validation': 287, 'test': 360}


def test_fixed_sizes_differ_in_what_their_state_holds(run):
  run, _ = run
  eight = run('fixed_8', 0.05, 0)
  many = run('fixed_64', 0.05, 0)
  assert (eight.steps, many.steps) == (80, 10)
  assert eight.examples == many.examples == 640
  # Σ ⌈b / (P · 32)⌉ for P = 1, 8, 64.
  assert eight.rounds == (80, 80, 80)
  assert many.rounds == (20, 10, 10)
  assert {size for _, size in many.curve} == {64}
  assert run('fixed_8', 0.1, 0).train_loss != eight.train_loss
  assert run('fixed_8', 0.05, 1).train_loss != eight.train_loss


@pytest.mark.slow
def test_a_run_equals_the_same_in_plain_optax(small, run):
  config, splits = small
  outcome = run[0]('fixed_64', 0.05, 0)
  model = training.models.MODELS[config.model]()
  params = model.init(jax.random.key(0), splits['train']['input'][:2])
  optimizer = optax.sgd(
    lambda step: 0.05 * 0.5 * (1 + np.cos(np.pi * step / 10)), momentum=0.9
  )

  def loss_fn(params, batch):
    logits = model.apply(params, batch['input'])
    return optax.softmax_cross_entropy_with_integer_labels(
      logits, batch['label']
    ).mean()

  state = optimizer.init(params)
  for step in range(10):
    positions = np.arange(64 * step, 64 * (step + 1))
    batch = training.adaopt.draw(splits['train'], 0, positions)
    gradient = jax.grad(loss_fn)(params, batch)
    # The schedule comes behind the momentum in a scheme, and within it in
    # optax: the trace is of unscaled gradients.
    updates, state = optax.sgd(1.0, momentum=0.9).update(gradient, state)
    factor = 0.05 * 0.5 * (1 + np.cos(np.pi * step / 10))
    updates = jax.tree.map(lambda u, f=factor: f * u, updates)
    params = optax.apply_updates(params, updates)
  # Ten steps in float32, whose sums are in another order.
  assert outcome.test_loss == pytest.approx(
    float(loss_fn(params, splits['test'])), rel=1e-4
  )


def test_what_is_in_the_file_is_not_run_again(small, run, monkeypatch):
  config, splits = small
  before = run[0]('fixed_64', 0.05, 0)
  monkeypatch.setattr(training, 'make_runner', None)
  again = plan.remembering(config, splits, run[1])
  assert again('fixed_64', 0.05, 0) == before
  changed = config.copy_and_resolve_references()
  changed.num_examples = 64
  with pytest.raises(ValueError, match='with other settings'):
    plan.remembering(changed, splits, run[1])


@pytest.mark.slow
def test_the_tolerance_is_data_and_means_what_it_says(small):
  """η in the state asks for as much as η in the test."""
  config, splits = small
  config = config.copy_and_resolve_references()
  scheme, _ = plan.scheme_of(config, 'adaptive_1')
  held = training.make_runner(config, scheme, splits)(
    {'step_size': 0.05, 'requirement_scale': 0.5**-2}, 0
  )
  scheme = scheme.copy_and_resolve_references()
  scheme.test, scheme.eta = scheme.family, 0.5
  del scheme.family
  own = training.make_runner(config, scheme, splits)({'step_size': 0.05}, 0)
  assert own._replace(seconds=0) == held._replace(seconds=0)
  assert held.curve[-1][1] > held.curve[0][1]


def test_the_report_shows_every_scheme(tmp_path):
  seeds = lambda steps, loss: (
    [OUTCOME._replace(steps=steps, test_loss=loss, train_loss=loss)] * 2
  )
  fixed = {'fixed_8': seeds(1000, 0.1), 'fixed_64': seeds(10, 0.3)}
  found = {'adaptive_1': seeds(100, 0.1), 'ramp': seeds(20, 0.5)}
  rates = dict.fromkeys([*fixed, *found], 0.1)
  lines = reporting.table(found, fixed, rates).splitlines()
  assert [line.split()[1] for line in lines[2:]] == [
    'fixed_64',
    'ramp',
    'adaptive_1',
    'fixed_8',
  ]
  assert '90 ± 0' in lines[4]
  assert '≤ -100' in lines[3]
  pictures.save(found, fixed, 32, tmp_path)
  for name in ('frontier.png', 'devices.png'):
    assert pathlib.Path(tmp_path, name).stat().st_size > 10_000


@pytest.mark.slow
def test_a_finished_frontier_is_reported_without_running(
  small, tmp_path, monkeypatch
):
  """Interrupted after the fixed sizes, the same command goes on."""
  main = pytest.importorskip('adaopt.experiments.frontier.__main__')
  config, _ = small
  calls = []

  def make_runner(config, scheme, splits):
    def run(held, seed):
      calls.append((dict(held), seed))
      best = 0.1 if 'unmoved' in scheme else 0.05
      size = held.get('batch_size', 32)
      loss = 8 / size + abs(math.log(held['step_size'] / best))
      return OUTCOME._replace(
        steps=640 // size, validation_loss=loss, train_loss=loss, test_loss=loss
      )

    return run

  monkeypatch.setattr(training, 'make_runner', make_runner)
  args = config, ['adaptive_1'], 2, None, tmp_path
  table = main.run_all(*args)
  assert 'adaptive_1' in table
  assert (tmp_path / 'frontier.md').read_text() == table + '\n'
  made = len(calls)
  assert main.run_all(*args) == table
  assert len(calls) == made
  lines = (tmp_path / 'trials.jsonl').read_text().splitlines()
  assert len(lines) == made + 1
  assert json.loads(json.loads(lines[1])[0])[0] == 'fixed_8'
