"""Computes the factors of per-sample gradients, at the cost of a gradient.

The gradient of one sample's loss is traced to a program, and its tails are cut
off (`cut`). The rest is evaluated once for all samples under `vmap`, which is
an ordinary batched forward and backward pass. It yields the factors, and of
gradients that a scan emits the reductions (`stacks`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from absl import logging

from adaopt._common import base
from adaopt.per_example import cut, stacks
from adaopt.per_example.hoisting import loops
from adaopt.per_example.program import constraints, inlining, ir
from adaopt.per_example.rules import choice, common


class Factored(NamedTuple):
  """Losses and gradients of samples j < J, with weights w_j."""

  values: jax.Array  # w_j · loss_j, [J]
  aux: Any  # of every sample, [J, ...]
  coefficients: jax.Array  # c_j, [J] real
  total: jax.Array  # W, [] real
  tails: list[common.AnyTail]  # of every parameter
  treedef: jax.tree_util.PyTreeDef  # of the parameters
  factors: common.Factors
  preference: choice.Preference
  stacks: bool  # whether scans emit some of the gradients


def factorise(
  loss: base.LossFn,
  params: optax.Params,
  samples: base.Batch,
  weights: jax.Array,
  *,
  preference: choice.Preference = choice.NORMS_FIRST,
  weigh: Callable[[Any], tuple[jax.Array, jax.Array]] | None = None,
  direction: optax.Updates | None = None,
  coefficients: Any = None,
) -> Factored:
  """Computes the losses of samples and the factors of their gradients.

  For use within `pruning.pruned`, which removes what is not read.

  Args:
    loss: (params, sample) → (loss, aux).
    params: The parameters.
    samples: The samples, [J, ...].
    weights: w_j, [J], float or bool.
    preference: `choice.NORMS_FIRST` or `choice.SQUARES_FIRST`, by what the
      caller reads. The results are equal, their costs are not.
    weigh: The aux of all samples → c_j [J] and W [] of `common.Sums`, real; by
      default all are 1.
    direction: u, like params, for `reductions.products` of gradients that a
      scan emits.
    coefficients: c_j of every tensor, like params, [J] real, for
      `reductions.weighted` of gradients that a scan emits.

  Returns:
    Losses and factors, for `reductions`.
  """
  leaves, treedef = jax.tree.flatten(jax.tree.map(jnp.asarray, params))
  arguments = samples, weights
  flat, structure, axes = _trace(loss, treedef, leaves, arguments)
  count = structure.num_leaves
  results, gradients = flat.outputs[:count], flat.outputs[count:]
  per_sample = ir.dependents(flat.equations, flat.inputs[len(leaves) :])
  cuts = stacks.cut_off(flat, results, gradients, per_sample, axes)
  _log_unknown(params, cuts.tails)
  tails = [tail for tail in cuts.tails if isinstance(tail, cut.Tail)]
  factors = list(dict.fromkeys(v for t in tails for v in t.factors))
  stacked = [t.source for t in cuts.tails if isinstance(t, cut.Stacked)]
  once = [v for v in stacks.sources(cuts) if v not in (*factors, *stacked)]

  known = flat.constants | dict(zip(flat.inputs, leaves, strict=False))
  directions = {}
  if direction is not None:
    directions = stacks.directions_of(cuts, directed(treedef, direction))

  of_stacks = {}
  if coefficients is not None:
    of_stacks = stacks.coefficients_of(
      cuts, treedef.flatten_up_to(coefficients)
    )

  weigh = weigh or (lambda _: (jnp.ones(len(weights)), jnp.ones([])))

  def weighed(read):
    _, aux = structure.unflatten(map(read, results))
    return weigh(jax.tree.map(stacks.gathered, aux))

  reducers = stacks.reducers(
    cuts, stacks.Reading(preference, weighed, directions, of_stacks)
  )
  each, reduced = _evaluate_each(
    flat, known, [*results, *factors], stacked, arguments, reducers
  )
  values, aux = structure.unflatten(each[:count])
  coefficients, total = weigh(aux)
  arrays = dict(zip(factors, each[count:], strict=True))
  arrays |= zip(stacked, reduced, strict=True)
  arrays |= zip(once, _evaluate(flat, known, once), strict=True)
  return Factored(
    values=values,
    aux=aux,
    coefficients=coefficients,
    total=total,
    tails=[
      tail or common.shared(weights, arrays, gradient)
      for tail, gradient in zip(cuts.tails, gradients, strict=True)
    ],
    treedef=treedef,
    factors=arrays,
    preference=preference,
    stacks=bool(stacked),
  )


def directed(
  treedef: jax.tree_util.PyTreeDef, direction: optax.Updates
) -> list[jax.Array]:
  """conj u of every tensor, float32 or wider: Re ⟨g, u⟩ = Re Σ g conj u."""
  leaves = treedef.flatten_up_to(direction)
  return [jnp.conj(common.widen(u)) for u in leaves]


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
  flat = loops.hoist(inlining.flatten(closed), gradients, gradients)
  return flat, structure, axes


def _evaluate(flat, known, wanted):
  """Evaluates values that do not depend on a sample."""
  equations = ir.needed(flat.equations, wanted)
  return ir.evaluate(equations, known, wanted)


def _evaluate_each(flat, known, wanted, stacked, arguments, reducers):
  """Evaluates values for every sample, [J, ...], and what stacks reduce to."""
  arguments = jax.tree.leaves(arguments)
  inputs = flat.inputs[-len(arguments) :]
  values = [*wanted, *stacked]
  equations = ir.needed(flat.equations, values, effects=True)

  def evaluate(*one):
    given = known | dict(zip(inputs, one, strict=True))
    found = ir.evaluate(equations, given, values, reducers)
    return found[: len(wanted)], found[len(wanted) :]

  return constraints.mapped(evaluate, out_axes=(0, None))(*arguments)


def _log_unknown(params, tails):
  """Logs the gradients that are materialised because no rule fits."""
  paths = jax.tree_util.tree_leaves_with_path(params)
  for (path, leaf), tail in zip(paths, tails, strict=True):
    if isinstance(tail, cut.Tail) and tail.unknown:
      logging.debug(
        'The gradient of params%s %s is materialised for every sample: no rule '
        'for the equation %r.',
        jax.tree_util.keystr(path),
        list(leaf.shape),
        tail.unknown,
      )
