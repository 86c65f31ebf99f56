"""What keeps a run from training: what is no mean, and what is not finite."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from adaopt._common import arithmetic
from adaopt.per_example import factorisation, reductions
from adaopt.per_example.program import pruning
from adaopt.statistics import independence
from adaopt.training import measuring, recipes, steps, stream, train_state

PATIENCE = 3
"""The number of updates left out in a row before `fit` looks for the cause."""
SHOWN = 8
"""The number of examples that a warning names."""


def check_loss(
  recipe: recipes.Recipe,
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
  with measuring.explained(state.params, stream.examples_of(dataset)):
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


def whole(
  dataset: Any, start: int, end: int, size: int
) -> Iterator[tuple[Any, int, int]]:
  """The micro-batches of a batch [start, end): dataset, first, stop."""
  for first in range(start, end, size):
    yield dataset, first, min(first + size, end)


def observer(
  recipe: recipes.Recipe,
  dataset: Any,
  examine: Callable[..., Iterator[tuple[Any, int, int]]] = whole,
) -> Callable[[train_state.TrainState, steps.Metrics], None]:
  """Warns of updates that were left out in a row.

  Args:
    recipe: What a step computes.
    dataset: What the examples are drawn from.
    examine: (dataset, start, end, size) → what is looked at of the batch
      [start, end), in its order: at most `size` positions [first, stop), and
      what they are drawn from.

  Returns:
    (state, metrics) → None.
  """
  left_out = 0
  finite = jax.jit(functools.partial(_finite, recipe))

  def observe(state, metrics):
    nonlocal left_out
    left_out = 0 if metrics.finite else left_out + 1
    if left_out == PATIENCE:
      end = int(metrics.examples)
      start = end - int(metrics.batch_size)
      looked = examine(dataset, start, end, recipe.micro_batch_size)
      _warn(recipe, finite, state, end, looked)

  return observe


def _finite(recipe, state, dataset, first):
  """Whether loss and gradient of each sample after a position are. [J]."""
  offsets = jnp.arange(recipe.micro_batch_size, dtype=jnp.int32)
  samples, mask = recipes.draw_samples(recipe, state, dataset, first + offsets)
  loss, params = (
    recipes.loss_of(recipe, state),
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


def _warn(recipe, finite, state, end, looked):
  q = recipe.group_size
  bad = []
  for dataset, first, stop in looked:
    low = jnp.int32(first & arithmetic.LARGEST)
    good = jax.device_get(finite(state, dataset, low))
    positions = first + q * np.flatnonzero(~good)
    bad.extend(int(p) for p in positions if p < stop)
  logging.warning(
    '%d updates in a row were left out, since the loss or the gradient was not '
    'finite. %s',
    PATIENCE,
    _located(recipe, state, dataset, bad, stop == end),
  )


def _located(recipe, state, dataset, positions, complete):
  """A sentence on the samples that are not finite."""
  where = 'the last batch'
  if not complete:
    where = f'the first micro-batch of {where}'
  if not positions:
    rest = ', and only their sum is not' if complete else ''
    return f'In {where} that of every example is{rest}.'
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
    f'In {where} those of the {kind} at the positions {named}{rest} are '
    'not: look at them, or lower the learning rate.'
  )
