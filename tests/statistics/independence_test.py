"""The check that examples are independent: what it can tell, and cannot."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import adaopt

X = jax.random.normal(jax.random.key(0), [8, 3])
W = jnp.array([0.5, -1.0, 2.0])


def errors(w, batch):
  return jnp.mean((batch @ w - 1) ** 2)


def centred(w, batch):
  outputs = batch @ w
  return jnp.mean((outputs - outputs.mean()) ** 2)


def ratio(w, batch):
  return jnp.sum(w**2) * jnp.mean(batch) / jnp.max(batch)


check = adaopt.check_independent_examples


def told(*args, **options):
  with pytest.raises(ValueError) as error:  # noqa: PT011
    check(*args, **options)
  return str(error.value)


def test_two_examples_are_enough_and_one_is_not():
  check(errors, W, X[:2])
  assert 'differ' in told(centred, W, X[:2])
  assert 'takes at least two of them, got a batch of 1' in told(
    errors, W, X[:1]
  )


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_a_gradient_that_is_not_finite_cannot_tell(value):
  message = told(errors, W, X.at[1, 0].set(value))
  assert 'the gradient of 8 examples is not finite, which cannot' in message


def test_single_gradients_that_are_not_finite_tell_of_coupling():
  """A single example has no spread to be divided by: 0 / 0."""
  spread = lambda w, x: jnp.sum(w) * jnp.mean(x) / jnp.std(x[:, 0])
  message = told(spread, W, X)
  assert 'of 8 examples is finite, and those of single examples' in message
  assert 'contrasts or normalises' in message


def test_gradients_of_zero_differ_in_nothing():
  check(lambda w, x: 0 * centred(w, x), W, X)
  check(centred, jnp.zeros(3), X)


def test_the_tensor_that_differs_most_is_named():
  def loss_fn(params, batch):
    inner = params['layers'][1]['w']
    return errors(params['head'], batch) + centred(inner, batch)

  params = {'head': W, 'layers': [{'w': W}, {'w': W}]}
  message = told(loss_fn, params, X)
  assert "in params['layers'][1]['w'] they differ by" in message


def test_a_single_tensor_is_named_params():
  assert 'gradients: in params they differ by' in told(centred, W, X)


def test_the_coupling_of_a_tensor_with_small_gradients_is_found():
  """By its own gradients, and not beside those of all tensors."""

  def loss_fn(params, batch):
    return 1e3 * errors(params['large'], batch) + centred(
      params['small'], batch
    )

  params = {'large': W, 'small': W}
  assert "in params['small'] they differ" in told(loss_fn, params, X)


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_a_tensor_whose_gradients_cancel_passes(dtype, seed):
  """The bias of attention's keys has a gradient of nothing but rounding."""

  def loss_fn(params, x):
    params, x = jax.tree.map(lambda leaf: leaf.astype(dtype), (params, x))
    queries, keys = x @ params['q'], x @ params['k'] + params['bias']
    attended = jax.nn.softmax(queries @ jnp.swapaxes(keys, 1, 2)) @ x
    return jnp.mean(attended.astype(jnp.float32) ** 2)

  x = jax.random.normal(jax.random.key(seed), [8, 5, 3])
  params = {'q': jnp.eye(3), 'k': jnp.eye(3), 'bias': jnp.ones([1, 1, 3])}
  check(loss_fn, params, x)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_gradients_that_all_cancel_differ_in_nothing(dtype):
  """Logits that are moved alike: the loss does not change."""

  def loss_fn(w, x):
    moved = jnp.sum(jnp.sin(x @ w), 1, keepdims=True).astype(dtype)
    logits = moved + jnp.array([[0.3, -0.7, 1.1]], dtype)
    return -jnp.mean(jax.nn.log_softmax(logits)[:, 0].astype(jnp.float32))

  # Of seven: a division by eight would not round.
  check(loss_fn, jax.random.normal(jax.random.key(1), [3, 4]), X[:7])


def test_a_difference_beside_a_large_noise_is_found():
  """It is measured by single gradients, of which the mean is a hundredth."""
  x = X - X.mean(0, keepdims=True)
  linear = lambda w, x: jnp.mean(x @ w)
  check(linear, W, x)
  weighted = lambda w, x: jnp.average(
    x @ w, weights=jnp.where(jnp.arange(len(x)) == 0, 1.1, 1)
  )
  assert 'differ' in told(weighted, W, x)


@pytest.mark.slow
@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize('param_dtype', [None, jnp.float32])
@pytest.mark.parametrize('alike', [0.0, 3.0])
def test_half_precision_and_aux_pass(dtype, param_dtype, alike):
  """In the parameters, or in the computation alone."""
  model = nn.Sequential(
    [
      nn.Dense(16, dtype=dtype, param_dtype=param_dtype or dtype),
      nn.relu,
      nn.Dense(3, dtype=dtype, param_dtype=param_dtype or dtype),
    ]
  )
  x = alike + jax.random.normal(jax.random.key(0), [64, 40], dtype)
  params = model.init(jax.random.key(1), x)

  def loss_fn(params, batch):
    logits = model.apply(params, batch)
    labels = jnp.zeros(len(batch), int)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean(), {'examples': len(batch)}

  check(loss_fn, params, x, has_aux=True)


def test_half_precision_is_told_of_coupling():
  half = lambda x: x.astype(jnp.bfloat16)
  assert 'differ' in told(centred, half(W), half(X))
  mixed = lambda w, x: centred(half(w), half(x))
  assert 'differ' in told(mixed, W, X)


def test_double_precision_passes_and_is_told_of_coupling():
  with jax.enable_x64(True):
    double = np.asarray(W, np.float64), np.asarray(X, np.float64)
    check(errors, *double)
    assert 'differ' in told(centred, *double)


def test_complex_parameters_pass_and_are_told_of_coupling():
  w = W + 1j * W[::-1]
  check(lambda w, x: jnp.mean(jnp.abs(x @ w - 1j) ** 2), w, X)

  def coupled(w, x):
    outputs = x @ w
    return jnp.mean(jnp.abs(outputs - outputs.mean()) ** 2)

  assert 'differ' in told(coupled, w, X)


def test_further_arguments_are_the_same_for_all_examples():
  shrunk = lambda w, x, scale: scale * errors(w, x)
  check(shrunk, W, X, 0.5)
  assert 'differ' in told(lambda w, x, scale: scale * centred(w, x), W, X, 0.5)


def dropout(w, x, key):
  keep = jax.random.bernoulli(key, 0.5, x.shape)
  return jnp.mean((x * keep) @ w)


def test_a_parameter_key_is_given_equal_numbers():
  check(dropout, W, X)


def test_coupling_behind_a_parameter_key_is_found():
  noisy = lambda w, x, key: centred(w, x + jax.random.normal(key, (len(x), 1)))
  assert 'differ' in told(noisy, W, X)


def test_a_key_of_the_closure_is_told_of_the_parameter_key():
  key = jax.random.key(1)
  message = told(lambda w, x: dropout(w, x, key), W, X)
  assert 'draws the same random numbers for every example' in message
  assert 'Give it a parameter key' in message


def test_a_key_in_the_batch_leaves_an_example_independent():
  keys = jax.random.split(jax.random.key(1), 8)
  loss = lambda w, batch: jnp.mean(
    jax.vmap(lambda x, key: dropout(w, x, key))(*batch)
  )
  check(loss, W, (X, keys))


def moving(w, x, model_state):
  return errors(w, x - model_state), 0.9 * model_state + 0.1 * jnp.mean(x)


def test_a_model_state_is_passed_to_what_takes_it():
  check(moving, W, X, model_state=jnp.array(0.5))
  coupled = lambda w, x, model_state: (centred(w, x), model_state)
  assert 'differ' in told(coupled, W, X, model_state=jnp.array(0.5))
  assert 'pass model_state=' in told(moving, W, X)
  assert 'has no parameter model_state' in told(errors, W, X, model_state=1.0)


def test_weights_of_zero_pass():
  weighted = lambda w, batch: adaopt.WeightedLoss(
    jnp.sum(batch['m'] * (batch['x'] @ w) ** 2), jnp.sum(batch['m'])
  )
  m = jnp.arange(8.0) % 3
  check(weighted, W, {'x': X, 'm': m})
  assert 'not finite' in told(weighted, W, {'x': X, 'm': 0 * m})
  plain = lambda w, batch: jnp.divide(*weighted(w, batch))
  message = told(plain, W, {'x': X, 'm': m})
  assert 'of single examples among them are not' in message
  assert 'WeightedLoss' in message


def test_a_regulariser_is_part_of_every_example():
  check(lambda w, x: errors(w, x) + jnp.sum(w**2), W, X)


def test_a_ratio_of_means_is_told():
  assert 'differ' in told(ratio, W, jnp.abs(X))
