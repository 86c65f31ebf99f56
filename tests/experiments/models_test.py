"""A network that differs from its source, or couples examples unnoticed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import adaopt
from adaopt.experiments import models


@pytest.mark.parametrize(
  ('name', 'shape', 'parameters'),
  [
    ('logistic', (28, 28), 7850),
    ('mlp', (8, 8), 64 * 65 + 10 * 65),
    ('cnn', (28, 28), 28_938),
    ('cifar_cnn', (32, 32, 3), 541_094),
    ('resnet18', (32, 32, 3), 11_173_962),
    ('resnet18_batchnorm', (32, 32, 3), 11_173_962),
  ],
)
def test_models_have_the_parameters_of_their_source(name, shape, parameters):
  images = jax.ShapeDtypeStruct((1, *shape), jnp.uint8)
  model = models.MODELS[name]()
  params = jax.eval_shape(model.init, jax.random.key(0), images)
  assert sum(p.size for p in jax.tree.leaves(params)) == parameters


def test_logistic_starts_like_the_source():
  params = models.Logistic().init(jax.random.key(0), jnp.zeros((1, 28, 28)))
  for leaf in jax.tree.leaves(params):
    assert jnp.max(jnp.abs(leaf)) < 1 / 28
    assert jnp.max(jnp.abs(leaf)) > 0.8 / 28


def test_logistic_takes_features_as_they_are():
  model = models.Logistic(num_classes=2)
  features = jnp.array([[-1.0, 3.0, 0.5]])
  params = model.init(jax.random.key(0), features)
  dense = params['params']['Dense_0']
  assert dense['kernel'].shape == (3, 2)
  np.testing.assert_allclose(
    model.apply(params, features)[0],
    np.array([-1.0, 3.0, 0.5]) @ dense['kernel'] + dense['bias'],
    rtol=1e-6,
  )


def test_uint8_images_are_scaled():
  images = jnp.array([0, 255], jnp.uint8)
  assert models.pixels(images).tolist() == [0.0, 1.0]


def test_channels_are_standardized_each_by_its_own():
  standardize = models.standardized(
    mean=np.float32([0.0, 0.5, 1.0]), std=np.float32([1.0, 0.5, 0.25])
  )
  white = jnp.full((2, 4, 4, 3), 255, jnp.uint8)
  expected = np.broadcast_to([1.0, 1.0, 0.0], white.shape)
  np.testing.assert_array_equal(standardize(white), expected)
  np.testing.assert_array_equal(
    models.standardized(0.5, 0.5)(jnp.zeros((2, 3, 3))), -np.ones((2, 3, 3))
  )


@pytest.mark.parametrize(
  ('name', 'black', 'white'),
  [
    # −mean / std and (1 − mean) / std, of red.
    ('resnet18', -125.3 / 63.0, (255 - 125.3) / 63.0),
    ('resnet18_batchnorm', -125.3 / 63.0, (255 - 125.3) / 63.0),
    ('cifar_cnn', -1.0, 1.0),
  ],
)
def test_cifar_models_standardize_their_input(name, black, white):
  images = jnp.array([0, 255], jnp.uint8)[:, None, None, None]
  images = jnp.broadcast_to(images, (2, 1, 1, 3))
  seen = models.MODELS[name]().preprocess(images)[:, 0, 0, 0]
  np.testing.assert_allclose(seen, [black, white], rtol=1e-6)


def test_batch_norm_normalises_by_the_batch_and_keeps_no_statistics():
  x = jax.random.normal(jax.random.key(0), [6, 4, 5, 3]) * 3 + 1
  norm = models.batch_norm()
  variables = norm.init(jax.random.key(1), x)
  assert set(variables) == {'params'}
  x64 = np.asarray(x, np.float64)
  mean, variance = x64.mean((0, 1, 2)), x64.var((0, 1, 2))
  np.testing.assert_allclose(
    norm.apply(variables, x), (x64 - mean) / np.sqrt(variance + 1e-5), atol=1e-5
  )


def cross_entropy_of(model):
  """The mean loss on six small images, with parameters and batch."""
  rng = np.random.default_rng(0)
  batch = {
    'input': rng.integers(0, 256, (6, 8, 8, 3)).astype(np.uint8),
    'label': np.arange(6),
  }
  shapes = jax.eval_shape(model.init, jax.random.key(1), batch['input'])
  params = jax.tree.map(
    lambda p: rng.normal(0, 0.1, p.shape).astype(np.float32), shapes
  )

  def loss_fn(params, batch):
    losses = optax.softmax_cross_entropy_with_integer_labels(
      model.apply(params, batch['input']), batch['label']
    )
    return losses.mean()

  return loss_fn, params, batch


@pytest.mark.slow
def test_group_norm_leaves_examples_independent():
  model = models.MODELS['resnet18']()
  adaopt.check_independent_examples(*cross_entropy_of(model))


@pytest.mark.slow
def test_batch_norm_couples_examples():
  model = models.MODELS['resnet18_batchnorm']()
  with pytest.raises(ValueError, match=r'BatchNorm.*group_size'):
    adaopt.check_independent_examples(*cross_entropy_of(model))


@pytest.mark.slow
def test_batch_norm_in_groups_has_the_variance_of_their_gradients():
  model = nn.Sequential(
    [
      models.pixels,
      models.ResidualBlock(4, 2, models.batch_norm),
      models.Logistic(6),
    ]
  )
  loss_fn, params, batch = cross_entropy_of(model)
  estimate = adaopt.value_and_statistics(loss_fn, group_size=3)
  _, statistics = jax.jit(estimate)(params, batch)
  gradient = jax.jit(jax.grad(loss_fn))
  a = gradient(params, jax.tree.map(lambda x: x[:3], batch))
  b = gradient(params, jax.tree.map(lambda x: x[3:], batch))
  # v per example from the means of two groups of three: 3 ‖a − b‖² / 2.
  np.testing.assert_allclose(
    optax.tree.sum(statistics.variance),
    1.5 * optax.tree.norm(optax.tree.sub(a, b), squared=True),
    rtol=1e-4,
  )
