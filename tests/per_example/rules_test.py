"""Which rule the gradient of a layer takes."""

import jax
import jax.numpy as jnp
import pytest

from adaopt.per_example import factorisation
from adaopt.per_example.rules import (
  choice,
  convolution,
  dense,
  direct,
  lookup,
  materialised,
)
from tests import per_example_cases


def rules_of(name, preference=choice.NORMS_FIRST):
  """The rule of every parameter, by its path."""
  apply, params, x = per_example_cases.CASES[name]()
  loss, tails = per_example_cases.loss_of(apply), []

  def factorise(params, x):
    ones = jnp.ones(len(x))
    tails.extend(factorisation.factorise(loss, params, x, ones).tails)
    return ()

  jax.eval_shape(factorise, params, x)
  paths, _ = zip(*jax.tree_util.tree_leaves_with_path(params), strict=True)
  return {
    jax.tree_util.keystr(path): choice.choose(tail, preference)
    for path, tail in zip(paths, tails, strict=True)
  }


@pytest.mark.slow
@pytest.mark.parametrize(
  ('name', 'parameter', 'rule'),
  [
    ('dense', 'kernel', dense.OUTER),
    ('dense', 'bias', direct.DIRECT),
    ('jit inside', 'w', dense.GRAM),
    ('unused parameter', 'b', direct.SHARED),
    ('dense on short sequences', 'kernel', dense.GRAM),
    ('dense on long sequences', 'kernel', dense.SEQUENCE),
    ('lstm', 'kernel', dense.SEQUENCE),
    ('lstm on short sequences', 'kernel', dense.GRAM),
    ('gru', 'kernel', dense.SEQUENCE),
    ('scan over recurrent layers', 'kernel', direct.STACKED),
    ('scan over convolutions', 'kernel', direct.STACKED),
    ('convolutional lstm', 'kernel', convolution.CONVOLUTION),
    ('dense of several heads', 'kernel', dense.OUTER),
    ('dense of several heads on sequences', 'kernel', dense.SEQUENCE),
    ('map', 'w', dense.GRAM),
    ('scan', 'w', dense.GRAM),
    ('sliced product', 'w', dense.GRAM),
    ('scan over layers, remat', 'kernel', direct.STACKED),
    ('embed', 'embedding', lookup.LOOKUP),
    ('embed wide', 'embedding', lookup.LOOKUP),
    # The loss is in weight space, which starts where w_j is broadcast, so that
    # the tail is more than a contraction.
    ('positions', 'embedding', materialised.MATERIALISED),
    ('conv depthwise', 'kernel', convolution.CONVOLUTION),
    ('conv grouped', 'kernel', convolution.CONVOLUTION),
    ('conv same', 'kernel', convolution.CONVOLUTION),
    ('conv transposed', 'kernel', convolution.CONVOLUTION),
    ('used twice', 'kernel', materialised.MATERIALISED),
    ('layer norm', 'scale', direct.DIRECT),
  ],
)
def test_layers_take_the_cheap_rule(name, parameter, rule):
  chosen = [r for path, r in rules_of(name).items() if parameter in path]
  assert rule in chosen


@pytest.mark.parametrize(
  ('name', 'parameter', 'rule'),
  [
    ('dense', 'kernel', dense.OUTER),
    # T² (m + n) + T m² against m² n.
    ('dense on short sequences', 'kernel', dense.FACTORED),
    ('dense on long sequences', 'kernel', dense.SEQUENCE),
    ('dense general', 'kernel', dense.SEQUENCE),
    ('embed', 'embedding', lookup.LOOKUP),
  ],
)
def test_squares_of_matrices_take_the_cheap_rule(name, parameter, rule):
  rules = rules_of(name, choice.MATRICES_FIRST)
  assert rule in [r for path, r in rules.items() if parameter in path]
