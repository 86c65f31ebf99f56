"""The rule that makes gradients a few at a time, for want of a better."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from adaopt import statistics
from adaopt.per_example import program, rule


def materialised(gradient_of: Callable) -> rule.Rule:
  """Loops over samples; gradient_of(tail, factors) is the gradient of one."""

  def loop(reduce, init, tail, factors):
    per_sample = {value: factors[value] for value in tail.factors}
    shared = {value: factors[value] for value in tail.shared}
    (length,) = {len(x) for x in per_sample.values()}
    size = _chunk_size(length, rule.size(tail))
    one = lambda sample: rule.widen(gradient_of(tail, shared | sample))
    many = jax.vmap(one) if size > 1 else _of_single(one)
    chunks = jax.tree.map(
      lambda x: x.reshape(length // size, size, *x.shape[1:]), per_sample
    )
    step = lambda carry, chunk: reduce(carry, many(chunk))
    return jax.lax.scan(step, init, chunks)

  def zeros(tail, real=False):
    dtype = jnp.promote_types(tail.avals[tail.output].dtype, jnp.float32)
    dtype = jnp.finfo(dtype).dtype if real else dtype
    return jnp.zeros(tail.shape(tail.output), dtype)

  def norms(tail, factors):
    def reduce(total, gradients):
      squares = statistics.abs_sq(gradients)
      return total + jnp.sum(gradients, 0), rule.rowwise(squares)

    total, norms = loop(reduce, zeros(tail), tail, factors)
    return total, norms.reshape(-1)

  def squares(tail, factors):
    def reduce(carry, gradients):
      total, squares = carry
      return (
        total + jnp.sum(gradients, 0),
        squares + jnp.sum(statistics.abs_sq(gradients), 0),
      ), None

    init = zeros(tail), zeros(tail, real=True)
    return loop(reduce, init, tail, factors)[0]

  def products(tail, factors, direction):
    def reduce(_, gradients):
      return (), rule.rowwise(jnp.real(gradients * direction[None]))

    return loop(reduce, (), tail, factors)[1].reshape(-1)

  return rule.Rule(lambda tail: True, norms, squares, products)


def _of_single(function: Callable) -> Callable:
  """`function` mapped over a leading axis of length one."""
  return lambda tree: function(jax.tree.map(lambda x: x[0], tree))[None]


def _chunk_size(length: int, elements: int) -> int:
  """How many gradients to make at once: a divisor of `length`.

  One on a CPU, where XLA's batched products are slower than a loop of plain
  ones; elsewhere what fits into 2^26 elements.
  """
  if jax.default_backend() == 'cpu':
    return 1
  fits = max(1, 2**26 // max(1, elements))
  return max(n for n in range(1, min(length, fits) + 1) if length % n == 0)


def _evaluated(tail, factors):
  """The gradient as the program makes it."""
  return program.evaluate(tail.equations, factors, [tail.output])[0]


MATERIALISED = materialised(_evaluated)
