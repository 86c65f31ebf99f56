"""Reductions over per-sample gradients, computed from their factors."""

import jax
import jax.numpy as jnp
import optax

from adaopt._common import varying
from adaopt.per_example import factorisation
from adaopt.per_example.rules import choice, common


def sums(
  factored: factorisation.Factored,
  preference: choice.Preference = choice.NORMS_FIRST,
  coefficients: jax.Array | None = None,
) -> common.Sums:
  """Σ_j g_j, Σ_j c_j g_j, ‖g_j‖² and Σ_j |g_j|² of every tensor.

  Args:
    factored: The factors.
    preference: `choice.NORMS_FIRST` or `choice.SQUARES_FIRST`, by what the
      caller reads. The results are equal, their costs are not.
    coefficients: c_j, [J] real, by default 1.

  Returns:
    Sums of trees like the parameters. Read them within `pruning.pruned`, which
    removes what is not read.
  """
  if coefficients is None:
    coefficients = jnp.ones(len(factored.values))
  each = [
    choice.choose(tail, preference).sums(tail, factored.factors, coefficients)
    for tail in factored.tails
  ]
  return common.Sums(*map(factored.treedef.unflatten, zip(*each, strict=True)))


def products(
  factored: factorisation.Factored, direction: optax.Updates
) -> jax.Array:
  """Inner products Re ⟨g_j, u⟩ = Re Σ g_j conj(u) for a direction u. [J]."""
  direction, _ = varying.alike(direction, factored.values)
  directions = factored.treedef.flatten_up_to(direction)
  each = []
  for tail, u in zip(factored.tails, directions, strict=True):
    rule = choice.choose(tail, choice.NORMS_FIRST)
    u = jnp.conj(common.widen(u))
    each.append(rule.products(tail, factored.factors, u))
  return sum(each)
