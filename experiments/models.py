"""Flax models of the experiments, for images, features and tokens."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

# The default of torch.nn.Linear and Conv2d: uniform in ±1/√fan_in. Kernels use
# this initialiser, biases `uniform_bias`.
uniform_kernel = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


def uniform_bias(fan_in: int) -> Callable:
  """Uniform in ±1/√fan_in."""

  def init(key, shape, dtype=jnp.float32):
    bound = fan_in**-0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


def pixels(images: jax.Array) -> jax.Array:
  """Images as float32, uint8 scaled to [0, 1]; features unchanged."""
  if images.dtype == jnp.uint8:
    return images.astype(jnp.float32) / 255
  return images.astype(jnp.float32)


def standardized(
  mean: jax.typing.ArrayLike, std: jax.typing.ArrayLike
) -> Callable[[jax.Array], jax.Array]:
  """Preprocessing: pixels in [0, 1] minus their mean, over their deviation.

  Args:
    mean: Per channel, or one for all. [c] or [].
    std: The standard deviation, likewise.

  Returns:
    images [..., c] → float32 of the same shape.
  """

  def standardize(images):
    x = pixels(images)
    centred = x - jnp.broadcast_to(mean, x.shape)
    return centred / jnp.broadcast_to(std, x.shape)

  return standardize


# No running statistics: it normalises by the batch, in evaluation too, which
# couples the examples of a batch.
batch_norm = functools.partial(
  nn.LayerNorm, epsilon=1e-5, reduction_axes=(0, 1, 2)
)
group_norm = functools.partial(nn.GroupNorm, 8)


class Logistic(nn.Module):
  """Multinomial logistic regression on images or features."""

  num_classes: int = 10

  @nn.compact
  def __call__(self, inputs):
    x = pixels(inputs).reshape(inputs.shape[0], -1)
    bias = uniform_bias(x.shape[-1])
    return nn.Dense(
      self.num_classes, kernel_init=uniform_kernel, bias_init=bias
    )(x)


class MLP(nn.Module):
  """A multilayer perceptron with ReLU."""

  widths: tuple[int, ...] = (64,)
  num_classes: int = 10

  @nn.compact
  def __call__(self, images):
    x = pixels(images).reshape(images.shape[0], -1)
    for width in self.widths:
      x = nn.relu(nn.Dense(width)(x))
    return nn.Dense(self.num_classes)(x)


def max_pool(images: jax.Array) -> jax.Array:
  """The maximum of every 2×2 pixels, [b, h, w, c] → [b, h/2, w/2, c].

  Computed as a maximum of halves: on a CPU, XLA's gradient of a pooling window
  takes longer than the convolution before it.
  """
  b, h, w, c = images.shape
  rows = images.reshape(b, h // 2, 2, w, c)
  columns = jnp.maximum(rows[:, :, 0], rows[:, :, 1]).reshape(
    b, h // 2, w // 2, 2, c
  )
  return jnp.maximum(columns[:, :, :, 0], columns[:, :, :, 1])


class CNN(nn.Module):
  """Convolutions, then dense layers: 28 938 parameters on 28×28."""

  features: tuple[int, ...] = (16, 32)
  widths: tuple[int, ...] = ()
  num_classes: int = 10
  kernel_size: int = 5
  preprocess: Callable = pixels

  @nn.compact
  def __call__(self, images):
    x = self.preprocess(images)
    kernel_size = (self.kernel_size, self.kernel_size)
    if x.ndim == 3:
      x = x[..., None]
    for features in self.features:
      bias = uniform_bias(self.kernel_size**2 * x.shape[-1])
      x = nn.Conv(
        features, kernel_size, kernel_init=uniform_kernel, bias_init=bias
      )(x)
      x = nn.relu(max_pool(x))
    x = x.reshape(x.shape[0], -1)
    dense = functools.partial(nn.Dense, kernel_init=uniform_kernel)
    for width in self.widths:
      x = nn.relu(dense(width, bias_init=uniform_bias(x.shape[-1]))(x))
    return dense(self.num_classes, bias_init=uniform_bias(x.shape[-1]))(x)


class ResidualBlock(nn.Module):
  """Two 3×3 convolutions with a shortcut."""

  features: int
  stride: int
  norm: Callable[[], nn.Module]

  @nn.compact
  def __call__(self, x):
    conv = functools.partial(nn.Conv, self.features, use_bias=False)
    y = nn.relu(self.norm()(conv((3, 3), self.stride)(x)))
    y = self.norm()(conv((3, 3))(y))
    if x.shape != y.shape:
      x = self.norm()(conv((1, 1), self.stride)(x))
    return nn.relu(x + y)


class ResNet18(nn.Module):
  """ResNet-18 for small images: no pooling in the stem."""

  num_classes: int = 10
  norm: Callable[[], nn.Module] = group_norm
  preprocess: Callable = pixels

  @nn.compact
  def __call__(self, images):
    x = nn.Conv(64, (3, 3), use_bias=False)(self.preprocess(images))
    x = nn.relu(self.norm()(x))
    for stage, features in enumerate((64, 128, 256, 512)):
      for block in range(2):
        stride = 2 if stage and not block else 1
        x = ResidualBlock(features, stride, self.norm)(x)
    return nn.Dense(self.num_classes)(jnp.mean(x, (1, 2)))


class TransformerBlock(nn.Module):
  """Causal self-attention and an MLP, each after a LayerNorm."""

  num_heads: int

  @nn.compact
  def __call__(self, x):
    mask = nn.make_causal_mask(x[..., 0])
    attention = nn.MultiHeadDotProductAttention(self.num_heads)
    x = x + attention(nn.LayerNorm()(x), mask=mask)
    hidden = nn.gelu(nn.Dense(4 * x.shape[-1])(nn.LayerNorm()(x)))
    return x + nn.Dense(x.shape[-1])(hidden)


class Transformer(nn.Module):
  """A pre-norm language model with tied input and output embeddings."""

  vocabulary: int = 65
  width: int = 256
  num_layers: int = 4
  num_heads: int = 4
  max_length: int = 128

  @nn.compact
  def __call__(self, tokens):
    embed = nn.Embed(self.vocabulary, self.width)
    positions = nn.Embed(self.max_length, self.width)
    x = embed(tokens) + positions(jnp.arange(tokens.shape[-1]))[None]
    for _ in range(self.num_layers):
      x = TransformerBlock(self.num_heads)(x)
    return embed.attend(nn.LayerNorm()(x))


class LSTM(nn.Module):
  """A recurrent language model."""

  vocabulary: int = 65
  width: int = 256
  num_layers: int = 2

  @nn.compact
  def __call__(self, tokens):
    x = nn.Embed(self.vocabulary, self.width)(tokens)
    for _ in range(self.num_layers):
      x = nn.RNN(nn.OptimizedLSTMCell(self.width))(x)
    return nn.Dense(self.vocabulary)(x)


_cifar_resnet18 = functools.partial(
  ResNet18,
  preprocess=standardized(
    mean=np.float32([125.3, 123.0, 113.9]) / 255,
    std=np.float32([63.0, 62.1, 66.7]) / 255,
  ),
)

MODELS = {
  'logistic': Logistic,
  'binary_logistic': functools.partial(Logistic, num_classes=2),
  'mlp': MLP,
  'cnn': CNN,
  'small_cnn': functools.partial(CNN, features=(8, 16), kernel_size=3),
  'cifar_cnn': functools.partial(
    CNN,
    features=(16, 32, 64),
    widths=(500,),
    kernel_size=3,
    preprocess=standardized(mean=0.5, std=0.5),
  ),
  'small_cifar_cnn': functools.partial(
    CNN,
    features=(8, 16),
    kernel_size=3,
    preprocess=standardized(mean=0.5, std=0.5),
  ),
  'resnet18': _cifar_resnet18,
  'resnet18_batchnorm': functools.partial(_cifar_resnet18, norm=batch_norm),
  'transformer': Transformer,
  'small_transformer': functools.partial(Transformer, width=128, num_layers=2),
  'tiny_transformer': functools.partial(Transformer, width=64, num_layers=2),
  'lstm': LSTM,
}
