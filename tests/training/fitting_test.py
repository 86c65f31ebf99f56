"""A loop that stops early or late, loses metrics, or spoils its arguments."""

import logging

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import adaopt
from adaopt import training
from adaopt.training import loops

OPTIMIZER = adaopt.adadagrad(
  0.5, adaopt.norm_test(0.5), init_batch_size=4, max_batch_size=64
)
DRIVERS = {'traced': training.traced, 'dispatched': training.dispatched}
DATASET = np.random.default_rng(0).normal(1.0, size=256).astype(np.float32)


def loss_fn(params, batch):
  return jnp.mean((params - batch) ** 2)


def start():
  return adaopt.init_train_state(jnp.zeros([]), OPTIMIZER, seed=1)


def fit(num_examples, state=None, **options):
  """(state on the host, metrics) of every iteration."""
  return [
    jax.device_get(pair)
    for pair in adaopt.fit(
      loss_fn,
      OPTIMIZER,
      start() if state is None else state,
      jnp.asarray(DATASET),
      num_examples=num_examples,
      **options,
    )
  ]


@pytest.mark.parametrize(
  ('batch_size', 'largest', 'expected'),
  [
    (2, 1024, 4),
    (5, 1024, 16),
    (60_000, 1024, 1024),
    (1024, 1024, 1024),
    (1, 1, 1),
    (2, 48, 3),
    (5, 48, 12),
    (100, 7, 7),
  ],
)
def test_rung_is_the_smallest_quartering_that_holds_the_batch(
  batch_size, largest, expected
):
  assert loops.rung(batch_size, largest) == expected


@pytest.mark.slow
def test_budget_ends_with_the_first_step_that_reaches_it():
  history = [metrics for _, metrics in fit(100)]
  ends = [int(m.examples) for m in history]
  assert ends[-2] < 100 <= ends[-1]
  assert [int(m.step) for m in history] == list(range(1, len(ends) + 1))
  sizes = [int(m.batch_size) for m in history]
  assert ends == np.cumsum(sizes).tolist()
  assert [int(m.next_batch_size) for m in history[:-1]] == sizes[1:]


def test_a_budget_of_one_step_yields_it_with_its_own_state():
  ((state, metrics),) = fit(1)
  assert int(state.examples) == int(metrics.examples) == 4


@pytest.mark.slow
@pytest.mark.parametrize('donate', [False, True])
def test_state_and_metrics_are_of_the_same_step(donate):
  for state, metrics in fit(60, donate=donate):
    assert state.step == metrics.step
    assert state.examples == metrics.examples
    assert state.last_batch_size == metrics.batch_size


@pytest.mark.slow
@pytest.mark.parametrize('driver', DRIVERS.values(), ids=DRIVERS)
def test_every_state_that_was_yielded_stays_valid(driver):
  kept = list(
    adaopt.fit(
      loss_fn,
      OPTIMIZER,
      start(),
      DATASET,
      num_examples=100,
      driver=driver,
    )
  )
  assert [int(state.step) for state, _ in kept] == [*range(1, len(kept) + 1)]
  assert len({float(state.params) for state, _ in kept}) == len(kept)


@pytest.mark.parametrize('donate', [False, True])
def test_the_callers_state_and_parameters_stay_valid(donate):
  state, params = start(), jnp.zeros([])
  for given in (state, params):
    fit(20, given, donate=donate)
  assert float(state.params) == float(params) == 0.0


def test_parameters_start_the_run_of_their_seed():
  assert_same = chex.assert_trees_all_equal
  assert_same(fit(60, jnp.zeros([]), seed=1), fit(60))
  losses = [
    [float(m.loss) for _, m in fit(60, jnp.zeros([]), seed=seed)]
    for seed in (1, 2)
  ]
  assert losses[0] != losses[1]


def test_donation_changes_no_bit():
  chex.assert_trees_all_equal(fit(200, donate=True), fit(200))


def test_a_state_that_a_donating_step_was_given_is_gone():
  steps = adaopt.fit(
    loss_fn, OPTIMIZER, start(), DATASET, num_examples=60, donate=True
  )
  first, _ = next(steps)
  assert np.isfinite(first.params)
  next(steps)
  assert first.params.is_deleted()


def test_an_exception_in_the_loop_body_leaves_a_state_that_resumes_the_run():
  last = []

  def train():
    for state, metrics in adaopt.fit(
      loss_fn, OPTIMIZER, start(), DATASET, num_examples=200
    ):
      last[:] = [state]
      if metrics.step == 5:
        raise RuntimeError('out of paper')

  with pytest.raises(RuntimeError, match='out of paper'):
    train()
  chex.assert_trees_all_equal(fit(200)[5:], fit(200, *last))


@pytest.mark.slow
def test_a_state_above_a_lowered_maximum_comes_down_and_a_warning_says_so(
  caplog,
):
  *_, (state, _) = adaopt.fit(
    loss_fn, OPTIMIZER, start(), DATASET, num_examples=200
  )
  assert int(optax.tree.get(state.opt_state, 'batch_size')) == 64
  lower = adaopt.adadagrad(
    0.5, adaopt.norm_test(0.01), init_batch_size=4, max_batch_size=16
  )
  with caplog.at_level(logging.WARNING, logger='absl'):
    sizes = [
      int(metrics.batch_size)
      for _, metrics in adaopt.fit(
        loss_fn, lower, state, DATASET, num_examples=350
      )
    ]
  assert sizes[0] == 64
  assert set(sizes[1:]) == {16}
  assert 'batch size of 64, above the largest' in caplog.text


def test_a_size_that_a_policy_lowers_raises_no_warning(caplog):
  optimizer = adaopt.adadagrad(
    0.5,
    lambda statistics: jnp.float32(5),
    init_batch_size=4,
    max_batch_size=64,
    policy=adaopt.follow,
  )
  state = adaopt.init_train_state(jnp.zeros([]), optimizer)
  held = state.opt_state[0]._replace(batch_size=jnp.int32(32))
  state = state._replace(opt_state=(held, *state.opt_state[1:]))
  with caplog.at_level(logging.WARNING, logger='absl'):
    steps = adaopt.fit(loss_fn, optimizer, state, DATASET, num_examples=50)
    assert [int(m.batch_size) for _, m in steps][:2] == [32, 5]
  assert not caplog.text


CONTRIB = {
  'dog': optax.contrib.dog(1.0),
  'dowg': optax.contrib.dowg(1.0),
  'prodigy': optax.contrib.prodigy(0.1),
  'mechanize': optax.contrib.mechanize(optax.sgd(0.1)),
  'cocob': optax.contrib.cocob(),
  'scalars of JAX': optax.inject_hyperparams(optax.sgd)(
    learning_rate=jnp.float32(0.1)
  ),
}


@pytest.mark.slow
@pytest.mark.parametrize('donate', [False, True])
@pytest.mark.parametrize('name', CONTRIB)
def test_optimizers_whose_init_returns_its_argument_train(name, donate):
  optimizer = optax.chain(
    adaopt.adapt_batch_size(
      adaopt.norm_test(0.5), init_batch_size=8, max_batch_size=64
    ),
    CONTRIB[name],
  )
  losses = [
    float(metrics.loss)
    for _, metrics in adaopt.fit(
      lambda params, batch: jnp.mean((params['w'] - batch) ** 2),
      optimizer,
      {'w': jnp.zeros([])},
      DATASET,
      num_examples=400,
      max_micro_batch_size=16,
      donate=donate,
    )
  ]
  assert np.mean(losses[-3:]) < losses[0]


def test_a_run_resumed_from_any_of_its_states_is_the_run_to_the_last_bit():
  whole = fit(200)
  micro_batches = {loops.rung(int(m.batch_size), 256) for _, m in whole}
  assert len(micro_batches) > 1
  for state, _ in whole[:-1]:
    rest = fit(200, jax.tree.map(jnp.asarray, state))
    assert 0 < len(rest) == len(whole) - int(state.step)
    chex.assert_trees_all_equal(whole[-len(rest) :], rest)


def test_a_spent_budget_yields_nothing():
  state = fit(50)[-1][0]
  assert fit(50, jax.tree.map(jnp.asarray, state)) == []


@pytest.mark.slow
def test_drivers_agree():
  traced, dispatched = (fit(150, driver=driver) for driver in DRIVERS.values())
  # The same sums, compiled apart.
  chex.assert_trees_all_close(traced, dispatched, rtol=1e-5)


def test_micro_batch_size_changes_nothing_but_rounding():
  for (_, a), (_, b) in zip(
    fit(150), fit(150, max_micro_batch_size=4), strict=True
  ):
    assert a.batch_size == b.batch_size
    np.testing.assert_allclose(a.loss, b.loss, rtol=1e-5)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'num_examples': 0}, 'num_examples .* got 0'),
    ({'num_examples': 1.5}, 'num_examples .* got 1.5'),
    ({'num_examples': 2**30}, 'too large'),
    ({'num_examples': 9, 'max_micro_batch_size': -1}, 'got -1'),
    ({'num_examples': 9, 'seed': 2}, 'has a seed of its own, 1, got seed=2'),
  ],
)
def test_bad_budgets_are_rejected_at_the_call(options, message):
  with pytest.raises(ValueError, match=message):
    adaopt.fit(loss_fn, OPTIMIZER, start(), DATASET, **options)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (
      (loss_fn, optax.sgd, jnp.zeros([]), DATASET),
      r'must be an optax optimizer, got <function sgd .*call it first, as in '
      r'sgd\(…\)',
    ),
    ((loss_fn, None, jnp.zeros([]), DATASET), 'optax optimizer, got None'),
    ((loss_fn, optax.sgd(0.1), jnp.zeros([]), DATASET), '0 batch sizes'),
    ((3.0, OPTIMIZER, jnp.zeros([]), DATASET), 'loss_fn must be a function'),
    (
      (OPTIMIZER, loss_fn, jnp.zeros([]), DATASET),
      'optimizer must be an optax optimizer, got <function loss_fn',
    ),
    (
      (loss_fn, OPTIMIZER, {'w': 'ten'}, DATASET),
      r"parameter \['w'\] is the string 'ten', which has no gradient",
    ),
    (
      (loss_fn, OPTIMIZER, {'f': jnp.tanh, 'w': jnp.ones(2)}, DATASET),
      r"parameter \['f'\] is the function 'tanh'.*eqx\.partition",
    ),
    (
      (
        loss_fn,
        optax.chain(adaopt.schedule_batch_size(4), optax.adam(0.1)),
        start(),
        DATASET,
      ),
      'the state is of another optimizer',
    ),
  ],
)
def test_wrong_arguments_are_rejected_at_the_call(arguments, message):
  with pytest.raises(ValueError, match=message):
    adaopt.fit(*arguments, num_examples=10)


def test_a_loss_that_cannot_key_the_programs_is_rejected():
  class Loss:
    __hash__ = None

    def __call__(self, params, batch):
      return loss_fn(params, batch)

  with pytest.raises(ValueError, match=r'loss_fn must be hashable.*a Loss;'):
    adaopt.fit(Loss(), OPTIMIZER, start(), DATASET, num_examples=10)


@pytest.mark.parametrize(
  ('loss', 'dataset', 'message'),
  [
    (
      lambda p, b: 0.5,
      DATASET,
      r'loss_fn returned 0\.5, which is not an array',
    ),
    (lambda p, b: None, DATASET, 'loss_fn returned None, which is not an'),
    (
      loss_fn,
      np.array(['a', 'b']),
      'dataset is of type <U1; a dataset holds only arrays of numbers',
    ),
    (
      loss_fn,
      iter([DATASET]),
      r'dataset is a list_iterator, .*pass adaopt\.feed\(it\)',
    ),
    (
      loss_fn,
      {'x': DATASET, 'name': np.array([None] * 256)},
      r"dataset\['name'\] is of type object; a dataset holds only arrays",
    ),
  ],
)
def test_a_wrong_loss_or_dataset_meets_a_sentence(loss, dataset, message):
  with pytest.raises(ValueError, match=message):
    next(adaopt.fit(loss, OPTIMIZER, start(), dataset, num_examples=10))


def test_parameters_of_another_model_are_told_from_those_of_the_loss():
  model, other = nn.Dense(2), nn.Dense(3)
  x = jnp.ones([8, 4])
  params = other.init(jax.random.key(0), x)
  message = (
    r"ScopeParamShapeError.*with parameters .*'float32\[4, 3\]'.*and examples "
    r'of float32\[8, 4\]; check that they belong to the model'
  )
  loss_fn = lambda params, batch: jnp.mean(model.apply(params, batch) ** 2)
  with pytest.raises(ValueError, match=message):
    adaopt.fit(loss_fn, OPTIMIZER, params, x, num_examples=10)
