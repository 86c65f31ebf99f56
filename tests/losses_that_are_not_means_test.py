"""Losses that are no mean over independent examples, and those that seem so.

Each is trained by `fit` and given to `check_independent_examples`; where it is
no mean, both say the same, and no update is made.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

import adaopt

B = 8
rng = np.random.default_rng(0)
normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
X = normal(B, 4)
LABELS = jnp.arange(B) % 3
CLASS_WEIGHTS = jnp.array([0.2, 1.0, 3.0])
CLASSES = {'x': X, 'label': LABELS}
TOKENS = {
  'x': normal(B, 5, 4),
  'y': normal(B, 5),
  'mask': jnp.arange(5)[None] < jnp.array([[5, 1, 3, 2, 5, 4, 1, 2]]).T,
}
PADDED = TOKENS | {'mask': TOKENS['mask'].at[3].set(False)}
ACTIONS = {
  'x': X,
  'action': jnp.arange(B) % 2,
  'advantage': 3 * normal(B),
  'old': jnp.log(jnp.full([B], 0.5)),
}
W = {'w': 0.3 * normal(4, 3), 'b': jnp.zeros([1, 3])}
NET = {
  'inner': {'w': normal(4, 6)},
  'outer': {'w': jnp.zeros([6, 3]), 'b': jnp.zeros([1, 3])},
}
VECTOR = {'w': 0.5 * normal(4)}
KEY = jax.random.key(5)


OPTIMIZER = optax.chain(adaopt.schedule_batch_size(B), optax.sgd(0.1))
TWO_GROUPS = optax.chain(
  adaopt.adapt_batch_size(
    adaopt.norm_test(0.5), init_batch_size=2 * B, max_batch_size=8 * B
  ),
  optax.sgd(0.1),
)


def logits(p, batch):
  return batch['x'] @ p['w'] + p['b']


def entropies(logits, batch):
  return optax.softmax_cross_entropy_with_integer_labels(logits, batch['label'])


def averaged(p, batch):
  weights = CLASS_WEIGHTS[batch['label']]
  return jnp.average(entropies(logits(p, batch), batch), weights=weights)


def averaged_weighted(p, batch):
  weights = CLASS_WEIGHTS[batch['label']]
  losses = entropies(logits(p, batch), batch)
  return adaopt.WeightedLoss(jnp.sum(weights * losses), jnp.sum(weights))


def averaged_net(p, batch):
  hidden = jnp.tanh(batch['x'] @ p['inner']['w'])
  outputs = hidden @ p['outer']['w'] + p['outer']['b']
  weights = CLASS_WEIGHTS[batch['label']]
  return jnp.average(entropies(outputs, batch), weights=weights)


def token_losses(p, batch):
  return batch['mask'] * (batch['x'] @ p['w'] - batch['y']) ** 2


def token_mean(p, batch):
  return jnp.sum(token_losses(p, batch)) / jnp.sum(batch['mask'])


def token_weighted(p, batch):
  return adaopt.WeightedLoss(
    jnp.sum(token_losses(p, batch)), jnp.sum(batch['mask'])
  )


def clipped(p, batch):
  """PPO, with advantages that are normalised over the batch."""
  advantage = batch['advantage']
  advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
  log_probs = jax.nn.log_softmax(logits(p, batch))
  taken = jnp.take_along_axis(log_probs, batch['action'][:, None], 1)[:, 0]
  ratio = jnp.exp(taken - batch['old'])
  return -jnp.mean(
    jnp.minimum(ratio * advantage, jnp.clip(ratio, 0.8, 1.2) * advantage)
  )


def batch_entropy(p, batch):
  mean = jax.nn.softmax(logits(p, batch)).mean(0)
  return jnp.sum(mean * jnp.log(mean))


def largest(p, batch):
  return jnp.max(entropies(logits(p, batch), batch))


def rmse(p, batch):
  return jnp.sqrt(jnp.mean((batch @ p['w'] - 1) ** 2))


def info_nce(p, batch):
  one, other = batch['x'] @ p['w'], batch['other'] @ p['w']
  similar = one @ other.T
  labels = jnp.arange(len(one))
  return optax.softmax_cross_entropy_with_integer_labels(similar, labels).mean()


def summed(p, batch):
  return jnp.sum(entropies(logits(p, batch), batch))


def mean(p, batch):
  return jnp.mean(entropies(logits(p, batch), batch))


def dropped(p, batch, key):
  keep = jax.random.bernoulli(key, 0.5, batch['x'].shape)
  return mean(p, batch | {'x': 2 * keep * batch['x']})


def dropped_of_closure(p, batch):
  return dropped(p, batch, KEY)


class Linen(nn.Module):
  norm: nn.Module | None = None

  @nn.compact
  def __call__(self, x):
    x = nn.Dense(6)(x)
    x = self.norm(x) if self.norm else nn.Dropout(0.5, deterministic=False)(x)
    return nn.Dense(3)(nn.relu(x))


def linen_norm(norm):
  """Running statistics are computed, and not kept."""
  model = Linen(norm)
  variables = model.init(jax.random.key(1), X)
  params = variables.pop('params')

  def loss_fn(params, batch):
    outputs, _ = model.apply(
      {'params': params, **variables}, batch['x'], mutable=['batch_stats']
    )
    return entropies(outputs, batch).mean()

  return loss_fn, params


def nnx_of(layer):
  rngs = nnx.Rngs(0, dropout=1)
  return nnx.Sequential(
    nnx.Linear(4, 6, rngs=rngs), layer(rngs), nnx.Linear(6, 3, rngs=rngs)
  )


def of_model(model, batch):
  return entropies(model(batch['x']), batch).mean()


def nnx_merged(layer):
  """As the documentation of NNX writes it, and no key but the model's own."""
  graph, params, rest = nnx.split(nnx_of(layer), nnx.Param, ...)

  def loss_fn(params, batch):
    return of_model(nnx.merge(graph, params, rest, copy=True), batch)

  return loss_fn, params


nnx_dropout = lambda rngs: nnx.Dropout(0.5, rngs=rngs)
nnx_batch_norm = lambda rngs: nnx.BatchNorm(6, rngs=rngs)
nnx_bridge = adaopt.nnx_loss(nnx_of(nnx_dropout), of_model)
linen_model = Linen()
linen_bridge = adaopt.linen_loss(
  linen_model,
  linen_model.init({'params': KEY, 'dropout': KEY}, X),
  of_model,
)


class Row(NamedTuple):
  loss_fn: Any
  params: Any
  batch: Any
  error: str | None = None  # what it matches; None: the loss is a mean
  model_state: Any = None


DIFFER = (
  r'gradient of 8 examples is not the mean of their own gradients: in '
  r'params\S* they differ by [\d.e+-]+, where the gradient has the length '
  r'[\d.e+-]+\. '
)
WEIGHTED = DIFFER + r'[^-]*\n- a weighted mean, .*WeightedLoss\(total, weight\)'
COUPLED = DIFFER + r'[\s\S]*contrasts or normalises .*no groups take it apart'
RANDOM = 'draws the same random numbers for every example and in every step'
NORM = DIFFER + r'[\s\S]*BatchNorm in training mode: .*group_size=8'
PAIRS = {'x': X, 'other': X + 0.1 * normal(B, 4)}
TABLE = {
  'class weights': Row(averaged, W, CLASSES, WEIGHTED),
  'class weights, weighted': Row(averaged_weighted, W, CLASSES),
  'class weights on a zero last layer': Row(
    averaged_net, NET, CLASSES, r"in params\['outer'\]\['[wb]'\]"
  ),
  'token mean': Row(token_mean, VECTOR, TOKENS, WEIGHTED),
  'token mean, weighted': Row(token_weighted, VECTOR, TOKENS),
  'token mean with padding only, weighted': Row(token_weighted, VECTOR, PADDED),
  'normalised advantages': Row(clipped, W, ACTIONS, COUPLED),
  'entropy of the batch': Row(batch_entropy, W, CLASSES, COUPLED),
  'maximum': Row(largest, W, CLASSES, COUPLED),
  'root of a mean square': Row(rmse, VECTOR, X, COUPLED),
  'InfoNCE': Row(info_nce, {'w': W['w']}, PAIRS, COUPLED),
  'sum': Row(
    summed,
    W,
    CLASSES,
    DIFFER + 'It is 8 times their mean: the loss is a sum over the examples; '
    'divide it by their number',
  ),
  'mean': Row(mean, W, CLASSES),
  'BatchNorm of linen': Row(*linen_norm(nn.BatchNorm(False)), CLASSES, NORM),
  'BatchNorm of nnx': Row(*nnx_merged(nnx_batch_norm), CLASSES, NORM),
  'BatchNorm of linen that does not train': Row(
    *linen_norm(nn.BatchNorm(True)), CLASSES
  ),
  'LayerNorm of linen': Row(*linen_norm(nn.LayerNorm()), CLASSES),
  'GroupNorm of linen': Row(*linen_norm(nn.GroupNorm(2)), CLASSES),
  'LayerNorm of nnx': Row(
    *nnx_merged(lambda rngs: nnx.LayerNorm(6, rngs=rngs)), CLASSES
  ),
  'GroupNorm of nnx': Row(
    *nnx_merged(lambda rngs: nnx.GroupNorm(6, 2, rngs=rngs)), CLASSES
  ),
  'key of the closure': Row(dropped_of_closure, W, CLASSES, RANDOM),
  'dropout of a merged model of nnx': Row(
    *nnx_merged(nnx_dropout), CLASSES, RANDOM
  ),
  'dropout by a parameter key': Row(dropped, W, CLASSES),
  'dropout by nnx_loss': Row(
    nnx_bridge.loss_fn,
    nnx_bridge.params,
    CLASSES,
    model_state=nnx_bridge.model_state,
  ),
  'dropout by linen_loss': Row(
    linen_bridge.loss_fn,
    linen_bridge.params,
    CLASSES,
    model_state=linen_bridge.model_state,
  ),
}
MEANS = {name: row for name, row in TABLE.items() if row.error is None}
OTHERS = {name: row for name, row in TABLE.items() if row.error is not None}


def in_one_batch(dataset, seed, positions):
  """The examples in their order."""
  return jax.tree.map(lambda x: x[positions % len(x)], dataset)


def fit(row, **options):
  return list(
    adaopt.fit(
      row.loss_fn,
      options.pop('optimizer', OPTIMIZER),
      row.params,
      row.batch,
      num_examples=2 * B,
      max_micro_batch_size=B,
      model_state=row.model_state,
      draw=in_one_batch,
      **options,
    )
  )


def as_leaves(tree):
  return [np.asarray(x) for x in jax.tree.leaves(tree)]


@pytest.mark.slow
@pytest.mark.parametrize('row', OTHERS.values(), ids=OTHERS)
def test_what_is_no_mean_is_told_before_an_update(row):
  with pytest.raises(ValueError, match=row.error) as told:
    adaopt.check_independent_examples(row.loss_fn, row.params, row.batch)
  with pytest.raises(ValueError, match=row.error) as told_by_fit:
    fit(row)
  assert str(told.value) == str(told_by_fit.value)


@pytest.mark.slow
@pytest.mark.parametrize('row', MEANS.values(), ids=MEANS)
def test_what_is_a_mean_passes_and_trains(row):
  adaopt.check_independent_examples(
    row.loss_fn, row.params, row.batch, model_state=row.model_state
  )
  before, after = as_leaves(row.params), as_leaves(fit(row)[-1][0].params)
  assert all(map(np.all, map(np.isfinite, after)))
  assert any(np.any(x != y) for x, y in zip(before, after, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
  ('loss_fn', 'plain', 'params', 'batch'),
  [
    (averaged_weighted, averaged, W, CLASSES),
    (token_weighted, token_mean, VECTOR, TOKENS),
    (token_weighted, token_mean, VECTOR, PADDED),
  ],
)
def test_a_weighted_loss_has_the_gradient_of_the_plain_one(
  loss_fn, plain, params, batch
):
  value, gradient = jax.value_and_grad(plain)(params, batch)
  loss, statistics = adaopt.value_and_statistics(loss_fn)(params, batch)
  np.testing.assert_allclose(loss, value, rtol=1e-6)
  state, metrics = fit(Row(loss_fn, params, batch))[0]
  np.testing.assert_allclose(metrics.loss, value, rtol=1e-6)
  moved = jax.tree.map(lambda p, q: (p - q) / 0.1, params, state.params)
  for found in (statistics.mean, moved):
    for one, other in zip(as_leaves(found), as_leaves(gradient), strict=True):
      np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-6)


def test_the_losses_of_a_zero_last_layer_are_equal():
  """So that no comparison of losses would tell."""
  whole = averaged_net(NET, CLASSES)
  for i in range(B):
    one = jax.tree.map(lambda x, i=i: x[i : i + 1], CLASSES)
    np.testing.assert_allclose(averaged_net(NET, one), whole, rtol=1e-6)


def test_an_example_without_others_to_contrast_has_the_gradient_zero():
  one = jax.tree.map(lambda x: x[:1], PAIRS)
  gradient = jax.grad(info_nce)({'w': W['w']}, one)
  assert not np.any(gradient['w'])


@pytest.mark.parametrize(
  'name', ['class weights', 'InfoNCE', 'sum', 'key of the closure']
)
def test_without_the_check_they_train(name):
  steps = fit(OTHERS[name], check=False)
  assert all(np.isfinite(metrics.loss) for _, metrics in steps)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['BatchNorm of linen', 'BatchNorm of nnx'])
def test_batch_norm_trains_in_groups_as_its_message_says(name):
  row = OTHERS[name]
  (state, metrics), *_ = fit(row, group_size=8, optimizer=TWO_GROUPS)
  assert int(metrics.batch_size) == 16
  assert np.isfinite(metrics.variance)
  gradient = jax.grad(row.loss_fn)(row.params, row.batch)  # of both groups
  moved = jax.tree.map(lambda p, q: (p - q) / 0.1, row.params, state.params)
  for one, other in zip(as_leaves(moved), as_leaves(gradient), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=5e-6)


@pytest.mark.parametrize(
  ('loss_fn', 'params', 'batch'),
  [(rmse, VECTOR, X), (info_nce, {'w': W['w']}, PAIRS)],
)
def test_plain_gradients_train_what_no_groups_take_apart(
  loss_fn, params, batch
):
  """As the message says: accumulate(optimizer, group_size=b)."""
  optimizer = adaopt.accumulate(TWO_GROUPS, group_size=B)
  state = optimizer.init(params)

  @jax.jit
  def step(params, state, batch):
    gradient = jax.grad(loss_fn)(params, batch)
    updates, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), state

  halves = batch, jax.tree.map(lambda x: 1.5 * x, batch)
  trained = params
  for half, updated in zip(halves, [False, True], strict=True):
    trained, state = step(trained, state, half)
    assert adaopt.has_updated(state) == updated
  gradients = [jax.grad(loss_fn)(params, half)['w'] for half in halves]
  expected = params['w'] - 0.1 * sum(gradients) / 2
  np.testing.assert_allclose(trained['w'], expected, rtol=1e-5, atol=1e-6)


def test_a_key_of_the_closure_is_told_in_groups_too():
  with pytest.raises(ValueError, match=RANDOM):
    fit(TABLE['key of the closure'], group_size=4)


def test_a_key_among_the_arguments_is_told_of_the_parameter_key():
  with_key = lambda params, batch, noise_key: dropped(params, batch, noise_key)
  message = 'name that parameter key and pass key='
  with pytest.raises(ValueError, match=message):
    adaopt.value_and_statistics(with_key)(W, CLASSES, KEY)
  with pytest.raises(ValueError, match=message):
    adaopt.check_independent_examples(with_key, W, CLASSES, KEY)


@pytest.mark.parametrize('loss_fn', [averaged, info_nce, summed])
def test_a_difference_is_told_with_its_size(loss_fn):
  batch = PAIRS if loss_fn is info_nce else CLASSES
  params = {'w': W['w']} if loss_fn is info_nce else W
  with pytest.raises(ValueError, match=DIFFER) as told:
    adaopt.check_independent_examples(loss_fn, params, batch)
  message = str(told.value)
  name = message.split('in params[')[1].split("'")[1]
  size, length = (
    float(message.split(before)[1].split(after)[0])
    for before, after in [
      ('they differ by ', ','),
      ('has the length ', '. '),
    ]
  )
  whole = jax.grad(loss_fn)(params, batch)[name]
  one = lambda i: jax.tree.map(lambda x: x[i : i + 1], batch)
  each = [jax.grad(loss_fn)(params, one(i))[name] for i in range(B)]
  difference = np.linalg.norm(whole - np.mean(each, 0))
  np.testing.assert_allclose(size, difference, rtol=1e-2)
  np.testing.assert_allclose(length, np.linalg.norm(whole), rtol=1e-2)
