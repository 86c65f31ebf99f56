"""Fallback: materialises per-sample gradients in chunks."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from adaopt._common import arithmetic, matrices
from adaopt.per_example import cut
from adaopt.per_example.program import constraints, ir
from adaopt.per_example.rules import common


class Recipe(NamedTuple):
  """How to materialise a gradient, in a layout of the rule's choice."""

  samples: Any  # factors, [J, ...]
  gradient_of: Callable[[Any], jax.Array]  # the gradient of one sample
  restore: Callable[[jax.Array], jax.Array]  # moves it to the tensor's layout


def by_chunks(
  applies: Callable[[cut.Tail], bool],
  recipe_of: Callable[[cut.Tail, common.Factors], Recipe],
) -> common.Rule:
  """Returns a rule that loops over chunks of samples."""

  def sums(tail, factors, coefficients):
    recipe = recipe_of(tail, factors)
    zeros = _zeros(recipe)

    def reduce(carry, gradients, coefficients):
      total, weighted, squares, signs, matrix_squares = carry
      return (
        _add(total, gradients),
        _add(weighted, common.scaled(coefficients, gradients)),
        _add(squares, arithmetic.abs_sq(gradients)),
        _add(signs, common.signs(gradients)),
        add_matrices(matrix_squares, gradients),
      ), _squared_norms(gradients)

    def add_matrices(total, gradients):
      if total is None:
        return None
      restored = jax.vmap(recipe.restore)(gradients)
      return total + matrices.sum_of_products(restored, restored)

    def square(gradient):
      restored = recipe.restore(gradient)
      return matrices.product(restored, restored)

    no_squares = optax.tree.zeros_like(jax.eval_shape(square, zeros))
    init = zeros, zeros, jnp.real(zeros), zeros, no_squares
    (total, weighted, squares, signs, matrix_squares), norms = _loop(
      reduce, init, recipe, tail.axes, coefficients
    )
    return common.Sums(
      total=recipe.restore(total),
      weighted=recipe.restore(weighted),
      norms=norms.reshape(-1),
      squares=recipe.restore(squares),
      signs=recipe.restore(signs),
      matrix_squares=matrix_squares,
    )

  def products(tail, factors, direction):
    recipe = recipe_of(tail, factors)
    zeros = _zeros(recipe)
    (u,) = jax.linear_transpose(recipe.restore, zeros)(direction)

    def reduce(_, gradients):
      highest = jax.lax.Precision.HIGHEST
      along = jnp.tensordot(gradients, u, u.ndim, precision=highest)
      return (), jnp.real(along)

    return _loop(reduce, (), recipe, tail.axes)[1].reshape(-1)

  return common.Rule(applies, sums, products)


def _squared_norms(gradients):
  """‖g‖² of gradients [n, ...]: flat rows would be gathered from devices."""
  axes = tuple(range(1, gradients.ndim))
  products = jax.lax.dot_general(
    gradients,
    jnp.conj(gradients),
    ((axes, axes), ((0,), (0,))),
    precision=jax.lax.Precision.HIGHEST,
  )
  return jnp.real(products)


def _zeros(recipe):
  """The initial value of a sum of gradients."""
  one = jax.tree.map(lambda x: x[0], recipe.samples)
  shape = jax.eval_shape(recipe.gradient_of, one)
  return jnp.zeros_like(shape, arithmetic.accumulator_dtype(shape))


def _loop(reduce, init, recipe, axes, *beside):
  """Scans over chunks of gradients and of arrays [J] beside them, in lanes.

  Samples that are sharded have a lane for each part. Only the carries of the
  lanes are added up between devices.
  """
  samples = jax.tree.leaves(recipe.samples)
  length = len(samples[0])
  lanes = math.gcd(length, _num_parts(recipe.samples, axes))
  elements = _zeros(recipe).size
  elements += sum(math.prod(x.shape[1:]) for x in samples)
  size = _chunk_size(length // lanes, elements)
  one = lambda sample: common.widen(recipe.gradient_of(sample))
  many = _mapped(one, size)
  step = lambda carry, chunk: reduce(carry, many(chunk[0]), *chunk[1:])
  lane = lambda chunks: jax.lax.scan(step, init, chunks)
  chunks = jax.tree.map(
    lambda x: x.reshape(lanes, -1, size, *x.shape[1:]),
    (recipe.samples, *beside),
  )
  carries, outputs = _mapped(lane, lanes, constraints.SAMPLES)(chunks)
  return jax.tree.map(lambda x: jnp.sum(x, 0), carries), outputs


def _num_parts(samples: Any, axes: tuple[str, ...]) -> int:
  """The number of parts that samples are sharded into; 1 within `shard_map`.

  Where the axes are not known they may be all of the mesh.
  """
  meshes = [jax.typeof(x).sharding.mesh for x in jax.tree.leaves(samples)]
  return max(
    math.prod(
      m.shape[axis]
      for axis in (axes or m.axis_names)
      if axis in m.axis_names and axis not in m.manual_axes
    )
    for m in meshes
  )


def _mapped(function: Callable, size: int, name: Any = None) -> Callable:
  """Maps over a leading axis; without `vmap` if its length is 1."""
  if size > 1:
    return jax.vmap(function, axis_name=name)
  first = lambda tree: jax.tree.map(lambda x: x[0], tree)
  return lambda tree: jax.tree.map(lambda x: x[None], function(first(tree)))


FEW = 8 if jax.__version_info__ >= (0, 11) else 2
"""The largest chunk on a CPU.

XLA contracts the gradients of a chunk in parallel since JAX 0.11; before, a
larger chunk only leaves the cache.
"""


def _add(total: jax.Array, gradients: jax.Array) -> jax.Array:
  """Adds a chunk of gradients to a total.

  Adds a few gradients one by one, since XLA's CPU backend is many times slower
  at a sum over a short leading axis.
  """
  if len(gradients) <= FEW:
    return functools.reduce(jnp.add, gradients, total)
  return total + jnp.sum(gradients, 0)


def _chunk_size(length: int, elements: int) -> int:
  """The number of gradients in a chunk, a divisor of `length`.

  The gradients and their factors have at most 2^21 elements on a CPU, and at
  most 2^26 elsewhere.
  """
  on_cpu = jax.default_backend() == 'cpu'
  fits = max(1, 2 ** (21 if on_cpu else 26) // max(1, elements))
  most = min(length, fits, FEW if on_cpu else length)
  return max(n for n in range(1, most + 1) if length % n == 0)


def _as_in_the_tail(tail, factors):
  shared = {value: factors[value] for value in tail.shared}

  def gradient_of(sample):
    return ir.evaluate(tail.equations, shared | sample, [tail.output])[0]

  samples = {value: factors[value] for value in tail.factors}
  return Recipe(samples, gradient_of, lambda gradient: gradient)


def every(tail: cut.Tail, factors: common.Factors) -> jax.Array:
  """All gradients at once, [J, ...]."""
  recipe = _as_in_the_tail(tail, factors)
  return common.widen(jax.vmap(recipe.gradient_of)(recipe.samples))


MATERIALISED = by_chunks(lambda tail: True, _as_in_the_tail)
