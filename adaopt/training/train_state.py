"""The state of a run."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from adaopt._common import base, calls, checks, fields, losses
from adaopt.batch_size import accumulation
from adaopt.training import counting


class TrainState(NamedTuple):
  """Everything that a run needs to resume: save it and restore it whole.

  Nothing in it depends on the number of devices: a run of one mesh goes on on
  another, by orbax restored to shapes that say where its arrays are to lie.

    like = jax.eval_shape(lambda: init_train_state(params, optimizer))
    like = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=NamedSharding(mesh, spec_of(x))), like)
    state = manager.restore(step, args=ocp.args.StandardRestore(like))
  """

  params: optax.Params
  opt_state: optax.OptState
  step: jax.Array  # [] int32, steps done
  examples: jax.Array  # [] int32, consumed: the stream's position modulo 2³¹
  last_batch_size: jax.Array  # [] int32, of the last step; b_0 before the first
  seed: jax.Array  # [] uint32, of the example stream
  weight: jax.Array  # [2] float32, consumed: as `counting` has it
  model_state: Any = ()  # what the model holds beside its parameters


def init_train_state(
  params: optax.Params,
  optimizer: optax.GradientTransformation,
  *,
  seed: int = 0,
  model_state: Any = (),
) -> TrainState:
  """The state before the first step.

  Args:
    params: The parameters. The state holds copies of them.
    optimizer: An optimizer that holds a batch size.
    seed: The seed of the example stream, in [0, 2³²).
    model_state: What the model holds beside its parameters, such as running
      statistics of BatchNorm, for a loss function with a parameter of that
      name.

  Returns:
    The state.

  Raises:
    ValueError: If a parameter has no gradient, the optimizer does not hold one
      batch size or accumulates micro-batches itself, the seed is out of range,
      or the model state holds a random key.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> optimizer = adaopt.adadagrad(
    ...   0.5, adaopt.norm_test(eta=0.5), init_batch_size=4, max_batch_size=64)
    >>> state = adaopt.init_train_state(jnp.zeros(2), optimizer, seed=1)
    >>> print(state.params, state.step, state.examples, state.seed)
    [0. 0.] 0 0 1
  """
  checks.check_optimizer(optimizer)
  checks.check_params(params)
  checks.check_integer(0, bits=32, seed=seed)
  calls.check_model_state(model_state)
  with jax.transfer_guard('allow'):  # A new state comes from the host.
    params = jax.tree.map(jnp.asarray, params)
    opt_state = optimizer.init(params)
    check_whole_batches(opt_state)
    state = TrainState(
      params,
      opt_state,
      step=jnp.zeros([], jnp.int32),
      examples=jnp.zeros([], jnp.int32),
      last_batch_size=fields.batch_size_of(opt_state),
      seed=jnp.asarray(seed, jnp.uint32),
      weight=counting.nothing(),
      model_state=jax.tree.map(jnp.asarray, model_state),
    )
    # Buffers of its own, each but once: a step may donate them.
    return jax.tree.map(jnp.copy, state)


def check_state(state: Any) -> None:
  """Raises ValueError unless it has the fields of a `TrainState`."""
  if not all(hasattr(state, field) for field in TrainState._fields):
    raise ValueError(
      'state must be a TrainState, as init_train_state makes it, got '
      f'{type(state).__name__}.'
    )


def fast(params: optax.Params) -> optax.Params:
  """The parameters of the loss: without the slow ones of `lookahead`."""
  if isinstance(params, optax.LookaheadParams):
    return params.fast
  return params


def check_model_state(loss_fn: base.LossFn, model_state: Any) -> None:
  """Raises ValueError unless a loss function takes what there is."""
  takes = losses.takes(loss_fn).model_state
  holds = not (isinstance(model_state, tuple) and model_state == ())
  if holds and not takes:
    raise ValueError(
      'the state holds a model_state, and loss_fn has no parameter model_state '
      'that would be passed it.'
    )
  if takes and not holds:
    raise ValueError(
      'loss_fn takes a model_state, and the state holds none: pass '
      'model_state= to fit or init_train_state.'
    )


def check_whole_batches(opt_state: optax.OptState) -> None:
  """Raises ValueError if the optimizer adds up micro-batches itself."""
  for kind, name in (
    (optax.MultiStepsState, 'optax.MultiSteps'),
    (accumulation.AccumulateState, 'adaopt.accumulate'),
  ):
    if fields.states_of(opt_state, kind):
      raise ValueError(
        f'{name} takes a micro-batch an update, and a training step makes one '
        'update a batch: only a part of each batch would count. Pass the '
        'optimizer within it; micro_batch_size bounds the memory. In a loop of '
        'your own use adaopt.accumulate, which knows the batch size.'
      )


def check_belongs(
  state: TrainState, optimizer: optax.GradientTransformation
) -> None:
  """Raises ValueError unless the optimizer makes such a state."""
  expected = jax.eval_shape(optimizer.init, state.params)
  if jax.tree.structure(expected) != jax.tree.structure(state.opt_state):
    raise ValueError(
      'the state is of another optimizer than the one passed: its opt_state is '
      f'{jax.tree.structure(state.opt_state)}, that of the optimizer would be '
      f'{jax.tree.structure(expected)}.'
    )


def first_of(
  params_or_state: Any,
  optimizer: optax.GradientTransformation,
  seed: int | None,
  model_state: Any,
) -> TrainState:
  """The state of parameters, or a copy of the state of a run that goes on.

  Raises:
    ValueError: If a state is given a seed or a model state beside its own, or
      is that of another optimizer.
  """
  if not isinstance(params_or_state, TrainState):
    return init_train_state(
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
  check_belongs(params_or_state, optimizer)
  return jax.tree.map(jnp.copy, params_or_state)
