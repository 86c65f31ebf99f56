"""Rules that make gradients a few at a time, for want of a better."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from adaopt._common import arithmetic
from adaopt.per_example import cut, program, rule


class Made(NamedTuple):
  """How a gradient is made, maybe in a layout of its own."""

  samples: Any  # what it is made of, [J, ...]
  gradient_of: Callable[[Any], jax.Array]  # of one sample
  restore: Callable[[jax.Array], jax.Array]  # moves it to where it belongs


def materialised(
  applies: Callable[[cut.Tail], bool],
  make: Callable[[cut.Tail, rule.Factors], Made],
) -> rule.Rule:
  """A rule that loops over chunks of samples."""

  def norms(tail, factors):
    made = make(tail, factors)
    zeros = _zeros(made)

    def reduce(total, gradients):
      flat = gradients.reshape(len(gradients), -1)
      return _add(total, gradients), rule.squared_rows(flat)

    total, norms = _loop(reduce, zeros, made, zeros.size)
    return made.restore(total), norms.reshape(-1)

  def squares(tail, factors):
    made = make(tail, factors)
    zeros = _zeros(made)

    def reduce(carry, gradients):
      total, squares = carry
      return (
        _add(total, gradients),
        _add(squares, arithmetic.abs_sq(gradients)),
      ), ()

    init = zeros, jnp.real(zeros)
    (total, squares), _ = _loop(reduce, init, made, zeros.size)
    return made.restore(total), made.restore(squares)

  def products(tail, factors, direction):
    made = make(tail, factors)
    zeros = _zeros(made)
    (u,) = jax.linear_transpose(made.restore, zeros)(direction)

    def reduce(_, gradients):
      flat = gradients.reshape(len(gradients), -1)
      highest = jax.lax.Precision.HIGHEST
      return (), jnp.real(jnp.matmul(flat, u.ravel(), precision=highest))

    return _loop(reduce, (), made, zeros.size)[1].reshape(-1)

  return rule.Rule(applies, norms, squares, products)


def _zeros(made):
  """What a sum of gradients starts from."""
  one = jax.tree.map(lambda x: x[0], made.samples)
  shape = jax.eval_shape(made.gradient_of, one)
  return jnp.zeros(shape.shape, arithmetic.accumulator_dtype(shape))


def _loop(reduce, init, made, elements):
  """Scans over chunks of gradients, in a lane for each device of the samples.

  Where the samples are sharded, each device has lanes of its own, and only the
  totals of the lanes are added up between devices.
  """
  samples = jax.tree.leaves(made.samples)
  length = len(samples[0])
  lanes = math.gcd(length, _num_devices(made.samples))
  elements += sum(math.prod(x.shape[1:]) for x in samples)
  size = _chunk_size(length // lanes, elements)
  one = lambda sample: rule.widen(made.gradient_of(sample))
  many = _mapped(one, size)
  step = lambda carry, chunk: reduce(carry, many(chunk))
  lane = lambda chunks: jax.lax.scan(step, init, chunks)
  chunks = jax.tree.map(
    lambda x: x.reshape(lanes, -1, size, *x.shape[1:]), made.samples
  )
  totals, each = _mapped(lane, lanes)(chunks)
  return jax.tree.map(lambda x: jnp.sum(x, 0), totals), each


def _num_devices(samples: Any) -> int:
  """How many devices samples may be sharded over; 1 within `shard_map`."""
  meshes = [jax.typeof(x).sharding.mesh for x in jax.tree.leaves(samples)]
  return max(
    math.prod(n for axis, n in m.shape.items() if axis not in m.manual_axes)
    for m in meshes
  )


def _mapped(function: Callable, size: int) -> Callable:
  """`function` mapped over a leading axis; one of length 1 costs nothing."""
  if size > 1:
    return jax.vmap(function)
  first = lambda tree: jax.tree.map(lambda x: x[0], tree)
  return lambda tree: jax.tree.map(lambda x: x[None], function(first(tree)))


FEW = 8 if jax.__version_info__ >= (0, 11) else 2
"""Gradients in a chunk on a CPU.

XLA runs their products in parallel since JAX 0.11; before, more of them only
leave the cache.
"""


def _add(total: jax.Array, gradients: jax.Array) -> jax.Array:
  """Adds a chunk of gradients to a total.

  A few one by one: at the sum over a short leading axis XLA's CPU backend is
  many times slower.
  """
  if len(gradients) <= FEW:
    return functools.reduce(jnp.add, gradients, total)
  return total + jnp.sum(gradients, 0)


def _chunk_size(length: int, elements: int) -> int:
  """How many gradients to make at once: a divisor of `length`.

  As many as fit into 2^21 elements on a CPU, and into 2^26 elsewhere, with what
  they are made of.
  """
  on_cpu = jax.default_backend() == 'cpu'
  fits = max(1, 2 ** (21 if on_cpu else 26) // max(1, elements))
  most = min(length, fits, FEW if on_cpu else length)
  return max(n for n in range(1, most + 1) if length % n == 0)


def _as_the_program_does(tail, factors):
  shared = {value: factors[value] for value in tail.shared}

  def gradient_of(sample):
    return program.evaluate(tail.equations, shared | sample, [tail.output])[0]

  samples = {value: factors[value] for value in tail.factors}
  return Made(samples, gradient_of, lambda gradient: gradient)


MATERIALISED = materialised(lambda tail: True, _as_the_program_does)
