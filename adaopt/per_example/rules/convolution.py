"""The rule for a convolution's kernel: patches times cotangents.

XLA's CPU backend is slow at the kernel gradient of a convolution, above all in
a loop, and fast at a matrix product.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp

from adaopt._common import arithmetic
from adaopt.per_example.rules import common, materialised


def _padded(lhs, params):
  """lhs [N, C, ...] with its borders and dilation."""
  borders = zip(params['padding'], params['lhs_dilation'], strict=True)
  padding = [(0, 0, 0)] * 2 + [(*pad, step - 1) for pad, step in borders]
  return jax.lax.pad(lhs, jnp.zeros([], lhs.dtype), padding)


def _windows(rhs, params, offsets):
  """The slices of lhs that each offset reads, for every spatial axis."""
  axes = zip(
    offsets,
    params['window_strides'],
    rhs.shape[2:],
    params['rhs_dilation'],
    strict=True,
  )
  return [
    [
      slice(k * stride, k * stride + (n - 1) * step + 1, step)
      for k in range(count)
    ]
    for count, stride, n, step in axes
  ]


NARROW = 12
"""The number of columns up to which a product is faster, positions first."""


def _correlate(params, lhs, rhs, offsets):
  """Σ over positions of shifted lhs times rhs, for every offset: [K, N, O].

  With more positions than features, the shifts along the first spatial axis
  are a batch of products: slices are copied much faster than patches are
  gathered, and there are fewer patches.
  """
  groups = params['feature_group_count'] * params['batch_group_count']
  product = functools.partial(_product if groups == 1 else _grouped, params)
  lhs = _padded(lhs, params)
  windows = _windows(rhs, params, offsets)
  if math.prod(rhs.shape[2:]) <= len(rhs):
    return product(_patches(lhs, *windows), rhs)
  if groups == 1 and len(lhs) * math.prod(offsets[1:]) <= NARROW:
    return _narrow_product(params, lhs, rhs, *windows)
  first, *others = windows
  patches = _patches(lhs, [slice(None)], *others)
  rows = jnp.stack([patches[:, :, :, window] for window in first])
  products = jax.vmap(product, (0, None))(rows, rhs)
  return products.reshape(-1, *products.shape[2:])


def _patches(lhs, *windows):
  """The part of lhs that every offset reads: [K, N, C, ...]."""
  return jnp.stack([lhs[:, :, *each] for each in itertools.product(*windows)])


def _product(params, patches, rhs):
  """Σ over channels and positions: [K, N, C, ...], [O, C, ...] → [K, N, O]."""
  columns = patches.reshape(-1, math.prod(rhs.shape[1:]))
  product = jnp.matmul(
    columns,
    rhs.reshape(len(rhs), -1).T,
    precision=params['precision'],
    preferred_element_type=arithmetic.accumulator_dtype(rhs),
  )
  return product.reshape(*patches.shape[:2], len(rhs))


def _narrow_product(params, lhs, rhs, first, *others):
  """Like `_product` of all patches, with a product for every shift of rows."""
  lhs = jnp.moveaxis(lhs, 0, -1)  # [C, ..., N]
  patches = jnp.concatenate(
    [lhs[:, :, *each] for each in itertools.product(*others)], -1
  )
  rows = jnp.stack([patches[:, window] for window in first])
  product = jnp.einsum(
    'kpm,po->kmo',
    rows.reshape(len(first), -1, patches.shape[-1]),
    jnp.moveaxis(rhs, 0, -1).reshape(-1, len(rhs)),
    precision=params['precision'],
    preferred_element_type=arithmetic.accumulator_dtype(rhs),
  )
  return product.reshape(-1, lhs.shape[-1], len(rhs))


def _grouped(params, patches, rhs):
  """Like `_product`, with groups of features, or of the batch, and of rhs."""
  axis = 2 if params['feature_group_count'] > 1 else 1
  groups = params['feature_group_count'] * params['batch_group_count']
  split = lambda x, axis: jnp.moveaxis(
    x.reshape(*x.shape[:axis], groups, -1, *x.shape[axis + 1 :]), axis, 0
  )
  one = functools.partial(_product, params)
  product = jax.vmap(one)(split(patches, axis), split(rhs, 0))
  product = jnp.moveaxis(product, 0, -2)  # [K, N, groups, O / groups]
  return product.reshape(*product.shape[:2], -1)


def _recipe(tail, factors):
  (equation,) = tail.contractions
  spec = equation.params['dimension_numbers']
  shape = tail.shape(equation.outputs[0])
  _, _, *offsets = (shape[axis] for axis in spec.out_spec)
  shared = {value: factors[value] for value in tail.shared}

  def gradient_of(sample):
    lhs, rhs = ((shared | sample)[value] for value in equation.inputs)
    lhs = jnp.transpose(lhs, spec.lhs_spec)  # [N, C, ...]
    rhs = jnp.transpose(rhs, spec.rhs_spec)  # [O, C, ...]
    return _correlate(equation.params, lhs, rhs, offsets)

  def restore(product):
    product = product.reshape(*offsets, *product.shape[1:])
    in_order = jnp.moveaxis(product, (-2, -1), (0, 1))
    return common.moved(tail, jnp.transpose(in_order, _inverse(spec.out_spec)))

  samples = {value: factors[value] for value in tail.factors}
  return materialised.Recipe(samples, gradient_of, restore)


def _inverse(permutation):
  return sorted(range(len(permutation)), key=permutation.__getitem__)


CONVOLUTION = materialised.by_chunks(
  lambda tail: common.only(tail, 'conv_general_dilated'), _recipe
)
