"""The training loop: steps until a budget of examples is spent."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging

from adaopt._common import base, checks
from adaopt.training import (
  drivers,
  faults,
  measuring,
  steps,
  stream,
  timing,
  train_state,
)


def _nothing(state, metrics):
  del state, metrics


def rung(batch_size: int, largest: int) -> int:
  """The smallest of largest, largest/4, largest/16, … that holds a batch."""
  while largest % 4 == 0 and largest // 4 >= batch_size:
    largest //= 4
  return largest


@functools.lru_cache(maxsize=32)
def compiled(make: Callable[..., Any], *args: Any, **options: Any) -> Any:
  """make(*args, **options), the same for the same arguments.

  A run uses at most one step a rung, and a comparison of gradients. The 32 used
  last are kept, with what they hold: `compiled.cache_clear()` lets go of them.
  """
  return make(*args, **options)


def fit(
  loss_fn: base.LossFn,
  optimizer: optax.GradientTransformation,
  params_or_state: optax.Params | train_state.TrainState,
  dataset: base.Batch,
  *,
  num_examples: int,
  seed: int | None = None,
  model_state: Any = None,
  max_micro_batch_size: int = 256,
  group_size: int = 1,
  has_aux: bool = False,
  draw: measuring.Draw = stream.draw,
  driver: Callable[[drivers.Parts], drivers.Step] = drivers.automatic,
  donate: bool = False,
  check: bool = True,
) -> Iterator[tuple[train_state.TrainState, steps.Metrics]]:
  """Trains until `num_examples` examples are consumed, a step an iteration.

  Small batches run in small micro-batches: the steps form a ladder of sizes
  m, m/4, m/16, …, of which at most log₄(m/b_0) + 1 are ever compiled. A second
  call with the same loss_fn and optimizer compiles nothing. The metrics of a
  step are read after the next step is dispatched, so that the device does not
  wait for their reader. A run with `criteria.goodput` is reproducible only if
  its seconds are given: by default they are measured here.

  Args:
    loss_fn: (params, batch) → the mean loss over the batch, or (loss, aux),
      see `LossFn`.
    optimizer: An optimizer that holds a batch size, as in `train_step`.
    params_or_state: Parameters to start from, or the `TrainState` of a run to
      resume, which goes on as if it had never stopped, to the last bit. It
      stays valid.
    dataset: A pytree of arrays with a common leading example axis, or what
      `draw` takes.
    num_examples: The budget, counted from the beginning of the stream. The
      last batch may exceed it.
    seed: The seed of the example stream, in [0, 2³²), by default 0. A
      `TrainState` has its own, and takes none.
    model_state: What the model holds beside its parameters, such as running
      statistics of BatchNorm, for a loss_fn that takes it. A `TrainState` has
      its own, and takes none.
    max_micro_batch_size: m, the largest number of examples processed at once.
    group_size: As in `train_step`.
    has_aux: As in `train_step`.
    draw: As in `train_step`.
    driver: As in `train_step`.
    donate: Whether each step overwrites the state before it. Saves two copies
      of the state on the device, and on a CPU time where the state is large
      beside a batch; a state is valid until the next iteration, and the device
      waits for the loop body.
    check: Whether to check the loss before the first update, at the cost of
      one more compilation: as `check_independent_examples` on the first m
      examples. With group_size > 1 nothing can be compared: that the loss is a
      mean over independent groups is then assumed.

  Yields:
    (state, metrics) once a step: the state after it, on the device, and its
    metrics, on the host. Both stay valid, also when the loop ends by an
    exception or by Ctrl-C: the last state that was yielded resumes the run.

  Raises:
    ValueError: At the call, for arguments out of range, a budget too large for
      a 32-bit position, a state of another optimizer, and a loss that is not a
      mean over independent examples; there or in the first step for a loss or
      a dataset that does not fit.

  Example:
    >>> import adaopt
    >>> import jax
    >>> import jax.numpy as jnp
    >>> loss_fn = lambda params, batch: jnp.mean((params - batch) ** 2)
    >>> optimizer = adaopt.adadagrad(
    ...   0.5, adaopt.norm_test(eta=0.5), init_batch_size=4, max_batch_size=64)
    >>> dataset = jax.random.normal(jax.random.key(0), [256]) + 1.0
    >>> for state, metrics in adaopt.fit(
    ...     loss_fn, optimizer, jnp.array(0.0), dataset, num_examples=200):
    ...   print(metrics.batch_size, metrics.examples)
    4 4
    4 8
    4 12
    4 16
    9 25
    9 34
    9 43
    12 55
    15 70
    15 85
    64 149
    64 213
  """
  checks.check_integer(
    1, num_examples=num_examples, max_micro_batch_size=max_micro_batch_size
  )
  if num_examples >= 2**30:
    raise ValueError(
      f'num_examples={num_examples} is too large for a 32-bit position in the '
      'stream; it must be below 2^30.'
    )
  checks.check_optimizer(optimizer)
  checks.check_hashable(loss_fn=loss_fn, draw=draw, driver=driver)
  state = _state(params_or_state, optimizer, seed, model_state)
  step_of = functools.partial(
    compiled,
    steps.train_step,
    loss_fn,
    optimizer,
    group_size=group_size,
    has_aux=has_aux,
    draw=draw,
    driver=driver,
    donate=donate,
  )
  step_of(micro_batch_size=max_micro_batch_size)  # Checks its arguments.
  recipe = measuring.recipe_of(
    loss_fn,
    optimizer,
    micro_batch_size=max_micro_batch_size,
    group_size=group_size,
    has_aux=has_aux,
    draw=draw,
  )

  def start(state, dataset):
    if check:
      faults.check_loss(recipe, state, dataset, compiled)
    return faults.observer(recipe, dataset)

  return iterate(
    lambda size: step_of(micro_batch_size=size),
    state,
    dataset,
    num_examples=num_examples,
    max_micro_batch_size=max_micro_batch_size,
    donate=donate,
    start=start,
  )


def _state(params_or_state, optimizer, seed, model_state):
  if not isinstance(params_or_state, train_state.TrainState):
    return train_state.init_train_state(
      params_or_state,
      optimizer,
      seed=0 if seed is None else seed,
      model_state=() if model_state is None else model_state,
    )
  if seed is not None:
    raise ValueError(
      f'the state has a seed of its own, {params_or_state.seed}, got '
      f'seed={seed}; pass seed= with parameters only.'
    )
  if model_state is not None:
    raise ValueError(
      'the state has a model_state of its own; pass model_state= with '
      'parameters only.'
    )
  train_state.check_belongs(params_or_state, optimizer)
  return jax.tree.map(jnp.copy, params_or_state)


def iterate(
  step_of: Callable[[int], drivers.Step],
  state: Any,
  dataset: base.Batch,
  *,
  num_examples: int,
  max_micro_batch_size: int,
  donate: bool = False,
  start: Callable[[Any, Any], timing.Observer] = lambda *_: _nothing,
) -> Iterator[tuple[Any, steps.Metrics]]:
  """The loop of `fit`, over steps of your own.

  Args:
    step_of: micro_batch_size → step, the same for the same size.
    state: Where to start.
    dataset: As in `fit`.
    num_examples: As in `fit`.
    max_micro_batch_size: As in `fit`.
    donate: Whether the steps overwrite their state.
    start: (state, dataset) → what to call with each state and its metrics
      before they are yielded; called before the first step, if there is one.

  Returns:
    An iterator over (state, metrics).
  """
  watch = timing.stopwatch(state, max_micro_batch_size)

  def dispatch(state, last_batch_size):
    size = rung(int(last_batch_size), max_micro_batch_size)
    state = watch.before(state, size)
    return state, step_of(size)(state, dataset)

  if int(state.examples) >= num_examples:
    return iter(())
  checks.check_arrays(dataset=dataset)
  dataset = jax.device_put(dataset)
  observe = watch.timed(start(state, dataset))
  loop = _in_turn if donate else _ahead
  return loop(dispatch, state, num_examples, observe)


# The size of a batch may not be known yet when its step is dispatched, so the
# size of the batch before chooses its micro-batches. Only speed depends on it.


def _in_turn(dispatch, state, num_examples, observe):
  """A step after the loop body of the one before."""
  _, (state, metrics) = dispatch(state, state.last_batch_size)
  _warn_of_lowered_size(metrics)
  while True:
    known = jax.device_get(metrics)
    observe(state, known)
    yield state, known
    if known.examples >= num_examples:
      return
    _, (state, metrics) = dispatch(state, known.batch_size)


def _ahead(dispatch, state, num_examples, observe):
  """A step is dispatched before the metrics of the one before are read."""
  _, (state, metrics) = dispatch(state, state.last_batch_size)
  following = None
  try:
    known = _warn_of_lowered_size(metrics)
    examples, batch_size = known.examples, known.batch_size
    while True:
      if examples < num_examples:
        state, following = dispatch(state, batch_size)
      known = jax.device_get(metrics)
      observe(state, known)
      yield state, known
      if following is None:
        return
      (state, metrics), following = following, None
      batch_size = known.next_batch_size
      examples = known.examples + batch_size
  finally:
    # Nothing is left running behind a break.
    jax.block_until_ready((metrics, following))


def _warn_of_lowered_size(metrics: steps.Metrics) -> steps.Metrics:
  """Reads the metrics of a first step; warns if max_batch_size was lowered."""
  known = jax.device_get(metrics)
  sizes = known.batch_size, known.next_batch_size
  if sizes[0] > sizes[1] and np.all(known.required > sizes[0]):
    logging.warning(
      'The state came with a batch size of %d, above the largest that the '
      'optimizer allows; it came down to %d.',
      *sizes,
    )
  return known
