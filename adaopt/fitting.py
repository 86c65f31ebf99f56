"""The training loop: steps until a budget of examples is spent."""

import weakref
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from adaopt import base, checks, drivers, train_state, training


def rung(batch_size: int, largest: int) -> int:
  """The smallest of largest, largest/4, largest/16, … that holds a batch."""
  while largest % 4 == 0 and largest // 4 >= batch_size:
    largest //= 4
  return largest


def fit(
  make_step: Callable[..., drivers.Step],
  state: train_state.TrainState,
  dataset: base.Batch,
  *,
  num_examples: int,
  max_micro_batch_size: int = 256,
) -> Iterator[tuple[train_state.TrainState, training.Metrics]]:
  """Trains until `num_examples` examples are consumed, a step an iteration.

  Small batches run in small micro-batches: the steps form a ladder of sizes
  m, m/4, m/16, …, of which at most log₄(m/b_0) + 1 are ever compiled. The
  metrics of a step are read after the next step is dispatched, so that the
  device never waits for their reader.

  Args:
    make_step: micro_batch_size=… → step, such as
      `functools.partial(adaopt.train_step, loss_fn, optimizer)`. Its steps
      are kept for as long as it is: another call with the same object compiles
      nothing anew, and one with a new object compiles everything.
    state: Where to start; it stays valid. From a restored state a run goes on
      as if it had never stopped, to the last bit.
    dataset: What the step draws its examples from, such as a pytree of arrays
      with a common leading example axis.
    num_examples: The budget, counted from the beginning of the stream. The
      last batch may exceed it.
    max_micro_batch_size: m, the largest number of examples processed at once.

  Yields:
    (state, metrics) once a step: the metrics of that step on the host, and the
    newest state, one step ahead of them except at the end. The state is valid
    until the next iteration, which donates it.

  Raises:
    ValueError: If a size is no positive integer, or the budget is too large
      for a 32-bit position.

  Example:
    >>> import functools
    >>> import adaopt
    >>> import jax
    >>> import jax.numpy as jnp
    >>> loss_fn = lambda params, batch: jnp.mean((params - batch) ** 2)
    >>> optimizer = adaopt.adadagrad(
    ...   0.5, adaopt.norm_test(eta=0.5), init_batch_size=4, max_batch_size=64)
    >>> make_step = functools.partial(adaopt.train_step, loss_fn, optimizer)
    >>> state = adaopt.init_train_state(jnp.array(0.0), optimizer)
    >>> dataset = jax.random.normal(jax.random.key(0), [256]) + 1.0
    >>> for state, metrics in adaopt.fit(
    ...     make_step, state, dataset, num_examples=200):
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
  checks.check_callable('micro_batch_size=… -> step', make_step=make_step)
  checks.check_integer(
    1, num_examples=num_examples, max_micro_batch_size=max_micro_batch_size
  )
  if num_examples >= 2**30:
    raise ValueError(
      f'num_examples={num_examples} is too large for a 32-bit position in the '
      'stream; it must be below 2^30.'
    )
  return _fit(make_step, state, dataset, num_examples, max_micro_batch_size)


# make_step → size → step; what a run compiled goes when its make_step does.
_STEPS = weakref.WeakKeyDictionary()


def _compiled(make_step, micro_batch_size):
  """The step of a size, the same whenever `make_step` is the same."""
  steps = _STEPS.setdefault(make_step, {})
  if micro_batch_size not in steps:
    steps[micro_batch_size] = make_step(micro_batch_size=micro_batch_size)
  return steps[micro_batch_size]


def _fit(make_step, state, dataset, num_examples, max_micro_batch_size):
  def dispatch(state, last_batch_size):
    size = rung(int(last_batch_size), max_micro_batch_size)
    return _compiled(make_step, size)(state, dataset)

  state = jax.tree.map(jnp.copy, state)
  dataset = jax.device_put(dataset)
  if state.examples >= num_examples:
    return
  # The step at hand may not be known yet when the next one is dispatched, so
  # its micro-batches are sized by the step before: a matter of speed alone.
  state, metrics = dispatch(state, state.last_batch_size)
  try:
    known, in_flight = jax.device_get(metrics), None
    ahead, last_batch_size = known.examples, known.batch_size
    while ahead < num_examples:
      state, metrics = dispatch(state, last_batch_size)
      if in_flight is not None:
        known = jax.device_get(in_flight)
      last_batch_size = known.next_batch_size
      ahead = known.examples + known.next_batch_size
      yield state, known
      in_flight = metrics
    yield state, known if in_flight is None else jax.device_get(in_flight)
  finally:
    jax.block_until_ready(metrics)  # Nothing is left running behind a break.
