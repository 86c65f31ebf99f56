"""The state of a run, and the fields of an optimizer's state in it."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from adaopt import checks


class TrainState(NamedTuple):
  """Everything a run is made of: save it, restore it, and go on."""

  params: optax.Params
  opt_state: optax.OptState
  step: jax.Array  # [] int32, steps done
  examples: jax.Array  # [] int32, examples consumed: the stream's position
  last_batch_size: jax.Array  # [] int32, of the last step; b_0 before the first
  seed: jax.Array  # [] uint32, of the example stream


def init_train_state(
  params: optax.Params,
  optimizer: optax.GradientTransformation,
  *,
  seed: int = 0,
) -> TrainState:
  """The state before the first step.

  Args:
    params: The parameters.
    optimizer: An optimizer that holds a batch size.
    seed: The seed of the example stream, in [0, 2³²).

  Returns:
    The state.

  Raises:
    ValueError: If a parameter has no gradient, the optimizer holds no batch
      size or several, or the seed is out of range.

  Example:
    >>> import adaopt
    >>> import jax.numpy as jnp
    >>> optimizer = adaopt.adadagrad(
    ...   0.5, adaopt.norm_test(eta=0.5), init_batch_size=4, max_batch_size=64)
    >>> state = adaopt.init_train_state(jnp.zeros(2), optimizer, seed=1)
    >>> print(state.params, state.step, state.examples, state.seed)
    [0. 0.] 0 0 1
  """
  checks.check_callable(
    'of params', **{'optimizer.init': getattr(optimizer, 'init', optimizer)}
  )
  checks.check_params(params)
  checks.check_integer(0, bits=32, seed=seed)
  params = jax.tree.map(jnp.copy, params)  # A step donates its state.
  opt_state = optimizer.init(params)
  batch_size = jnp.copy(batch_size_of(opt_state))
  return TrainState(
    params,
    opt_state,
    step=jnp.zeros([], jnp.int32),
    examples=jnp.zeros([], jnp.int32),
    last_batch_size=batch_size,
    seed=jnp.asarray(seed, jnp.uint32),
  )


def find_all(opt_state: optax.OptState, field: str) -> list[Any]:
  """The fields of this name of states, never an entry of a parameter tree."""
  found = optax.tree.get_all_with_path(
    opt_state,
    field,
    filtering=lambda path, _: hasattr(path[-1], 'tuple_name'),
  )
  return [value for _, value in found]


def find(opt_state: optax.OptState, field: str, default: Any = None) -> Any:
  """The only field of this name, or the default where there is none."""
  (value,) = find_all(opt_state, field) or [default]
  return value


def is_test_due(opt_state: optax.OptState) -> jax.Array | None:
  """Whether a state asks for the next statistics, [] bool; None: none can."""
  due = find_all(opt_state, 'test_due')
  return functools.reduce(jnp.logical_or, due) if due else None


def batch_size_of(opt_state: optax.OptState) -> jax.Array:
  """The batch size that an optimizer holds; ValueError unless it holds one."""
  found = find_all(opt_state, 'batch_size')
  if len(found) != 1:
    raise ValueError(
      f'the optimizer holds {len(found)} batch sizes instead of one; chain it '
      'with one adapt_batch_size(...) or schedule_batch_size(...).'
    )
  return found[0]
