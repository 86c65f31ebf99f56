"""All rules, and which one a gradient takes."""

from adaopt.per_example import cut, rule
from adaopt.per_example.convolution import CONVOLUTION
from adaopt.per_example.dense import GRAM, OUTER, SEQUENCE
from adaopt.per_example.direct import DIRECT
from adaopt.per_example.lookup import LOOKUP
from adaopt.per_example.materialised import MATERIALISED

# In order of preference; the last one always applies.
RULES = (DIRECT, OUTER, GRAM, SEQUENCE, LOOKUP, CONVOLUTION, MATERIALISED)


def choose(tail: cut.Tail) -> rule.Rule:
  """The first rule that applies."""
  return next(one for one in RULES if one.applies(tail))
