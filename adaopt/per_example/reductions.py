"""Reductions over per-example gradients, computed from their factors."""

from typing import Any

import jax
import optax

from adaopt._common import varying
from adaopt.per_example import factorisation
from adaopt.per_example.rules import choice, common


def sums(factored: factorisation.Factored) -> common.Sums:
  """Σ_j of g_j / W, c_j g_j, |g_j|², sgn g_j and g_j g_jᴴ; and ‖g_j‖².

  Args:
    factored: The factors.

  Returns:
    Sums of trees like the parameters, of every tensor. Read them within
    `pruning.pruned`, which removes what is not read.
  """
  each = [
    choice.sums(
      tail,
      factored.factors,
      factored.preference,
      factored.coefficients,
      factored.total,
    )
    for tail in factored.tails
  ]
  return common.Sums(*map(factored.treedef.unflatten, zip(*each, strict=True)))


def weighted(
  factored: factorisation.Factored, coefficients: Any
) -> optax.Updates:
  """Σ_j c_j g_j, contracted from the factors.

  A sample with c_j = 0 leaves no trace, even where its factors are not finite.
  Of gradients that a scan emits `factorise` must have been given the same
  coefficients.

  Args:
    factored: The factors.
    coefficients: c_j of every tensor, like the parameters, [J] real.

  Returns:
    Like the parameters, in float32 or wider.
  """
  each = factored.treedef.flatten_up_to(coefficients)
  return factored.treedef.unflatten(
    choice.weighted(tail, factored.factors, c)
    for tail, c in zip(factored.tails, each, strict=True)
  )


def products(
  factored: factorisation.Factored, direction: optax.Updates
) -> jax.Array:
  """Inner products Re ⟨g_j, u⟩ = Re Σ g_j conj(u) for a direction u. [J].

  For the gradients that a scan emits `factorise` must have been given the same
  direction.
  """
  direction, _ = varying.alike(direction, factored.values)
  directions = factorisation.directed(factored.treedef, direction)
  return sum(
    choice.choose(tail, choice.NORMS_FIRST).products(tail, factored.factors, u)
    for tail, u in zip(factored.tails, directions, strict=True)
  )
