"""The state of a model beside its parameters: what samples propose, merged.

Every sample proposes a new state, from the same old one. A step makes one
update of them: the mean over the examples, and for running statistics, leaves
named `mean` and `var` side by side, the variance between samples too. With the
share 1 − m that a batch has in them,

  mean ← m mean + (1 − m) ⟨μ_j⟩,
  var ← m var + (1 − m) (⟨σ_j²⟩ + ⟨(μ_j − ⟨μ_j⟩)²⟩),

which is what the batch as one sample would give. The proposals hold all of it:
those of `mean` vary by (1 − m) μ_j, and 1 − m is minus the derivative of the
proposed step by the old `mean`.
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
  derivatives = dict(
    jax.tree.leaves_with_path(_derivatives(model_state, moved_of))
  )

  def gain(mean):
    share = -derivatives[mean].astype(spreads[mean].dtype)
    examples = merging.number(moments).astype(spreads[mean].dtype)
    variance = spreads[mean] / examples
    return merging.divided(variance, share)

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


def _derivatives(model_state, moved_of):
  """How what one sample adds to each leaf changes with that leaf."""
  moved, pull = jax.vjp(moved_of, model_state)
  (derivatives,) = pull(jax.tree.map(jnp.ones_like, moved))
  return derivatives
