"""What keeps a run from training: what is no mean, and what is not finite."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from adaopt.per_example import factorisation, reductions
from adaopt.per_example.program import pruning
from adaopt.statistics import independence
from adaopt.training import measuring, steps, stream, train_state

PATIENCE = 3
"""The number of updates left out in a row before `fit` looks for the cause."""
SHOWN = 8
"""The number of examples that a warning names."""


def check_loss(
  recipe: measuring.Recipe,
  state: train_state.TrainState,
  dataset: Any,
  compiled: Callable[..., Any],
) -> None:
  """Raises ValueError unless a loss is a mean over independent examples.

  It compares gradients of the next micro-batch; of groups nothing can be
  compared. That random numbers change with the examples is checked for both.

  Args:
    recipe: What a step computes.
    state: Where the run starts.
    dataset: What the examples are drawn from.
    compiled: (make, *args) → make(*args), which keeps what is compiled.
  """
  params = train_state.fast(state.params)
  count = max(2, recipe.micro_batch_size)
  first = functools.partial(_first, recipe.draw, count)
  one = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((recipe.group_size, *x.shape[1:]), x.dtype),
    jax.eval_shape(first, state, dataset),
  )
  with measuring.explained(state.params, dataset):
    shared = independence.draws_the_same(
      recipe.loss_fn, recipe.has_aux, params, one, state.model_state
    )
  if shared:
    raise ValueError(independence.SHARED)
  if recipe.group_size > 1:
    return
  compare = compiled(
    _comparison, recipe.loss_fn, recipe.has_aux, recipe.draw, count
  )
  try:
    compared = jax.device_get(compare(state, dataset))
  except NotImplementedError as error:  # Of what draws from threefry alone.
    logging.warning(
      'Whether the loss is a mean over independent examples could not be '
      'checked: %s',
      error,
    )
    return
  if independence.is_finite(compared):
    independence.check_compared(compared, params, count)
    return
  logging.warning(
    'The gradient of the first %d examples is not finite: whether the loss is '
    'a mean over independent examples could not be checked.',
    count,
  )


def _first(draw, count, state, dataset):
  positions = state.examples + jnp.arange(count, dtype=jnp.int32)
  return draw(dataset, state.seed, positions)


def _comparison(loss_fn, has_aux, draw, count):
  compare = independence.comparison(loss_fn, has_aux)

  def compare_gradients(state, dataset):
    batch = _first(draw, count, state, dataset)
    return compare(train_state.fast(state.params), batch, state.model_state)

  return jax.jit(compare_gradients)


def observer(
  recipe: measuring.Recipe, dataset: Any
) -> Callable[[train_state.TrainState, steps.Metrics], None]:
  """(state, metrics) → None: warns of updates that were left out in a row."""
  left_out = 0
  finite = jax.jit(functools.partial(_finite, recipe))

  def observe(state, metrics):
    nonlocal left_out
    left_out = 0 if metrics.finite else left_out + 1
    if left_out == PATIENCE:
      _warn(recipe, finite, state, metrics, dataset)

  return observe


def _finite(recipe, state, dataset, first):
  """Whether loss and gradient of each sample after a position are. [J]."""
  offsets = jnp.arange(recipe.micro_batch_size, dtype=jnp.int32)
  samples, mask = measuring.draw_samples(
    recipe, state, dataset, first + offsets
  )
  loss, params = (
    measuring.loss_of(recipe, state),
    train_state.fast(state.params),
  )

  def values_and_norms(params, samples, mask):
    factored = factorisation.factorise(loss, params, samples, mask)
    norms = jax.tree.leaves(reductions.sums(factored).norms)
    return factored.values, norms

  values, norms = pruning.pruned(values_and_norms)(params, samples, mask)
  return functools.reduce(
    lambda finite, x: finite & jnp.isfinite(x), norms, jnp.isfinite(values)
  )


def _warn(recipe, finite, state, metrics, dataset):
  end = int(metrics.examples)
  start = end - int(metrics.batch_size)
  q = recipe.group_size
  bad = []
  for first in range(start, end, recipe.micro_batch_size):
    good = jax.device_get(finite(state, dataset, jnp.int32(first)))
    positions = first + q * np.flatnonzero(~good)
    bad.extend(int(p) for p in positions if p < end)
  logging.warning(
    '%d updates in a row were left out, since the loss or the gradient was not '
    'finite. %s',
    PATIENCE,
    _located(recipe, state, dataset, bad),
  )


def _located(recipe, state, dataset, positions):
  """A sentence on the samples that are not finite."""
  if not positions:
    return (
      'In the last batch that of every example is, and only their sum is not.'
    )
  shown = positions[:SHOWN]
  kind = (
    'examples' if recipe.group_size == 1 else 'groups of examples that start'
  )
  named = f'{", ".join(map(str, shown))} of the stream'
  if recipe.draw is stream.draw:
    count = len(jax.tree.leaves(dataset)[0])
    indices = stream.example_indices(state.seed, jnp.array(shown), count)
    named += f' (in the dataset {", ".join(map(str, indices.tolist()))})'
  more = len(positions) - len(shown)
  rest = f', and {more} more' if more else ''
  return (
    f'In the last batch those of the {kind} at the positions {named}{rest} are '
    'not: look at them, or lower the learning rate.'
  )
