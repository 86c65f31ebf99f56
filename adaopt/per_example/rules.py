"""Rules: from the factors of a gradient to its reductions over samples.

A rule is given a tail and the values of its factors, [J, ...], and returns
Σ g_j beside the squared norms ‖g_j‖² [J], or beside the squares Σ |g_j|².
"""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from adaopt import statistics
from adaopt.per_example import cut, program

Factors = dict[int, jax.Array]
Reduction = Callable[[cut.Tail, Factors], tuple[jax.Array, jax.Array]]


class Rule(NamedTuple):
  """When a rule applies to a tail, and its two reductions."""

  applies: Callable[[cut.Tail], bool]
  norms: Reduction
  squares: Reduction


def _widen(x: jax.Array) -> jax.Array:
  return x.astype(statistics.accumulator_dtype(x))


def _only(tail: cut.Tail, name: str) -> bool:
  """Whether the tail is one contraction of this name, moved around."""
  contractions = [e.primitive.name for e in tail.contractions]
  moved = all(e.primitive.name in cut.MOVES for e in tail.rest)
  return contractions == [name] and moved


def _move(tail: cut.Tail, array: jax.Array) -> jax.Array:
  """Moves a reduction of the only contraction to where the gradient is."""
  for equation in tail.rest:
    # The reduction may be of a wider type than the gradient; it keeps it.
    if equation.primitive.name not in ('convert_element_type', 'copy'):
      array = equation.primitive.bind(array, **equation.params)
  return array


# A gradient that no contraction makes: biases, scales, and what is unknown.


def _direct(square: Callable) -> Reduction:
  def reduce(tail, factors):
    gradients = _widen(factors[tail.output])
    return jnp.sum(gradients, 0), square(statistics.abs_sq(gradients))

  return reduce


def _rowwise(squares):
  return jnp.sum(squares, tuple(range(1, squares.ndim)))


DIRECT = Rule(
  applies=lambda tail: not tail.contractions,
  norms=_direct(_rowwise),
  squares=_direct(lambda squares: jnp.sum(squares, 0)),
)


def absent(length: int, parameter: jax.Array) -> Rule:
  """The rule for a parameter on which no sample's loss depends."""
  total = jnp.zeros_like(_widen(parameter))
  squares = statistics.abs_sq(total)
  return Rule(
    applies=lambda tail: tail is None,
    norms=lambda tail, factors: (total, jnp.zeros(length, squares.dtype)),
    squares=lambda tail, factors: (total, squares),
  )


# One outer product, g_j = x_j δ_jᵀ: a dense layer without other axes.


def _contracted(tail: cut.Tail) -> tuple[int, int, int]:
  """T, I, O of Σ_t x_t δ_tᵀ with t < T, x_t [I] and δ_t [O]."""
  (equation,) = tail.contractions
  ((summed, _), _) = equation.params['dimension_numbers']
  x, cotangent = map(tail.shape, equation.inputs)
  length = math.prod(x[axis] for axis in summed)
  return length, math.prod(x) // length, math.prod(cotangent) // length


def _is_dense(tail):
  if not _only(tail, 'dot_general'):
    return False
  _, (batched, _) = tail.contractions[0].params['dimension_numbers']
  return not batched and tail.shape(tail.output) != ()


def _matrices(tail, factors):
  """X [J, T, I] and Δ [J, T, O]."""
  (equation,) = tail.contractions
  (contracted, _) = equation.params['dimension_numbers']
  length, *widths = _contracted(tail)
  for value, summed, width in zip(
    equation.inputs, contracted, widths, strict=True
  ):
    x = factors[value]
    kept = [d for d in range(x.ndim - 1) if d not in summed]
    x = jnp.transpose(x, [0, *(d + 1 for d in (*summed, *kept))])
    yield x.reshape(x.shape[0], length, width)


def _outer_sum(tail, x, cotangent):
  """Σ_j Σ_t x_jt δ_jtᵀ, where the gradient is."""
  dtype = statistics.accumulator_dtype(x)
  flat = lambda a: a.reshape(-1, a.shape[-1])
  total = jax.lax.dot_general(
    flat(x),
    flat(cotangent),
    (((0,), (0,)), ((), ())),
    preferred_element_type=dtype,
  )
  shape = tail.shape(tail.contractions[0].outputs[0])
  return _move(tail, total.reshape(shape))


def _outer_norms(tail, factors):
  """‖x δᵀ‖² = ‖x‖² ‖δ‖²."""
  x, cotangent = _matrices(tail, factors)
  norms = _rowwise(statistics.abs_sq(x))
  return _outer_sum(tail, x, cotangent), norms * _rowwise(
    statistics.abs_sq(cotangent)
  )


def _outer_squares(tail, factors):
  """|x_i δ_o|² = |x_i|² |δ_o|²."""
  x, cotangent = _matrices(tail, factors)
  squares = map(statistics.abs_sq, (x, cotangent))
  return _outer_sum(tail, x, cotangent), _outer_sum(tail, *squares)


OUTER = Rule(
  applies=lambda tail: _is_dense(tail) and _contracted(tail)[0] == 1,
  norms=_outer_norms,
  squares=_outer_squares,
)


# A few outer products, g_j = Σ_t x_jt δ_jtᵀ: small groups, short sequences.


def _gram_norms(tail, factors):
  """‖X Δᵀ‖² = Σ_ts ⟨x_t, x_s⟩ ⟨δ_t, δ_s⟩."""
  x, cotangent = _matrices(tail, factors)
  gram = lambda a: jnp.einsum('jti,jsi->jts', _widen(a), _widen(a))
  return _outer_sum(tail, x, cotangent), _rowwise(gram(x) * gram(cotangent))


def _prefers_gram(tail):
  """Whether Gram matrices cost less than a pass over the gradient."""
  length, rows, columns = _contracted(tail)
  return length**2 * (rows + columns) < 4 * rows * columns


# Gradients made one after the other, summed and squared on the way.


def _materialised(gradient_of: Callable) -> Rule:
  """Loops over samples; gradient_of(tail, factors) is the gradient of one."""

  def loop(reduce, init, tail, factors):
    per_sample = {value: factors[value] for value in tail.factors}
    shared = {value: factors[value] for value in tail.shared}
    (length,) = {len(x) for x in per_sample.values()}
    size = _chunk_size(length, math.prod(tail.shape(tail.output)))
    one = lambda sample: _widen(gradient_of(tail, shared | sample))
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
      return total + jnp.sum(gradients, 0), _rowwise(squares)

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

  return Rule(applies=lambda tail: True, norms=norms, squares=squares)


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
  equations = tail.contractions + tail.rest
  return program.evaluate(equations, factors, [tail.output])[0]


# A convolution's weight gradient, as a product of patches with cotangents.


def _is_convolution(tail):
  if not _only(tail, 'conv_general_dilated'):
    return False
  params = tail.contractions[0].params
  return params['feature_group_count'] == params['batch_group_count'] == 1


def _convolved(tail, factors):
  """One gradient, from a strided slice of the input for every offset."""
  (equation,) = tail.contractions
  params = equation.params
  spec = params['dimension_numbers']
  lhs, rhs = (factors[value] for value in equation.inputs)
  lhs = jnp.transpose(lhs, spec.lhs_spec)  # [N, C, ...]
  rhs = jnp.transpose(rhs, spec.rhs_spec)  # [O, C, ...]
  borders = zip(params['padding'], params['lhs_dilation'], strict=True)
  padding = [(0, 0, 0)] * 2 + [(*pad, step - 1) for pad, step in borders]
  lhs = jax.lax.pad(lhs, jnp.zeros([], lhs.dtype), padding)
  shape = tail.shape(equation.outputs[0])
  _, _, *offsets = (shape[axis] for axis in spec.out_spec)

  def patch(offset):
    axes = zip(
      offset,
      params['window_strides'],
      rhs.shape[2:],
      params['rhs_dilation'],
      strict=True,
    )
    window = [
      slice(k * stride, k * stride + (n - 1) * step + 1, step)
      for k, stride, n, step in axes
    ]
    return lhs[:, :, *window]

  patches = jnp.stack(
    [patch(k) for k in itertools.product(*map(range, offsets))]
  )
  columns = patches.reshape(-1, math.prod(rhs.shape[1:]))
  product = columns @ rhs.reshape(len(rhs), -1).T
  product = product.reshape(*offsets, len(lhs), len(rhs))
  in_order = jnp.moveaxis(product, (-2, -1), (0, 1))
  return _move(tail, jnp.transpose(in_order, _inverse(spec.out_spec)))


def _inverse(permutation):
  return sorted(range(len(permutation)), key=permutation.__getitem__)


MATERIALISED = _materialised(_evaluated)
CONVOLUTION = _materialised(_convolved)._replace(applies=_is_convolution)
GRAM = Rule(
  applies=lambda tail: _is_dense(tail) and _prefers_gram(tail),
  norms=_gram_norms,
  squares=MATERIALISED.squares,
)

# In order of preference; the last one always applies.
RULES = (DIRECT, OUTER, GRAM, CONVOLUTION, MATERIALISED)


def choose(tail: cut.Tail) -> Rule:
  """The first rule that applies."""
  if tail.shared:
    return MATERIALISED
  return next(rule for rule in RULES if rule.applies(tail))
