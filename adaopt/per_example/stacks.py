"""Reduces the gradients that scans emit within the scans, a slice at a time.

A scan over layers makes the gradient of one layer in every step. Its factors
are reduced in that step: the scan emits Σ_j g_j of the layer, the ‖g_j‖² and
what else is read. No step keeps its factors for later ones, what is recomputed
(`jax.checkpoint`) stays so, and the sums are as large as plain gradients. A
stack that is a matrix, of vectors or of blocks of rows, has a square that mixes
steps: where it is read, every step emits its gradients of all samples.
"""

import collections
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from adaopt.per_example import cut
from adaopt.per_example.hoisting import loops
from adaopt.per_example.program import constraints, inlining, ir, scans
from adaopt.per_example.rules import choice, common, materialised


class Loop(NamedTuple):
  """A scan, and the gradients that it emits."""

  equation: ir.Equation
  body: ir.Program
  parts: scans.Parts
  emitted: list[int]  # the indices of its outputs that are gradients
  cuts: 'Cuts'  # of the gradients of one step


class Cuts(NamedTuple):
  """The gradients of a program, cut off."""

  gradients: list[ir.Value]
  tails: list[cut.Tail | cut.Stacked | None]  # None: it is shared
  loops: dict[tuple[int, ...], Loop]  # by the outputs of the scan


class Reading(NamedTuple):
  """What a scan reduces its gradients to."""

  preference: choice.Preference
  # c_j [J] and W [] of `common.Sums`.
  weighed: Callable[[ir.Read], tuple[jax.Array, jax.Array]]
  directions: dict[int, jax.Array]  # conj u of a stack; {}: no products
  coefficients: dict[int, jax.Array]  # c_j of a stack; {}: those of `weighed`


def cut_off(
  flat: ir.Program,
  results: Sequence[ir.Value],
  gradients: Sequence[ir.Value],
  per_sample: set[int],
  axes: tuple[str, ...] = (),
) -> Cuts:
  """Cuts off the tails of gradients, within the scans that emit them.

  Args:
    flat: The program of one sample.
    results: Its outputs that are not gradients.
    gradients: Its gradients.
    per_sample: The values that depend on the sample.
    axes: The mesh axes that shard the samples; (): not known.

  Returns:
    The cuts.
  """
  space = cut.weight_space(flat, list(results), per_sample)
  tails = []
  for gradient in gradients:
    tail = cut.find_stacked(flat, gradient)
    tail = tail or cut.find_tail(flat, gradient, per_sample, space)
    if isinstance(tail, cut.Tail):
      tail = tail._replace(axes=axes)
    tails.append(tail)
  emitted = collections.defaultdict(list)
  for tail in tails:
    if isinstance(tail, cut.Stacked):
      outputs = flat.producers[tail.source].outputs
      emitted[outputs].append(outputs.index(tail.source))
  found = {
    outputs: _loop(flat, flat.producers[outputs[0]], indices, per_sample, axes)
    for outputs, indices in emitted.items()
  }
  return Cuts(list(gradients), tails, found)


def _loop(flat, equation, emitted, per_sample, axes):
  parts = scans.parts(flat, equation)
  body = loops.hoist(inlining.flatten(parts.jaxpr), emitted, emitted)
  of_samples = {
    inside
    for inside, outside in zip(body.inputs, equation.inputs, strict=True)
    if isinstance(outside, int) and outside in per_sample
  }
  carried = body.inputs[parts.consts :][: parts.carries]
  reached = set()
  while reached != (found := ir.dependents(body.equations, of_samples)):
    reached = found
    after = zip(carried, body.outputs, strict=False)
    of_samples |= {
      v for v, new in after if isinstance(new, int) and new in found
    }
  results = [v for i, v in enumerate(body.outputs) if i not in emitted]
  gradients = [body.outputs[i] for i in emitted]
  cuts = cut_off(body, results, gradients, reached, axes)
  return Loop(equation, body, parts, emitted, cuts)


def sources(cuts: Cuts) -> list[int]:
  """The values that tails start from, and the gradients that are shared."""
  found = {}
  for gradient, tail in zip(cuts.gradients, cuts.tails, strict=True):
    if tail is None:
      found |= dict.fromkeys(ir.numbers([gradient]))
    elif isinstance(tail, cut.Stacked):
      found[tail.source] = None
    else:
      found |= dict.fromkeys((*tail.factors, *tail.shared))
  return list(found)


def reducers(
  cuts: Cuts, reading: Reading
) -> dict[tuple[int, ...], Callable[[ir.Read], list[Any]]]:
  """How to run the scans that emit gradients, for `ir.evaluate`.

  They run within `constraints.mapped`, and in place of a stack they return a
  `common.Reduced`, the same for all samples.
  """
  return {
    outputs: functools.partial(_run, loop, reading)
    for outputs, loop in cuts.loops.items()
  }


def gathered(x: jax.Array) -> jax.Array:
  """The values of all samples, [J, ...], within a map over them."""
  # As jax.lax.all_gather, which with check_vma=True takes no name of a vmap.
  size = jax.lax.axis_size(constraints.SAMPLES)
  gather = jax.custom_batching.custom_vmap(
    lambda x: jnp.broadcast_to(x[None], (size, *x.shape))
  )
  gather.def_vmap(lambda size, batched, x: (x, False))
  return gather(x)


def directions_of(
  cuts: Cuts, directions: Sequence[jax.Array]
) -> dict[int, jax.Array]:
  """The directions of gradients, laid out like the stacks of these."""
  return {
    tail.source: common.moved_back(tail, u)
    for tail, u in zip(cuts.tails, directions, strict=True)
    if isinstance(tail, cut.Stacked)
  }


def coefficients_of(
  cuts: Cuts, coefficients: Sequence[jax.Array]
) -> dict[int, jax.Array]:
  """The coefficients [J] of gradients, by the stacks of these."""
  return {
    tail.source: c
    for tail, c in zip(cuts.tails, coefficients, strict=True)
    if isinstance(tail, cut.Stacked)
  }


def _run(loop, reading, read):
  """The outputs of a scan, its gradients reduced."""
  equation, body, (_, consts, carries), emitted, cuts = loop
  operands = dict(zip(body.inputs, map(read, equation.inputs), strict=True))
  fixed = body.constants | {v: operands[v] for v in body.inputs[:consts]}
  carried, sliced = (
    body.inputs[consts:][part]
    for part in (slice(carries), slice(carries, None))
  )
  kept = [v for i, v in enumerate(body.outputs) if i not in emitted]
  started = sources(cuts)
  wanted = [*kept, *started]
  equations = ir.needed(body.equations, wanted, effects=True)
  weights = reading.weighed(read)
  stacks = [equation.outputs[i] for i in emitted]
  directions = [reading.directions[v] for v in stacks if reading.directions]
  coefficients = [
    reading.coefficients[v] for v in stacks if reading.coefficients
  ]

  def step(carry, xs):
    x, directions = xs
    known = fixed | dict(zip(carried, carry, strict=True))
    known |= dict(zip(sliced, x, strict=True))
    inner = Reading(
      reading.preference,
      lambda _: weights,
      directions_of(cuts, directions) if directions else {},
      coefficients_of(cuts, coefficients) if coefficients else {},
    )
    found = ir.evaluate(equations, known, wanted, reducers(cuts, inner))
    values = dict(zip(started, found[len(kept) :], strict=True))
    reduced = _reduced(
      *(cuts, values, reading.preference, weights),
      *(directions, coefficients),
    )
    return found[:carries], (found[carries : len(kept)], reduced)

  init, xs = ([operands[v] for v in vs] for vs in (carried, sliced))
  final, (stacked, reduced) = scans.run(equation, step, init, (xs, directions))
  others = iter([*final, *stacked])
  whole = dict(zip(emitted, map(_summed, reduced), strict=True))
  return [
    whole[i] if i in whole else next(others) for i in range(len(body.outputs))
  ]


def _reduced(cuts, values, preference, weights, directions, coefficients):
  """The reductions of all gradients of a step."""
  of_samples = {
    v for t in cuts.tails if isinstance(t, cut.Tail) for v in t.factors
  }
  factors = {
    v: gathered(x) if v in of_samples else x for v, x in values.items()
  }
  none = [None] * len(cuts.tails)
  found = []
  for tail, gradient, u, c in zip(
    cuts.tails,
    cuts.gradients,
    directions or none,
    coefficients or none,
    strict=True,
  ):
    if tail is None:
      tail = common.shared(jnp.ones_like(weights[0]), factors, gradient)
    sums = choice.sums(tail, factors, preference, *weights)
    if c is not None:
      alone = choice.weighted(tail, factors, c)
      sums = sums._replace(weighted=alone)
    products = None
    if u is not None:
      products = choice.choose(tail, preference).products(tail, factors, u)
    found.append(common.Reduced(sums, products, _each(tail, factors)))
  return found


def _each(tail, factors):
  """The gradients [J, ...] of a step."""
  if isinstance(tail, common.Shared):
    return common.scaled(tail.weights, common.widen(tail.gradient)[None])
  if isinstance(tail, cut.Stacked):
    moved = functools.partial(common.moved, tail)
    return jax.vmap(moved)(factors[tail.source].each)
  return materialised.every(tail, factors)


def _summed(reduced):
  """The reductions of a stack from those of its slices."""
  add = lambda each: jax.tree.map(lambda x: jnp.sum(x, 0), each)
  sums = reduced.sums._replace(norms=add(reduced.sums.norms))
  each = jnp.moveaxis(reduced.each, 0, 1)
  return common.Reduced(sums, add(reduced.products), each)
