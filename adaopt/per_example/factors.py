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

from adaopt._common import base
from adaopt.per_example import (
  cut,
  direct,
  inlining,
  loops,
  program,
  rule,
  rules,
)


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
  flat, structure = _trace(loss, treedef, leaves, (samples, weights))
  count = structure.num_leaves
  results, gradients = flat.outputs[:count], flat.outputs[count:]
  per_sample = program.dependents(flat.equations, flat.inputs[len(leaves) :])
  space = cut.weight_space(flat, results, per_sample)
  tails = [cut.find_tail(flat, g, per_sample, space) for g in gradients]
  _log_unknown(params, tails)
  cuts = [tail for tail in tails if tail]
  factors = list(dict.fromkeys(v for tail in cuts for v in tail.factors))
  shared = list(dict.fromkeys(v for tail in cuts for v in tail.shared))
  same = {i: gradients[i] for i, tail in enumerate(tails) if not tail}

  known = flat.constants | dict(zip(flat.inputs, leaves, strict=False))
  each = _evaluate_each(flat, known, [*results, *factors], (samples, weights))
  fixed = _evaluate(flat, known, [*shared, *same.values()])
  constants = dict(zip(same, fixed[len(shared) :], strict=True))
  values, aux = structure.unflatten(each[:count])
  return Factored(
    values=values,
    aux=aux,
    parts=[
      Part(rules.choose(tail), tail)
      if tail
      else Part(direct.constant(weights, constants[i]), None)
      for i, tail in enumerate(tails)
    ],
    treedef=treedef,
    factors=dict(zip(factors, each[count:], strict=True))
    | dict(zip(shared, fixed, strict=False)),
  )


def _trace(loss, treedef, leaves, arguments):
  """The program of one sample's weighted loss, aux and gradient.

  Also the structure of loss and aux, which come before the gradient.
  """

  def value_and_gradient(leaves, sample, weight):
    def weighted(leaves):
      value, aux = loss(treedef.unflatten(leaves), sample)
      return weight.astype(value.dtype) * value, aux

    return jax.value_and_grad(weighted, has_aux=True)(leaves)

  one = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), arguments
  )
  closed, (results, _) = jax.make_jaxpr(value_and_gradient, return_shape=True)(
    leaves, *one
  )
  structure = jax.tree.structure(results)
  count = structure.num_leaves
  gradients = range(count, count + len(leaves))
  return loops.hoist(inlining.flatten(closed), gradients), structure


def _evaluate(flat, known, wanted):
  """Evaluates values that depend on no sample."""
  equations = program.needed(flat.equations, wanted)
  return program.evaluate(equations, known, wanted)


def _evaluate_each(flat, known, wanted, arguments):
  """Evaluates values for every sample, [J, ...]."""
  arguments = jax.tree.leaves(arguments)
  inputs = flat.inputs[-len(arguments) :]
  equations = program.needed(flat.equations, wanted, effects=True)

  def evaluate(*one):
    given = known | dict(zip(inputs, one, strict=True))
    return program.evaluate(equations, given, wanted)

  return jax.vmap(evaluate)(*arguments)


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
