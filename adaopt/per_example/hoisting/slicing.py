"""Turns slices of a matrix product into products of slices.

A recurrent cell computes several gradients in one product and then splits it.
With its factors split instead, each gradient has a product of its own.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax.numpy as jnp

from adaopt.per_example.program import ir


def is_of_product(flat: ir.Program, equation: ir.Equation) -> bool:
  """Whether a slice or a split is that of a matrix product."""
  product, _ = _through_transposes(flat, equation.inputs[0])
  return product is not None and product.name == 'dot_general'


def of_factors(
  flat: ir.Program, equation: ir.Equation
) -> Callable[[ir.Read], Iterable[Any]]:
  """Computes a slice or a split of a product from slices of its factors."""
  product, permutation = _through_transposes(flat, equation.inputs[0])
  (contracted, batched) = product.params['dimension_numbers']
  ranks = [len(flat.avals[v].shape) for v in product.inputs]
  free = [
    [d for d in range(rank) if d not in (*summed, *batch)]
    for rank, summed, batch in zip(ranks, contracted, batched, strict=True)
  ]
  # The axis of either factor that every axis of the product comes from.
  origins = [*zip(*batched, strict=True)]
  origins += [(d, None) for d in free[0]] + [(None, d) for d in free[1]]

  def of_slices(read, slices):
    factors = list(map(read, product.inputs))
    for axis, selected in zip(permutation, slices, strict=True):
      for side, origin in enumerate(origins[axis]):
        if origin is not None:
          index = [slice(None)] * ranks[side]
          index[origin] = selected
          factors[side] = factors[side][tuple(index)]
    return jnp.transpose(ir.bind(product, *factors)[0], permutation)

  shape = flat.avals[equation.inputs[0]].shape
  every = SELECTIONS[equation.name](shape, equation.params)
  return lambda read: [of_slices(read, slices) for slices in every]


def _through_transposes(flat, value):
  """The equation whose output a value is a transpose of, and the order."""
  permutation = range(len(flat.avals[value].shape))
  equation = flat.producers.get(value)
  while equation and equation.name == 'transpose':
    order = equation.params['permutation']
    permutation = [order[axis] for axis in permutation]
    equation = flat.producers.get(equation.inputs[0])
  return equation, tuple(permutation)


def _of_slice(shape, params):
  strides = params['strides'] or [1] * len(shape)
  return [
    list(map(slice, params['start_indices'], params['limit_indices'], strides))
  ]


def _of_split(shape, params):
  """A list of slices for every part."""
  parts, start = [], 0
  for size in params['sizes']:
    part = [slice(length) for length in shape]
    part[params['axis']] = slice(start, start + size)
    parts.append(part)
    start += size
  return parts


# Primitive → the slices of a shape that it selects, a list for every output.
SELECTIONS = {'slice': _of_slice, 'split': _of_split}
