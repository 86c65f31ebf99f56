"""Flax models of the experiments; images come as uint8 or in [0, 1]."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

# torch.nn.Linear's and Conv2d's default: uniform in ±1/√fan_in. Flax draws
# kernels so with this initialiser, and biases by `uniform_bias`.
uniform_kernel = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


def uniform_bias(fan_in: int) -> Callable:
  """Uniform in ±1/√fan_in."""

  def init(key, shape, dtype=jnp.float32):
    bound = fan_in**-0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


def pixels(images: jax.Array) -> jax.Array:
  """Images as float32, uint8 scaled to [0, 1]."""
  if images.dtype == jnp.uint8:
    return images.astype(jnp.float32) / 255
  return images.astype(jnp.float32)


class Logistic(nn.Module):
  """Multinomial logistic regression."""

  num_classes: int = 10

  @nn.compact
  def __call__(self, images):
    x = pixels(images).reshape(images.shape[0], -1)
    bias = uniform_bias(x.shape[-1])
    return nn.Dense(
      self.num_classes, kernel_init=uniform_kernel, bias_init=bias
    )(x)


class MLP(nn.Module):
  """A perceptron with ReLU hidden layers."""

  widths: tuple[int, ...] = (64,)
  num_classes: int = 10

  @nn.compact
  def __call__(self, images):
    x = pixels(images).reshape(images.shape[0], -1)
    for width in self.widths:
      x = nn.relu(nn.Dense(width)(x))
    return nn.Dense(self.num_classes)(x)


class CNN(nn.Module):
  """Two 5×5 convolutions and a dense layer: 28 938 parameters on 28×28."""

  features: tuple[int, ...] = (16, 32)
  num_classes: int = 10

  @nn.compact
  def __call__(self, images):
    x = pixels(images)
    if x.ndim == 3:
      x = x[..., None]
    for features in self.features:
      bias = uniform_bias(25 * x.shape[-1])
      x = nn.Conv(features, (5, 5), kernel_init=uniform_kernel, bias_init=bias)(
        x
      )
      x = nn.max_pool(nn.relu(x), (2, 2), strides=(2, 2))
    x = x.reshape(x.shape[0], -1)
    bias = uniform_bias(x.shape[-1])
    return nn.Dense(
      self.num_classes, kernel_init=uniform_kernel, bias_init=bias
    )(x)


MODELS = {'logistic': Logistic, 'mlp': MLP, 'cnn': CNN}
