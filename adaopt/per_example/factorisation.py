"""Computes the factors of per-sample gradients, at the cost of a gradient.

The gradient of one sample's loss is traced to a program, and its tails are cut
off (`cut`). The rest is evaluated once for all samples under `vmap`, which is
an ordinary batched forward and backward pass. It yields the factors.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from absl import logging

from adaopt._common import base
from adaopt.per_example import cut
from adaopt.per_example.hoisting import loops
from adaopt.per_example.program import constraints, inlining, ir
from adaopt.per_example.rules import common


class Factored(NamedTuple):
  """Losses and gradients of samples j < J, with weights w_j."""

  values: jax.Array  # w_j · loss_j, [J]
  aux: Any  # of every sample, [J, ...]
  tails: list[cut.Tail | common.Shared]  # of every parameter
  treedef: jax.tree_util.PyTreeDef  # of the parameters
  factors: common.Factors


def factorise(
  loss: base.LossFn,
  params: optax.Params,
  samples: base.Batch,
  weights: jax.Array,
) -> Factored:
  """Computes the losses of samples and the factors of their gradients.

  Args:
    loss: (params, sample) → (loss, aux).
    params: The parameters.
    samples: The samples, [J, ...].
    weights: w_j, [J], float or bool.

  Returns:
    Losses and factors, for `reductions`.
  """
  leaves, treedef = jax.tree.flatten(jax.tree.map(jnp.asarray, params))
  arguments = samples, weights
  flat, structure, axes = _trace(loss, treedef, leaves, arguments)
  count = structure.num_leaves
  results, gradients = flat.outputs[:count], flat.outputs[count:]
  per_sample = ir.dependents(flat.equations, flat.inputs[len(leaves) :])
  space = cut.weight_space(flat, results, per_sample)
  tails = [cut.find_tail(flat, g, per_sample, space) for g in gradients]
  _log_unknown(params, tails)
  factors = list(dict.fromkeys(v for t in tails if t for v in t.factors))
  shared = list(dict.fromkeys(v for t in tails if t for v in t.shared))
  without = {i: gradients[i] for i, tail in enumerate(tails) if not tail}

  known = flat.constants | dict(zip(flat.inputs, leaves, strict=False))
  each = _evaluate_each(flat, known, [*results, *factors], arguments)
  once = _evaluate(flat, known, [*shared, *without.values()])
  shared_gradients = dict(zip(without, once[len(shared) :], strict=True))
  values, aux = structure.unflatten(each[:count])
  return Factored(
    values=values,
    aux=aux,
    tails=[
      tail._replace(axes=axes)
      if tail
      else common.Shared(weights, jnp.asarray(shared_gradients[i]))
      for i, tail in enumerate(tails)
    ],
    treedef=treedef,
    factors=dict(zip(factors, each[count:], strict=True))
    | dict(zip(shared, once, strict=False)),
  )


def _trace(loss, treedef, leaves, arguments):
  """The program of one sample's weighted loss, aux and gradient.

  Also returns the structure of loss and aux, its first outputs, and the mesh
  axes that shard the samples.
  """

  def value_and_gradient(leaves, arguments):
    sample, weight = arguments

    def weighted(leaves):
      value, aux = loss(treedef.unflatten(leaves), sample)
      return weight.astype(value.dtype) * value, aux

    return jax.value_and_grad(weighted, has_aux=True)(leaves)

  one = constraints.one_of(arguments)
  closed, (results, _), axes = constraints.trace(
    value_and_gradient, leaves, one
  )
  structure = jax.tree.structure(results)
  count = structure.num_leaves
  gradients = range(count, count + len(leaves))
  return loops.hoist(inlining.flatten(closed), gradients), structure, axes


def _evaluate(flat, known, wanted):
  """Evaluates values that do not depend on a sample."""
  equations = ir.needed(flat.equations, wanted)
  return ir.evaluate(equations, known, wanted)


def _evaluate_each(flat, known, wanted, arguments):
  """Evaluates values for every sample, [J, ...]."""
  arguments = jax.tree.leaves(arguments)
  inputs = flat.inputs[-len(arguments) :]
  equations = ir.needed(flat.equations, wanted, effects=True)

  def evaluate(*one):
    given = known | dict(zip(inputs, one, strict=True))
    return ir.evaluate(equations, given, wanted)

  return constraints.mapped(evaluate)(*arguments)


def _log_unknown(params, tails):
  """Logs the gradients that are materialised because no rule fits."""
  paths = jax.tree_util.tree_leaves_with_path(params)
  for (path, leaf), tail in zip(paths, tails, strict=True):
    if tail and tail.unknown:
      logging.debug(
        'The gradient of params%s %s is materialised for every sample: no rule '
        'for the equation %r.',
        jax.tree_util.keystr(path),
        list(leaf.shape),
        tail.unknown,
      )
