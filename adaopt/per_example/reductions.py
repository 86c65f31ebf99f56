"""Reductions over per-sample gradients, without making the gradients.

The gradient of one sample's loss is traced to a program and cut in front of
the equations that only assemble parameter gradients (`cut`). What is left is
evaluated once for all samples under `vmap`, an ordinary batched forward and
backward pass, and the reductions are contracted from its factors (`rules`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from adaopt import base
from adaopt.per_example import cut, direct, program, rule, rules


class Reduced(NamedTuple):
  """Sums over samples j of gradients w_j g_j."""

  values: jax.Array  # w_j · loss_j, [J]
  aux: Any  # of every sample, [J, ...]
  gradient: optax.Updates  # Σ w_j g_j, float32 or wider
  second: optax.Updates  # for every parameter, what the reduction gave


def reduce_gradients(
  loss: base.LossFn,
  params: optax.Params,
  samples: base.Batch,
  weights: jax.Array,
  reduction: Callable[[rule.Rule], rule.Reduction],
) -> Reduced:
  """Evaluates a loss and reduces its per-sample gradients.

  Args:
    loss: (params, sample) → (loss, aux).
    params: The parameters.
    samples: The samples, [J, ...].
    weights: w_j, [J] float.
    reduction: Which reduction of a rule to take.

  Returns:
    What was reduced.
  """
  leaves, treedef = jax.tree.flatten(params)

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
  flat = program.flatten(closed)
  inputs = flat.inputs[len(leaves) :]
  results = flat.outputs[: -len(leaves)]
  per_sample = program.dependents(flat.equations, inputs)
  tails = [
    cut.find_tail(flat, gradient, per_sample)
    for gradient in flat.outputs[-len(leaves) :]
  ]
  cuts = [tail for tail in tails if tail]
  factors = tuple({value: None for tail in cuts for value in tail.factors})
  shared = tuple({value: None for tail in cuts for value in tail.shared})
  known = flat.constants | dict(zip(flat.inputs, leaves, strict=False))
  equations = program.needed(flat.equations, [*results, *factors])

  def evaluate(*arguments):
    given = known | dict(zip(inputs, arguments, strict=True))
    return program.evaluate(equations, given, [*results, *factors])

  outcome = jax.vmap(evaluate)(*jax.tree.leaves((samples, weights)))
  values, aux = jax.tree.unflatten(
    jax.tree.structure(shapes[0]), outcome[: len(results)]
  )
  reduced = dict(zip(factors, outcome[len(results) :], strict=True))
  constant = program.needed(flat.equations, shared)
  reduced |= zip(shared, program.evaluate(constant, known, shared), strict=True)

  def reduce(tail, leaf):
    chosen = rules.choose(tail) if tail else direct.absent(len(weights), leaf)
    return reduction(chosen)(tail, reduced)

  pairs = map(reduce, tails, leaves)
  total, second = (treedef.unflatten(part) for part in zip(*pairs, strict=True))
  return Reduced(values, aux, total, second)
