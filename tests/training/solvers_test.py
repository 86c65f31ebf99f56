"""Optimizers of optax whose updates take more than a gradient."""

import jax.numpy as jnp
import optax
import pytest
from sklearn.datasets import load_digits

import adaopt

IMAGES, LABELS = load_digits(return_X_y=True)
DATASET = {'x': jnp.asarray(IMAGES / 16), 'y': jnp.asarray(LABELS)}
PARAMS = {'w': jnp.zeros([64, 10]), 'b': jnp.zeros(10)}
START = 2.3026  # log 10


def loss_fn(params, batch):
  logits = batch['x'] @ params['w'] + params['b'][None]
  return optax.softmax_cross_entropy_with_integer_labels(
    logits, batch['y']
  ).mean()


def adapted(*transforms):
  return optax.chain(
    adaopt.adapt_batch_size(
      adaopt.norm_test(0.5), init_batch_size=64, max_batch_size=1024
    ),
    *transforms,
  )


def train(optimizer, params=PARAMS, loss_fn=loss_fn):
  *_, (state, metrics) = adaopt.fit(
    loss_fn, optimizer, params, DATASET, num_examples=4000
  )
  assert metrics.batch_size > 64
  return state, metrics.loss


SOLVERS = {
  'L-BFGS': adapted(optax.lbfgs()),
  'backtracking': adapted(
    optax.sgd(1.0), optax.scale_by_backtracking_linesearch(20)
  ),
  'Polyak': adapted(optax.polyak_sgd(0.5)),
  'SAM': adapted(
    optax.GradientTransformation(
      *optax.contrib.sam(optax.sgd(0.5), optax.sgd(0.05))
    )
  ),
  'SAM on one batch': adaopt.adaptive(
    optax.contrib.sam(optax.sgd(1.0), optax.sgd(0.05), opaque_mode=True),
    0.5,
    init_batch_size=64,
    max_batch_size=1024,
  ),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', SOLVERS)
def test_a_solver_trains(name):
  _, loss = train(SOLVERS[name])
  assert loss < START - 0.4


@pytest.mark.slow
def test_lookahead_is_trained_at_its_fast_parameters():
  params = optax.LookaheadParams.init_synced(PARAMS)
  optimizer = adapted(optax.lookahead(optax.sgd(0.5), 5, 0.5))
  state, loss = train(optimizer, params)
  assert loss < START - 0.4
  assert jnp.any(state.params.slow['w'] != 0)


@pytest.mark.slow
def test_a_line_search_sees_the_loss_of_the_batch():
  """The value it ends at is that of the batch at the new parameters."""
  optimizer = adapted(optax.lbfgs())
  state = adaopt.init_train_state(PARAMS, optimizer)
  step = adaopt.train_step(loss_fn, optimizer, micro_batch_size=16)
  after, _ = step(state, DATASET)
  batch = adaopt.draw(DATASET, 0, jnp.arange(64))
  found = optax.tree.get(
    after.opt_state,
    'value',
    filtering=lambda path, _: hasattr(path[-1], 'tuple_name'),
  )
  # Sums over micro-batches in another order.
  assert abs(found - loss_fn(after.params, batch)) < 1e-5


def test_a_transform_that_takes_no_keyword_gets_a_sentence():
  sam = optax.contrib.sam(optax.sgd(0.5), optax.sgd(0.05))
  with pytest.raises(ValueError, match=r'optax\.GradientTransformation\(\*'):
    train(adapted(sam))
