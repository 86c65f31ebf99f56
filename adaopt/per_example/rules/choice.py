"""All rules, in the order of preference of their readers.

Every rule that applies gives the same sums. Which one is cheapest depends on
the sums that are read.
"""

import jax

from adaopt._common import losses
from adaopt.per_example import cut
from adaopt.per_example.rules import common
from adaopt.per_example.rules.convolution import CONVOLUTION
from adaopt.per_example.rules.dense import FACTORED, GRAM, OUTER, SEQUENCE
from adaopt.per_example.rules.direct import DIRECT, SHARED, STACKED
from adaopt.per_example.rules.lookup import LOOKUP
from adaopt.per_example.rules.materialised import MATERIALISED

Preference = tuple[common.Rule, ...]
"""Rules, the cheapest first. The last one always applies."""

SQUARES_FIRST = (
  SHARED,
  STACKED,
  DIRECT,
  OUTER,
  SEQUENCE,
  LOOKUP,
  CONVOLUTION,
  MATERIALISED,
)
"""Without Gram matrices, which give norms but no squares."""

NORMS_FIRST = (*SQUARES_FIRST[:4], GRAM, *SQUARES_FIRST[4:])

MATRICES_FIRST = (*SQUARES_FIRST[:4], FACTORED, *SQUARES_FIRST[4:])
"""With Gram matrices where G Gᴴ takes them."""


def preferred(
  *, norms: bool = False, squares: bool = False, matrices: bool = False
) -> Preference:
  """The preference of whoever reads some of the sums."""
  if norms or not (squares or matrices):
    return NORMS_FIRST
  return MATRICES_FIRST if matrices else SQUARES_FIRST


def choose(tail: common.AnyTail, preference: Preference) -> common.Rule:
  """The first rule that applies."""
  return next(rule for rule in preference if rule.applies(tail))


def sums(
  tail: common.AnyTail,
  factors: common.Factors,
  preference: Preference,
  coefficients: jax.Array,
  total_weight: jax.Array,
) -> common.Sums:
  """The sums of one tensor, the total over W.

  Args:
    tail: The tail of its gradient.
    factors: The arrays that it starts from.
    preference: The rules to choose from.
    coefficients: c_j, [J] real.
    total_weight: W, [] real.

  Returns:
    The sums.
  """
  found = choose(tail, preference).sums(tail, factors, coefficients)
  if isinstance(tail, cut.Stacked):  # Divided in its scan, a slice at a time.
    return found
  return found._replace(
    total=found.total / total_weight.astype(found.total.dtype)
  )


def weighted(
  tail: common.AnyTail, factors: common.Factors, coefficients: jax.Array
) -> jax.Array:
  """Σ_j c_j g_j of one tensor, of the samples with c_j ≠ 0.

  Args:
    tail: The tail of its gradient.
    factors: The arrays that it starts from.
    coefficients: c_j, [J] real.

  Returns:
    The sum, in float32 or wider.
  """
  counts = coefficients != 0
  if isinstance(tail, cut.Tail):
    kept = {v: losses.keep(factors[v], counts) for v in tail.factors}
    factors = factors | kept
  rule = choose(tail, NORMS_FIRST)
  return rule.sums(tail, factors, coefficients).weighted
