"""A residual that loses its digits, or one that does not reach the optimizer.

A failure here means a mean residual other than one minus the probability of
the right class, a NaN where nothing is left to learn, steps of Normalized
LR+GD that the paper does not have, or an aux that train_step keeps to itself.
"""

import decimal
import math

import jax
import jax.numpy as jnp
import logistic_oracles as oracles
import numpy as np
import optax
import pytest
from flax import linen as nn
from sklearn import datasets

import adaopt
from adaopt import logistic


def exact_residual(logits, label):
  """1 − e^{z_y} / Σ e^{z_k} to 400 digits."""
  with decimal.localcontext(prec=400):
    powers = [decimal.Decimal(float(z)).exp() for z in logits]
    return float(1 - powers[label] / sum(powers))


LOGITS = np.random.default_rng(0).normal(size=[7, 4]).astype(np.float32) * 4
LABELS = np.array([0, 1, 2, 3, 3, 1, 0])


@pytest.mark.slow
@pytest.mark.parametrize('scale', [0.0, 1.0, 3.0, 6.0])
def test_mean_residual_of_classes_is_exact_however_small(scale):
  logits = scale * LOGITS
  expected = [exact_residual(z, y) for z, y in zip(logits, LABELS, strict=True)]
  # At 6 the log-odds are ±60: products with float32's 6e-8 are seen in σ.
  for i in range(7):
    one = adaopt.mean_residual(logits[i : i + 1], LABELS[i : i + 1])
    np.testing.assert_allclose(one, expected[i], rtol=1e-5)
  found = adaopt.mean_residual(logits, LABELS)
  np.testing.assert_allclose(found, np.mean(expected), rtol=1e-5)


def test_one_logit_is_two_classes():
  z = np.array([3.0, -2.0, 0.0, 40.0], np.float32)
  both = np.stack([np.zeros(4, np.float32), z], 1)
  for labels in ([1, 1, 0, 0], [1, 1, -1, -1]):
    np.testing.assert_array_equal(
      adaopt.log_odds(z, jnp.array(labels)),
      adaopt.log_odds(both, jnp.array([1, 1, 0, 0])),
    )


@pytest.mark.slow
def test_the_loss_of_log_odds_is_optax_s():
  ours = lambda z: jnp.mean(jax.nn.softplus(-adaopt.log_odds(z, LABELS)))
  theirs = lambda z: jnp.mean(
    optax.softmax_cross_entropy_with_integer_labels(z, LABELS)
  )
  for f, g in ((ours, theirs), (jax.grad(ours), jax.grad(theirs))):
    np.testing.assert_allclose(f(LOGITS), g(LOGITS), rtol=1e-5, atol=1e-7)


def test_the_gradient_of_log_odds_keeps_its_digits():
  # p = e^{-30}: the softmax of the right class is 1 to the last bit.
  z = jnp.array([[30.0, 0.0]])
  loss = lambda z: jnp.mean(
    jax.nn.softplus(-adaopt.log_odds(z, jnp.array([0])))
  )
  p = math.exp(-30)
  np.testing.assert_allclose(jax.grad(loss)(z), [[-p, p]], rtol=1e-6)


def update(gradient, mean_residual):
  transform = adaopt.transforms.scale_by_mean_residual()
  state = transform.init(gradient)
  return transform.update(gradient, state, mean_residual=mean_residual)[0]


def test_updates_are_divided_by_the_residual():
  gradient = {'w': jnp.array([3.0, -4.0]), 'b': jnp.array(1.0)}
  found = jax.jit(update)(gradient, jnp.float32(0.125))
  np.testing.assert_array_equal(found['w'], [24, -32])
  np.testing.assert_array_equal(found['b'], 8)


def test_nothing_left_to_learn_is_no_step():
  # Nor is what another loss adds to a gradient divided by 0.
  np.testing.assert_array_equal(
    update(jnp.array([0.0, 2.0]), jnp.float32(0)), [0, 0]
  )


def test_tiny_residuals_do_not_overflow():
  tiny = jnp.finfo(jnp.float32).tiny
  found = update(jnp.array([3 * tiny, -tiny]), tiny)
  np.testing.assert_array_equal(found, [3, -1])


def test_a_residual_that_is_no_number_is_not_hidden():
  assert np.isnan(update(jnp.ones(1), jnp.nan))


@pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16])
def test_half_precision_stays(dtype):
  found = update(jnp.ones(1, dtype), jnp.float32(0.5))
  assert found.dtype == dtype
  assert found == 2


@pytest.mark.parametrize('value', [None, jnp.ones(3)])
def test_a_missing_mean_residual_is_asked_for(value):
  with pytest.raises(ValueError, match='needs the scalar mean residual'):
    update(jnp.ones(2), value)


BAD = {
  'three axes': (
    np.ones([2, 2, 2]),
    np.ones(2, int),
    r'got logits \[2, 2, 2\]',
  ),
  'lengths': (np.ones([2, 2]), np.ones(3, int), r'labels \[3\]'),
  'one class': (np.ones([2, 1]), np.ones(2, int), r'pass logits\[:, 0\]'),
  'real labels': (np.ones([2, 3]), np.ones(2), 'must be integers, got float'),
  'a class too many': (
    np.ones([2, 3]),
    np.array([0, 3]),
    'must be from 0 to 2, got 0 to 3',
  ),
  'signs': (np.ones([2, 3]), np.array([-1, 1]), 'from 0 to 2, got -1 to 1'),
  'digits': (np.ones(2), np.array([3, 8]), 'must be ±1 or {0, 1}, got 3, 8'),
}


@pytest.mark.parametrize(('logits', 'labels', 'message'), BAD.values(), ids=BAD)
def test_logits_and_labels_that_do_not_fit_are_refused(logits, labels, message):
  for f in (adaopt.log_odds, adaopt.mean_residual):
    with pytest.raises(ValueError, match=message):
      f(logits, labels)


def test_the_optimizer_makes_the_iterates_of_the_paper():
  rng = np.random.default_rng(0)
  features, truth = rng.normal(size=[12, 3]), rng.normal(size=3)
  labels = np.where(features @ truth > 0, 1, -1)
  expected = oracles.normalized_lr_gd(labels[:, None] * features, 15, 3.0)
  with jax.enable_x64(True):
    optimizer = adaopt.normalized_lr_gd(3.0)

    def loss_fn(params):
      logits = features @ params
      loss = optax.sigmoid_binary_cross_entropy(logits, labels > 0).mean()
      return loss, adaopt.mean_residual(logits, labels)

    def step(carry, _):
      params, state = carry
      gradient, residual = jax.grad(loss_fn, has_aux=True)(params)
      updates, state = optimizer.update(gradient, state, mean_residual=residual)
      params = optax.apply_updates(params, updates)
      return (params, state), params

    params = jnp.zeros(3)
    _, found = jax.lax.scan(step, (params, optimizer.init(params)), length=15)
    problem = logistic.make_problem(features, labels)
    method = logistic.normalized_lr_gd(3.0)
    state = method.init(problem)
    for _ in range(15):
      state = method.step(state, problem)
  np.testing.assert_allclose(found, expected, rtol=1e-10)
  np.testing.assert_allclose(found[-1], state.params, rtol=1e-10)


def digits():
  images, labels = datasets.load_digits(return_X_y=True)
  return {
    'image': jnp.asarray(images / 16, jnp.float32),
    'label': jnp.asarray(labels, jnp.int32),
  }


@pytest.mark.slow
def test_a_flax_model_trains_in_batches_of_an_adaptive_size():
  dataset = digits()
  model = nn.Sequential([nn.Dense(32), nn.relu, nn.Dense(10)])
  params = model.init(jax.random.key(0), dataset['image'][:1])

  def loss_fn(params, batch):
    logits = model.apply(params, batch['image'])
    losses = jax.nn.softplus(-adaopt.log_odds(logits, batch['label']))
    residual = adaopt.mean_residual(logits, batch['label'])
    return losses.mean(), {'mean_residual': residual}

  optimizer = optax.chain(
    adaopt.adapt_batch_size(
      adaopt.norm_test(eta=1.0), init_batch_size=16, max_batch_size=512
    ),
    adaopt.normalized_lr_gd(optax.linear_schedule(0.3, 0.03, 150)),
  )
  history = []
  for trained, metrics in adaopt.fit(
    loss_fn,
    optimizer,
    params,
    dataset,
    num_examples=30_000,
    max_micro_batch_size=16,
    has_aux=True,
  ):
    params = trained.params
    history.append(metrics)
  logits = model.apply(params, dataset['image'])
  assert np.mean(np.argmax(logits, 1) == dataset['label']) > 0.95
  assert history[-1].batch_size > 16
  assert history[0].aux['mean_residual'] > 0.8


def test_train_step_steps_by_the_residual_of_the_whole_batch():
  """One step in micro-batches of 8 is one by hand on all 24 examples."""
  dataset = jax.tree.map(lambda x: x[:24], digits())
  params = jnp.zeros([64, 10])

  def loss_fn(params, batch):
    logits = batch['image'] @ params
    losses = jax.nn.softplus(-adaopt.log_odds(logits, batch['label']))
    residual = adaopt.mean_residual(logits, batch['label'])
    return losses.mean(), {'mean_residual': residual, 'other': residual}

  optimizer = optax.chain(
    adaopt.schedule_batch_size(24), adaopt.normalized_lr_gd(0.5)
  )
  step = adaopt.train_step(loss_fn, optimizer, micro_batch_size=8, has_aux=True)
  state = adaopt.init_train_state(params, optimizer)
  gradient_of = jax.jit(jax.grad(loss_fn, has_aux=True))
  for _ in range(2):
    gradient, aux = gradient_of(params, dataset)
    params = params - 0.5 * gradient / aux['mean_residual']
    state, _ = step(state, dataset)
  np.testing.assert_allclose(state.params, params, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('name', ['value', 'params'])
def test_an_aux_of_a_name_the_optimizer_has_is_refused(name):
  optimizer = optax.chain(adaopt.schedule_batch_size(4), optax.sgd(0.1))
  loss_fn = lambda params, batch: (jnp.mean(params * batch), {name: 1.0})
  step = adaopt.train_step(loss_fn, optimizer, micro_batch_size=4, has_aux=True)
  state = adaopt.init_train_state(jnp.ones([]), optimizer)
  with pytest.raises(ValueError, match=f'has a {name} of its own; rename'):
    step(state, jnp.ones(8))
