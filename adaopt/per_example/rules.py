"""All rules, and which one a gradient takes."""

from adaopt.per_example import cut, rule
from adaopt.per_example.convolution import CONVOLUTION
from adaopt.per_example.dense import GRAM, OUTER
from adaopt.per_example.direct import DIRECT
from adaopt.per_example.materialised import MATERIALISED

# In order of preference; the last one always applies.
RULES = (DIRECT, OUTER, GRAM, CONVOLUTION, MATERIALISED)


def choose(tail: cut.Tail) -> rule.Rule:
  """The first rule that applies."""
  if tail.shared:
    return MATERIALISED
  return next(one for one in RULES if one.applies(tail))
