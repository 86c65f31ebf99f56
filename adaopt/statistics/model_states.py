"""The state of a model beside its parameters: what samples propose, merged.

Every sample proposes a new state, from the same old one. A step makes one
update of them: the mean over the examples, and for running statistics, leaves
named `mean` and `var` side by side, the variance between samples too. With the
share 1 − m that a batch has in them,

  mean ← m mean + (1 − m) ⟨μ_j⟩,
  var ← m var + (1 − m) (⟨σ_j²⟩ + ⟨(μ_j − ⟨μ_j⟩)²⟩),

which is what the batch as one sample would give. The proposals hold all of it:
those of `mean` vary by (1 − m) μ_j, and the step from a `mean` that lies higher
by δ is less by (1 − m) δ. Flax NNX stops gradients there, so that this is a
difference and no derivative.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from adaopt.statistics import merging


def merged(
  model_state: Any,
  moments: merging.Moments,
  moved_of: Callable[[Any], Any],
) -> Any:
  """The model state after a step.

  Args:
    model_state: Before it.
    moments: Of all samples of the step.
    moved_of: Model state → what one sample adds to it.

  Returns:
    The model state, in the structure, shapes and dtypes that it had.
  """
  if not jax.tree.leaves(moments.moved):
    return model_state
  between = _between(model_state, moments, moved_of)

  def leaf(path, old, step):
    if step is None:
      return old
    step = step + between.get(path, 0)
    dtype = jnp.result_type(old)
    if jnp.issubdtype(dtype, jnp.integer):
      signed = jnp.dtype(f'i{dtype.itemsize}')
      return old + jnp.round(step).astype(signed).astype(dtype)
    moved = jnp.asarray(old, step.dtype) + step
    if not jnp.issubdtype(dtype, jnp.inexact):
      moved = jnp.round(moved)
    return moved.astype(dtype)

  return jax.tree.map_with_path(
    leaf, model_state, moments.moved, is_leaf=lambda x: x is None
  )


def _between(model_state, moments, moved_of):
  """What `var` leaves gain by the variance between samples, by their paths."""
  spreads = dict(jax.tree.leaves_with_path(moments.moved_spread))
  pairs = {
    path: _beside(path, spreads)
    for path in spreads
    if _beside(path, spreads) is not None
  }
  if not pairs:
    return {}
  shares = _shares(model_state, set(pairs.values()), moments, moved_of)

  def gain(mean):
    examples = merging.number(moments).astype(spreads[mean].dtype)
    return merging.divided(spreads[mean] / examples, shares[mean])

  return {var: gain(mean) for var, mean in pairs.items()}


def _beside(path, spreads):
  """The path of the `mean` beside a `var`, of the same shape; else None."""
  names = [_name(entry) for entry in path]
  for other in spreads:
    if (
      'var' in names
      and [_name(entry) for entry in other]
      == ['mean' if name == 'var' else name for name in names]
      and spreads[other].shape == spreads[path].shape
    ):
      return other
  return None


def _name(entry):
  """The name of a step of a path, or its index."""
  for field in ('key', 'name', 'idx'):
    if hasattr(entry, field):
      return getattr(entry, field)
  return None


def _shares(model_state, means, moments, moved_of):
  """1 − m of every running mean, by its path."""
  steps = dict(jax.tree.leaves_with_path(moments.moved))

  def shifted(path, old):
    if path not in means:
      return old
    step = steps[path]
    # As large as what is rounded.
    size = 1 + jnp.abs(jnp.asarray(old, step.dtype)) + jnp.abs(step)
    return (old + size).astype(jnp.result_type(old))

  other = jax.tree.map_with_path(shifted, model_state)
  paths = lambda tree: dict(jax.tree.leaves_with_path(tree))
  old, new = paths(model_state), paths(other)
  before, after = paths(moved_of(model_state)), paths(moved_of(other))

  def share(path):
    wide = lambda x: jnp.asarray(x, before[path].dtype)
    return (before[path] - after[path]) / (wide(new[path]) - wide(old[path]))

  return {path: share(path) for path in means}
