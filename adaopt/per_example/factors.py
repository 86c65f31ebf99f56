"""The factors of per-sample gradients, at the price of a gradient.

The gradient of one sample's loss is traced to a program and cut in front of
the equations that only assemble parameter gradients (`cut`). What is left is
evaluated once for all samples under `vmap`, an ordinary batched forward and
backward pass; its values are the factors of the gradients.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from absl import logging

from adaopt import base
from adaopt.per_example import cut, direct, loops, program, rule, rules


class Part(NamedTuple):
  """One parameter's gradients, w_j g_j."""

  rule: rule.Rule
  tail: cut.Tail | None


class Factored(NamedTuple):
  """Losses and gradients of samples j < J, with weights w_j."""

  values: jax.Array  # w_j · loss_j, [J]
  aux: Any  # of every sample, [J, ...]
  parts: list[Part]  # for every parameter
  treedef: jax.tree_util.PyTreeDef  # of the parameters
  factors: rule.Factors


def factorise(
  loss: base.LossFn,
  params: optax.Params,
  samples: base.Batch,
  weights: jax.Array,
) -> Factored:
  """Evaluates a loss and the factors of its per-sample gradients.

  Args:
    loss: (params, sample) → (loss, aux).
    params: The parameters.
    samples: The samples, [J, ...].
    weights: w_j, [J], float or bool.

  Returns:
    Values and factors, for the functions in `reductions`.
  """
  leaves, treedef = jax.tree.flatten(jax.tree.map(jnp.asarray, params))

  def value_and_gradient(leaves, sample, weight):
    def weighted(leaves):
      value, aux = loss(treedef.unflatten(leaves), sample)
      return weight.astype(value.dtype) * value, aux

    return jax.value_and_grad(weighted, has_aux=True)(leaves)

  one = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), (samples, weights)
  )
  closed, shapes = jax.make_jaxpr(value_and_gradient, return_shape=True)(
    leaves, *one
  )
  count = len(closed.out_avals) - len(leaves)
  flat = loops.hoist(program.flatten(closed), range(count, count + len(leaves)))
  inputs = flat.inputs[len(leaves) :]
  per_sample = program.dependents(flat.equations, inputs)
  results = flat.outputs[:count]
  space = cut.weight_space(flat, results, per_sample)
  tails = [
    cut.find_tail(flat, output, per_sample, space)
    for output in flat.outputs[count:]
  ]
  _log_unknown(params, tails)
  cuts = [tail for tail in tails if tail]
  factors = tuple({value: None for tail in cuts for value in tail.factors})
  shared = tuple({value: None for tail in cuts for value in tail.shared})
  known = flat.constants | dict(zip(flat.inputs, leaves, strict=False))
  equations = program.needed(flat.equations, [*results, *factors], effects=True)

  def evaluate(*arguments):
    given = known | dict(zip(inputs, arguments, strict=True))
    return program.evaluate(equations, given, [*results, *factors])

  outcome = jax.vmap(evaluate)(*jax.tree.leaves((samples, weights)))
  values, aux = jax.tree.unflatten(
    jax.tree.structure(shapes[0]), outcome[:count]
  )
  fixed = program.numbers((*shared, *flat.outputs[count:]))
  independent = program.needed(
    flat.equations, [v for v in fixed if v not in per_sample]
  )
  evaluated = program.evaluate(independent, known, shared)
  parts = []
  for tail, output in zip(tails, flat.outputs[count:], strict=True):
    if tail:
      parts.append(Part(rules.choose(tail), tail))
    else:
      (gradient,) = program.evaluate(independent, known, [output])
      parts.append(Part(direct.constant(weights, gradient), None))
  return Factored(
    values,
    aux,
    parts,
    treedef,
    dict(zip((*factors, *shared), (*outcome[count:], *evaluated), strict=True)),
  )


def _log_unknown(params, tails):
  """Says which gradients are made one by one for want of a rule."""
  paths = jax.tree_util.tree_leaves_with_path(params)
  for (path, leaf), tail in zip(paths, tails, strict=True):
    if tail and tail.unknown:
      logging.debug(
        'The gradient of params%s %s is made for every example: no rule for '
        'the equation %r.',
        jax.tree_util.keystr(path),
        list(leaf.shape),
        tail.unknown,
      )
