"""The training loop: steps until a budget of examples is spent."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import optax

from adaopt._common import base, checks
from adaopt.training import (
  agreeing,
  drivers,
  faults,
  fed,
  feeding,
  loops,
  measuring,
  meshes,
  placing,
  recipes,
  sources,
  steps,
  stream,
  train_state,
)


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
  dataset: base.Batch | feeding.Feed,
  *,
  num_examples: int | None = None,
  total_weight: float | None = None,
  seed: int | None = None,
  model_state: Any = None,
  max_micro_batch_size: int | None = None,
  group_size: int = 1,
  has_aux: bool = False,
  draw: recipes.Draw | None = None,
  driver: Callable[[drivers.Parts], drivers.Step] | None = None,
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
      `draw` takes; or a `feed` of what is read one after the other. Beside a
      state on a mesh, arrays are put on all of its devices, once, but for those
      that are committed to devices.
    num_examples: The budget, counted from the beginning of the stream. The
      last batch may exceed it. A feed needs none: where it ends, the run ends
      with a batch of what is left.
    total_weight: A budget of weights of a `WeightedLoss`, such as a number of
      tokens, or of examples, counted from the beginning of the run. The device
      waits for it between two steps. Where both are given, the first that is
      spent ends the run; arrays end it before 2³⁰ examples.
    seed: The seed of the example stream, in [0, 2³²), by default 0. A
      `TrainState` has its own, and takes none.
    model_state: What the model holds beside its parameters, such as running
      statistics of BatchNorm, for a loss_fn that takes it. A `TrainState` has
      its own, and takes none.
    max_micro_batch_size: m, the largest number of examples processed at once,
      by default 256. A feed has its own.
    group_size: As in `train_step`.
    has_aux: As in `train_step`.
    draw: As in `train_step`. A feed takes none.
    driver: As in `train_step`. A feed takes none.
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
    exception or by Ctrl-C: the last state that was yielded resumes the run,
    with a feed from what its `get_state` returns then.

  Raises:
    ValueError: At the call, for arguments out of range, a budget too large for
      a 32-bit position, a state of another optimizer, a feed that is empty or
      stands elsewhere than the state, and a loss that is not a mean over
      independent examples; on all processes that share a mesh, where they
      differ in data, state, seed, optimizer or budget; there or in the first
      step for a loss or a dataset that does not fit.

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
  checks.check_optimizer(optimizer)
  checks.check_hashable(loss_fn=loss_fn)
  checks.check_flag(has_aux=has_aux, donate=donate, check=check)
  checks.check_integer(1, group_size=group_size)
  options = dict(group_size=group_size, has_aux=has_aux)
  of_arrays = dict(
    max_micro_batch_size=max_micro_batch_size, draw=draw, driver=driver
  )
  given = {name: x for name, x in of_arrays.items() if x is not None}
  if total_weight is not None:
    checks.check_positive(total_weight=total_weight)
  is_fed = isinstance(dataset, feeding.Feed)
  if is_fed and given:
    raise ValueError(
      'a feed has its own order, micro-batches and driver; pass '
      f'{", ".join(given)} with arrays only.'
    )
  state = train_state.first_of(params_or_state, optimizer, seed, model_state)
  train_state.check_model_state(loss_fn, state.model_state)
  budgets = dict(num_examples=num_examples, total_weight=total_weight)
  agreeing.check(
    placing.mesh_of(state),
    **budgets,
    **options,
    max_micro_batch_size=max_micro_batch_size,
    **{f'state.{name}': value for name, value in state._asdict().items()},
  )
  run = _from_feed if is_fed else _from_arrays
  return run(
    loss_fn,
    optimizer,
    state,
    dataset,
    options,
    **budgets,
    donate=donate,
    check=check,
    **given,
  )


def _from_arrays(
  loss_fn,
  optimizer,
  state,
  dataset,
  options,
  *,
  num_examples,
  total_weight,
  donate,
  check,
  max_micro_batch_size=256,
  draw=stream.draw,
  driver=drivers.automatic,
):
  if num_examples is None and total_weight is not None:
    num_examples = 2**30 - 1
  checks.check_integer(
    1, num_examples=num_examples, max_micro_batch_size=max_micro_batch_size
  )
  if num_examples >= 2**30:
    raise ValueError(
      f'num_examples={num_examples} is too large for a 32-bit position in the '
      'stream; it must be below 2^30.'
    )
  sources.check_is_none(dataset)
  checks.check_hashable(draw=draw, driver=driver)
  options = dict(options, draw=draw)
  step_of = functools.partial(
    compiled,
    steps.train_step,
    loss_fn,
    optimizer,
    driver=driver,
    donate=donate,
    **options,
  )
  step_of(micro_batch_size=max_micro_batch_size)  # Checks its arguments.
  recipe = recipes.recipe_of(
    loss_fn, optimizer, micro_batch_size=max_micro_batch_size, **options
  )

  def checked(state, dataset):
    measuring.check_same_update(recipe, state, dataset)
    if check:
      faults.check_loss(recipe, state, dataset, compiled)
    return faults.observer(recipe, dataset)

  return loops.iterate(
    lambda size: step_of(micro_batch_size=size),
    state,
    dataset,
    num_examples=num_examples,
    total_weight=total_weight,
    max_micro_batch_size=max_micro_batch_size,
    donate=donate,
    start=checked,
  )


def _from_feed(
  loss_fn,
  optimizer,
  state,
  feed,
  options,
  *,
  num_examples,
  total_weight,
  donate,
  check,
):
  if num_examples is not None:
    checks.check_integer(1, bits=63, num_examples=num_examples)
  q = options['group_size']
  step_of = functools.partial(
    compiled, fed.feed_step, loss_fn, optimizer, donate=donate, **options
  )
  step_of(micro_batch_size=q)  # Checks its arguments.
  feed.place(meshes.rows_beside(state))
  position = feed.locate(int(state.examples))

  within = loops.within(num_examples, total_weight)

  def goes_on(position, state):
    return within(position, state) and not fed.is_over(feed, position, q)

  if not goes_on(position, state):
    return iter(())
  examples = feed.read(position).examples
  m = checks.num_examples(examples)
  fed.check_sizes(m, m, q)
  recipe = fed.fed_recipe(loss_fn, optimizer, micro_batch_size=m, **options)
  _, block = next(fed.blocks(feed, position, position + m, m, q))
  measuring.check_same_update(recipe, state, block)
  if check:
    faults.check_loss(recipe, state, block, compiled)
  run = loops.Run(
    lambda size: step_of(micro_batch_size=size),
    # In whole groups, as m is. A part of what devices share is on few of them.
    lambda batch_size: (
      q * loops.rung(-(-batch_size // q), m // q)
      if meshes.is_whole(examples)
      else m
    ),
    m,
    feed,
    position=lambda count: np.int64(feed.locate(int(count))),
    goes_on=goes_on,
  )
  examine = functools.partial(fed.examine, q)
  return loops.loop(run, state, faults.observer(recipe, feed, examine), donate)
