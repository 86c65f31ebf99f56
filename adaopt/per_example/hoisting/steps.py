"""Sums a contraction over the steps of a loop, by one contraction."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from adaopt.per_example import cut
from adaopt.per_example.program import ir


def is_summable(flat: ir.Program, equation: ir.Equation) -> bool:
  """Whether the sum of a contraction over steps is one contraction."""
  params = equation.params
  if not cut.is_contraction(flat, equation):
    return False
  if equation.name == 'scatter-add':
    return not params['dimension_numbers'].operand_batching_dims
  counts = ('feature_group_count', 'batch_group_count')
  return all(params.get(count, 1) == 1 for count in counts)


def summed(
  equation: ir.Equation,
  read: ir.Read,
  stacks: Mapping[int, jax.Array],
) -> jax.Array:
  """Σ_t of a contraction over steps t.

  Args:
    equation: The contraction of one step.
    read: Reads a value. Of a value that varies with the step it reads the sum.
    stacks: The values that vary with the step, stacked over steps.

  Returns:
    The sum.
  """
  stacked = [stacks.get(value) for value in ir.numbers(equation.inputs)]
  if equation.name == 'scatter-add':
    varies = stacked[1] is not None  # the keys
  else:
    varies = all(x is not None for x in stacked)
  if not varies:
    # Linear in the one input that varies, so its sum is enough.
    return ir.bind(equation, *map(read, equation.inputs))[0]
  return SUMS[equation.name](equation, read, stacked)


def _of_matrices(equation, read, stacked):
  """Contracts the step axis, too."""
  contracted, batched = jax.tree.map(
    lambda axis: axis + 1, equation.params['dimension_numbers']
  )
  dimensions = (tuple((0, *axes) for axes in contracted), batched)
  params = equation.params | {'dimension_numbers': dimensions}
  return ir.bind(equation._replace(params=params), *stacked)[0]


def _of_convolution(equation, read, stacked):
  """Merges the step axis into the features, which are summed over."""
  spec = equation.params['dimension_numbers']

  def merged(x, axis):
    x = jnp.moveaxis(x, 0, axis)
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])

  axes = spec.lhs_spec[1], spec.rhs_spec[1]
  return ir.bind(equation, *map(merged, stacked, axes))[0]


def _of_rows(equation, read, stacked):
  """Adds the rows of all steps into one table."""
  table, _, rows = equation.inputs
  _, keys, all_rows = stacked
  if all_rows is None:
    all_rows = jnp.broadcast_to(read(rows), (len(keys), *read(rows).shape))
  dims = equation.params['dimension_numbers']
  window = tuple(axis + 1 for axis in dims.update_window_dims)
  params = equation.params | {
    'dimension_numbers': dims._replace(update_window_dims=window),
    'unique_indices': False,
    'indices_are_sorted': False,
  }
  equation = equation._replace(params=params)
  return ir.bind(equation, read(table), keys, all_rows)[0]


SUMS = {
  'dot_general': _of_matrices,
  'conv_general_dilated': _of_convolution,
  'scatter-add': _of_rows,
}
