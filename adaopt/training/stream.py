"""The example stream: which example comes at which position.

Of a dataset in memory it is one shuffled epoch after the other, and the shuffle
is a pure function of (seed, position). Nothing is stored, no epoch is ever
sorted, and a batch is a range of positions, whatever its size and wherever it
starts. Of a feed it is what the feed reads, a block at a time.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from adaopt._common import arithmetic, arrays, base, checks

_ROUNDS = 8


class Block(NamedTuple):
  """Some examples of a stream, and which of them a batch takes."""

  examples: base.Batch  # [m, ...], at consecutive positions
  first: jax.Array  # [] int32, the position of the first one, modulo 2³¹
  start: jax.Array  # [] int32, the index of the first one that counts
  stop: jax.Array  # [] int32, the index behind the last one that counts


def _hash(x: jax.Array) -> jax.Array:
  """Mixes 32 bits: the bijection `lowbias32` of Wellons' hash prospector."""
  x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
  x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
  return x ^ (x >> 16)


def _permute_bits(x: jax.Array, key: jax.Array, bits: int) -> jax.Array:
  """A keyed permutation of the integers below 2^bits: a Feistel network.

  Each round replaces the high part of x by itself xor a hash of the low part,
  then swaps the parts, so that the next round mixes the other one.
  """
  low = bits // 2
  for i in range(_ROUNDS):
    high = bits - low
    right = x & jnp.uint32((1 << low) - 1)
    mixed = (x >> low) ^ _hash(right ^ _hash(key + jnp.uint32(i)))
    x = (right << high) | (mixed & jnp.uint32((1 << high) - 1))
    low = high
  return x


def _checked(seed, positions):
  """Positions as an array; raises ValueError unless all are integers."""
  checks.check_integer(0, bits=32, seed=seed)
  positions = arrays.array_of(
    'integers, where in the stream', positions=positions
  )
  if not jnp.issubdtype(positions.dtype, jnp.integer):
    raise ValueError(
      f'positions must be integers, where in the stream, got {positions.dtype}.'
    )
  return positions


@functools.partial(jax.jit, static_argnums=2, inline=True)
def _walk(seed, positions, num_examples):
  """Compiled once for all calls; a loop outside of jit compiles at each."""
  positions = positions.astype(jnp.promote_types(positions.dtype, jnp.int32))
  epoch, offset = jnp.divmod(positions, num_examples)
  key = _hash(seed ^ jnp.uint32(0x9E3779B9))
  key = _hash(key ^ _hash(epoch.astype(jnp.uint32)))
  bits = max(8, (num_examples - 1).bit_length())

  def walk(carry):
    x, walking = carry
    x = jnp.where(walking, _permute_bits(x, key, bits), x)
    return x, x >= num_examples

  indices, _ = jax.lax.while_loop(
    lambda carry: jnp.any(carry[1]),
    walk,
    (offset.astype(jnp.uint32), jnp.ones_like(offset, bool)),
  )
  return indices.astype(jnp.int32)


def example_indices(
  seed: jax.typing.ArrayLike, positions: jax.Array, num_examples: int
) -> jax.Array:
  """The index of the example at each position of the stream.

  Position p lies in epoch p // n; the n positions of an epoch visit all n
  examples in an order of their own. An index costs a few integer operations:
  a permutation of the next power of two, walked until it lands below n.

  Args:
    seed: The seed of the stream. [] integer.
    positions: Where in the stream, ≥ 0. Any shape, integer.
    num_examples: n, the number of examples.

  Returns:
    The indices, in [0, n). Shape of positions, int32.

  Raises:
    ValueError: If n is not a positive integer below 2³¹, seed is none of
      [0, 2³²), or positions are no integers.

  Example:
    >>> import jax.numpy as jnp
    >>> from adaopt import training
    >>> print(training.example_indices(0, jnp.arange(10), num_examples=5))
    [4 2 1 3 0 3 4 2 0 1]

  References:
    Black and Rogaway, `Ciphers with Arbitrary Finite Domains
    <https://doi.org/10.1007/3-540-45760-7_9>`_, 2002 (cycle walking)
  """
  checks.check_integer(1, num_examples=num_examples)
  positions = _checked(seed, positions)
  return _walk(jnp.asarray(seed, jnp.uint32), positions, int(num_examples))


def example_keys(seed: jax.typing.ArrayLike, positions: jax.Array) -> jax.Array:
  """The random key of the example at each position of the stream.

  A pure function of (seed, position): a run that resumes draws the same random
  numbers, and no size of a batch or micro-batch changes them.

  Args:
    seed: The seed of the stream. [] integer.
    positions: Where in the stream. [b] integer.

  Returns:
    Keys, [b].

  Raises:
    ValueError: If seed is no integer of [0, 2³²), or positions are none.

  Example:
    >>> import adaopt
    >>> import jax
    >>> import jax.numpy as jnp
    >>> keys = adaopt.example_keys(0, jnp.arange(3))
    >>> print(keys.shape, jax.random.bits(keys[2]))
    (3,) 3875991361
  """
  positions = _checked(seed, positions)
  if positions.ndim != 1:
    raise ValueError(
      'positions must be [b], one for each example, got '
      f'{list(positions.shape)}.'
    )
  key = jax.random.key(jnp.asarray(seed, jnp.uint32))
  return jax.vmap(jax.random.fold_in, (None, 0))(key, positions)


def draw(
  dataset: base.Batch, seed: jax.typing.ArrayLike, positions: jax.Array
) -> base.Batch:
  """The examples of a dataset in memory at these positions of its stream.

  Args:
    dataset: A pytree of arrays with a common leading example axis.
    seed: The seed of the stream. [] integer.
    positions: Where in the stream. [b] integer.

  Returns:
    The batch: like dataset, with leading axis b.

  Raises:
    ValueError: If the leading axes differ or there is no example.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> dataset = {'x': jnp.arange(5) * 10, 'y': jnp.arange(5)}
    >>> print(adaopt.draw(dataset, 0, positions=jnp.arange(3)))
    {'x': Array([40, 20, 10], dtype=int32), 'y': Array([4, 2, 1], dtype=int32)}
  """
  n = checks.num_examples(dataset, 'dataset')
  indices = example_indices(seed, positions, n)
  return jax.tree.map(lambda x: jnp.asarray(x)[indices], dataset)


def draw_from_block(
  block: Block, seed: jax.typing.ArrayLike, positions: jax.Array
) -> base.Batch:
  """The examples of a block at positions of the stream, modulo its length."""
  del seed
  offsets = (positions - block.first) & arithmetic.LARGEST
  index = offsets % checks.num_examples(block.examples)
  return jax.tree.map(lambda x: jnp.asarray(x)[index], block.examples)


def examples_of(dataset: Any) -> base.Batch:
  """The examples of a block, and a dataset as it is."""
  return dataset.examples if isinstance(dataset, Block) else dataset
