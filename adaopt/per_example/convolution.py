"""The rule for a convolution's kernel: patches times cotangents.

XLA's CPU backend is slow at the weight gradient of a convolution, above all in
a loop; a product of matrices is not.
"""

import itertools
import math

import jax
import jax.numpy as jnp

from adaopt.per_example import materialised, rule


def _is_convolution(tail):
  if not rule.only(tail, 'conv_general_dilated'):
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
  return rule.move(tail, jnp.transpose(in_order, _inverse(spec.out_spec)))


def _inverse(permutation):
  return sorted(range(len(permutation)), key=permutation.__getitem__)


CONVOLUTION = materialised.materialised(_convolved)._replace(
  applies=_is_convolution
)
