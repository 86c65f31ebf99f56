"""All rules, in the order of preference of their readers.

Every rule that applies gives the same sums. Which one is cheapest depends on
the sums that are read.
"""

from adaopt.per_example import cut
from adaopt.per_example.rules import common
from adaopt.per_example.rules.convolution import CONVOLUTION
from adaopt.per_example.rules.dense import GRAM, OUTER, SEQUENCE
from adaopt.per_example.rules.direct import DIRECT, SHARED
from adaopt.per_example.rules.lookup import LOOKUP
from adaopt.per_example.rules.materialised import MATERIALISED

Preference = tuple[common.Rule, ...]
"""Rules, the cheapest first. The last one always applies."""

SQUARES_FIRST = (
  SHARED,
  DIRECT,
  OUTER,
  SEQUENCE,
  LOOKUP,
  CONVOLUTION,
  MATERIALISED,
)
"""Without Gram matrices, which give norms but no squares."""

NORMS_FIRST = (SHARED, DIRECT, OUTER, GRAM, *SQUARES_FIRST[3:])


def choose(
  tail: cut.Tail | common.Shared, preference: Preference
) -> common.Rule:
  """The first rule that applies."""
  return next(rule for rule in preference if rule.applies(tail))
