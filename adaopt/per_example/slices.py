"""Slices of a product of matrices as products of slices.

A recurrent cell computes several gradients in one product and then splits it.
Split in their factors instead, each of them is a product of its own.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax.numpy as jnp

from adaopt.per_example import program


def is_of_product(flat: program.Program, equation: program.Equation) -> bool:
  """Whether a slice or a split is one of a product."""
  product, _ = _through_transposes(flat, equation.inputs[0])
  return product is not None and product.name == 'dot_general'


def of_factors(
  flat: program.Program, equation: program.Equation
) -> Callable[[program.Read], Iterable[Any]]:
  """Another way to compute a slice or a split: from slices of the factors."""
  product, permutation = _through_transposes(flat, equation.inputs[0])
  (contracted, batched) = product.params['dimension_numbers']
  ranks = [len(flat.avals[v].shape) for v in product.inputs]
  free = [
    [d for d in range(rank) if d not in (*summed, *batch)]
    for rank, summed, batch in zip(ranks, contracted, batched, strict=True)
  ]
  # Where every axis of the product comes from: axes of either factor.
  sources = [*zip(*batched, strict=True)]
  sources += [(d, None) for d in free[0]] + [(None, d) for d in free[1]]

  def of_slices(read, slices):
    factors = list(map(read, product.inputs))
    for axis, selected in zip(permutation, slices, strict=True):
      for side, source in enumerate(sources[axis]):
        if source is not None:
          index = [slice(None)] * ranks[side]
          index[source] = selected
          factors[side] = factors[side][tuple(index)]
    return jnp.transpose(program.bind(product, *factors)[0], permutation)

  shape = flat.avals[equation.inputs[0]].shape
  every = SELECTIONS[equation.name](shape, equation.params)
  return lambda read: [of_slices(read, slices) for slices in every]


def _through_transposes(flat, value):
  """What a value is a transpose of, and how."""
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
  """One list of slices for every part."""
  parts, start = [], 0
  for size in params['sizes']:
    part = [slice(length) for length in shape]
    part[params['axis']] = slice(start, start + size)
    parts.append(part)
    start += size
  return parts


# The slices that an equation makes of a shape, a list for every output.
SELECTIONS = {'slice': _of_slice, 'split': _of_split}
