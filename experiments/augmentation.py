"""Random crops, flips and shifts, drawn with the examples on the device.

The change to an image is a pure function of the seed and of its position in the
example stream: a batch does not depend on how it is split, and an image that
recurs in a later epoch gets a new change.
"""

import jax
import jax.numpy as jnp

import adaopt

_PADDING = 4


def crop_and_flip(
  dataset: adaopt.Batch, seed: jax.typing.ArrayLike, positions: jax.Array
) -> adaopt.Batch:
  """The examples at these positions, with images cropped and flipped.

  An image is padded with 4 zeros on every side, cropped back to its size at one
  of the 9·9 offsets, drawn uniformly, and mirrored left to right with
  probability 1/2. Pass it as `draw` to `adaopt.train_step`.

  Args:
    dataset: 'input' [n, h, w, c], and any other fields.
    seed: The seed of the stream. [] integer.
    positions: Positions in the stream. [b] integer.

  Returns:
    The batch: like dataset, with leading axis b.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> from adaopt.experiments import augmentation
    >>> dataset = {'input': jnp.ones([5, 6, 6, 1]), 'label': jnp.arange(5)}
    >>> batch = augmentation.crop_and_flip(dataset, 0, jnp.arange(2))
    >>> print(batch['label'])
    [4 2]
    >>> print(batch['input'][0, :, :, 0])
    [[0. 0. 0. 0. 0. 0.]
     [0. 0. 0. 0. 0. 0.]
     [0. 0. 0. 0. 0. 0.]
     [0. 0. 0. 0. 1. 1.]
     [0. 0. 0. 0. 1. 1.]
     [0. 0. 0. 0. 1. 1.]]

  References:
    He et al., `Deep Residual Learning for Image Recognition
    <https://arxiv.org/abs/1512.03385>`_, 2015, section 4.2
  """
  key = jax.random.key(seed)
  places = jnp.array([2 * _PADDING + 1, 2 * _PADDING + 1, 2])

  def changed(image, position):
    y, x, mirrored = jax.random.randint(
      jax.random.fold_in(key, position), (3,), 0, places
    )
    sides = ((_PADDING, _PADDING), (_PADDING, _PADDING), (0, 0))
    crop = jax.lax.dynamic_slice(jnp.pad(image, sides), (y, x, 0), image.shape)
    return jnp.where(mirrored, crop[:, ::-1], crop)

  batch = adaopt.draw(dataset, seed, positions)
  return batch | {'input': jax.vmap(changed)(batch['input'], positions)}


def shift(
  dataset: adaopt.Batch, seed: jax.typing.ArrayLike, positions: jax.Array
) -> adaopt.Batch:
  """The examples at these positions, with images moved by up to one pixel.

  An image is padded with zeros and cropped back to its size at one of the 3·3
  offsets, drawn uniformly. Pass it as `draw` to `adaopt.train_step`.

  Args:
    dataset: 'input' [n, h, w], and any other fields.
    seed: The seed of the stream. [] integer.
    positions: Positions in the stream. [b] integer.

  Returns:
    The batch: like dataset, with leading axis b.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt.experiments import augmentation
    >>> dataset = {'input': jnp.ones([5, 2, 3]), 'label': jnp.arange(5)}
    >>> batch = augmentation.shift(dataset, 0, jnp.arange(2))
    >>> print(batch['input'][0])
    [[1. 1. 0.]
     [1. 1. 0.]]
  """
  key = jax.random.key(seed)

  def moved(image, position):
    y, x = jax.random.randint(jax.random.fold_in(key, position), (2,), 0, 3)
    return jax.lax.dynamic_slice(jnp.pad(image, 1), (y, x), image.shape)

  batch = adaopt.draw(dataset, seed, positions)
  return batch | {'input': jax.vmap(moved)(batch['input'], positions)}
