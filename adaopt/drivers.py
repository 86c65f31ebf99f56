"""Drivers: how the micro-batches of a training step are run.

`traced` makes one program of the step, a loop with a traced trip count: no
host in the loop. `dispatched` runs a compiled micro-step from a host loop and
reads the batch size between two steps. XLA's CPU backend compiles the weight
gradient of a convolution to code 50 to 100 times slower inside a loop body
than outside it, which is where `dispatched` is right; see
https://github.com/jax-ml/jax/issues/12868.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from adaopt import checks, statistics
from adaopt.per_example import convolution

Step = Callable[[Any, Any], tuple[Any, Any]]
"""(state, dataset) → (state, metrics)."""


class Parts(NamedTuple):
  """The parts of a step, pure functions.

  The sums are those of one micro-batch, (index, state, dataset, ...) → sums;
  over all micro-batches they merge.
  """

  num_micro_batches: Callable[..., jax.Array]  # state → [] int32
  test_due: Callable[..., jax.Array | None]  # state → [] bool; None: never
  mean_sums: Callable[..., statistics.GradientSums]  # squares NaN or None
  contracted_mean_sums: Callable[..., statistics.GradientSums]  # from factors
  gradient_sums: Callable[..., statistics.GradientSums]
  deviation_sums: Callable[..., jax.Array] | None  # given the mean gradient
  update: Callable[..., tuple[Any, Any]]  # (state, sums, deviations) → step


@jax.jit
def _mean_gradient(sums: statistics.GradientSums) -> Any:
  return statistics.means(sums).gradient


def _compose(parts: Parts, fold: Callable, choose: Callable) -> Step:
  """A step, given how to fold over micro-batches and how to branch."""

  def tested(count, state, dataset):
    sums = fold(count, parts.gradient_sums, state, dataset)
    if parts.deviation_sums is None:
      return sums, None
    args = state, dataset, _mean_gradient(sums)
    return sums, fold(count, parts.deviation_sums, *args)

  def untested(count, state, dataset):
    sums = fold(count, parts.mean_sums, state, dataset)
    if parts.deviation_sums is None:
      return sums, None
    return sums, jnp.full_like(sums.value, jnp.nan)

  def step(state, dataset):
    args = parts.num_micro_batches(state), state, dataset
    due = parts.test_due(state)
    if due is None:
      sums, deviations = untested(*args)
    else:
      sums, deviations = choose(due, tested, untested, *args)
    return parts.update(state, sums, deviations)

  return step


def _zeros(sums_of, *args):
  return statistics.zeros(jax.eval_shape(sums_of, 0, *args))


def traced(parts: Parts) -> Step:
  """One program with a traced trip count; works under jit, scan and vmap.

  The mean gradient of what has convolutions is contracted from factors on a
  CPU, where their own gradients are slow in a loop.
  """

  def mean_sums(*args):
    slow = convolution.convolves_on_cpu(parts.mean_sums, *args)
    return (parts.contracted_mean_sums if slow else parts.mean_sums)(*args)

  def fold(count, sums_of, *args):
    return jax.lax.fori_loop(
      0,
      count,
      lambda i, sums: statistics.merge(sums, sums_of(i, *args)),
      _zeros(sums_of, *args),
    )

  parts_in_a_loop = parts._replace(mean_sums=mean_sums)
  step = _compose(parts_in_a_loop, fold, jax.lax.cond)
  return jax.jit(step, donate_argnums=0)


def dispatched(parts: Parts) -> Step:
  """A host loop over compiled micro-steps, each outside any loop body."""

  def compiled(sums_of):
    def micro_step(*args):
      return sums_of(*args)

    return jax.jit(micro_step)

  micro_steps = {
    sums_of: compiled(sums_of)
    for sums_of in (parts.mean_sums, parts.gradient_sums, parts.deviation_sums)
    if sums_of is not None
  }
  num_micro_batches = jax.jit(parts.num_micro_batches)

  def read_num_micro_batches(state):
    return int(num_micro_batches(state))

  # Apart from the micro-step: within it, what consumes the gradient of a kernel
  # keeps XLA's CPU backend from computing that beside the rest.
  merge = jax.jit(statistics.merge, donate_argnums=0)

  def fold(count, sums_of, *args):
    parts_of_sums = (micro_steps[sums_of](i, *args) for i in range(count))
    return functools.reduce(merge, parts_of_sums)

  def choose(due, tested, untested, *args):
    return tested(*args) if due else untested(*args)

  on_the_host = parts._replace(
    num_micro_batches=read_num_micro_batches,
    update=jax.jit(parts.update, donate_argnums=0),
  )
  return _compose(on_the_host, fold, choose)


def automatic(parts: Parts) -> Step:
  """`dispatched` for convolutions on CPU, `traced` for everything else."""
  steps = {}

  def step(state, dataset):
    if not checks.is_concrete(*jax.tree.leaves((state, dataset))):
      return traced(parts)(state, dataset)
    if not steps:
      slow = convolution.convolves_on_cpu(parts.mean_sums, 0, state, dataset)
      steps['chosen'] = dispatched(parts) if slow else traced(parts)
    return steps['chosen'](state, dataset)

  return step
