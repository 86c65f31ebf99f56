"""Reductions over per-sample gradients, contracted from their factors."""

import jax
import jax.numpy as jnp
import optax

from adaopt.per_example import factors, rule


def _pair(factored, reduce):
  pairs = [reduce(part)(part.tail, factored.factors) for part in factored.parts]
  totals, seconds = zip(*pairs, strict=True)
  return factored.treedef.unflatten(totals), factored.treedef.unflatten(seconds)


def norms(factored: factors.Factored) -> tuple[optax.Updates, optax.Updates]:
  """Σ_j g_j, float32 or wider, and ‖g_j‖² of every tensor, [J]."""
  return _pair(factored, lambda part: part.rule.norms)


def squares(factored: factors.Factored) -> tuple[optax.Updates, optax.Updates]:
  """Σ_j g_j, float32 or wider, and Σ_j |g_j|², like the parameters."""
  return _pair(factored, lambda part: part.rule.squares)


class Sums(__import__('typing').NamedTuple):
  total: object
  norms: object
  squares: object


def sums(factored):
  total, norms_ = norms(factored)
  _, squares_ = squares(factored)
  return Sums(total, norms_, squares_)


def products(factored: factors.Factored, direction: optax.Updates) -> jax.Array:
  """Re ⟨g_j, u⟩ = Re Σ g_j conj(u) for a direction u. [J]."""
  directions = factored.treedef.flatten_up_to(direction)
  each = [
    part.rule.products(part.tail, factored.factors, jnp.conj(rule.widen(u)))
    for part, u in zip(factored.parts, directions, strict=True)
  ]
  return sum(each)
