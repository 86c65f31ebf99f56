"""The constants that `optax.inject_hyperparams` puts into a state."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from adaopt._common import checks, fields

Injected = optax.InjectStatefulHyperparamsState


def map_injected(
  function: Callable[..., Any], opt_state: Any, *rest: Any
) -> Any:
  """The state with function(node, ...) for that of each injected optimizer."""
  is_injected = lambda node: isinstance(node, Injected)
  apply = lambda x, *others: function(x, *others) if is_injected(x) else x
  return jax.tree.map(apply, opt_state, *rest, is_leaf=is_injected)


def holders(opt_state: Any, name: str) -> list[dict[str, Any]]:
  """The hyperparams of the injected optimizers that have one of this name."""
  return [
    state.hyperparams
    for state in fields.states_of(opt_state, Injected)
    if name in state.hyperparams
  ]


def check_names(decays: Any, trace: Any, scaled: Any) -> None:
  """Raises ValueError unless these are names of constants."""
  names = [decays] if isinstance(decays, str) else decays
  several = isinstance(names, Iterable) and not isinstance(names, Mapping)
  if not several or not all(isinstance(name, str) for name in names):
    raise ValueError(
      "decays must be names of constants, as in decays=('b1', 'b2'), got "
      f'{decays!r}.'
    )
  if trace is not None and not isinstance(trace, str):
    raise ValueError(
      "trace must be the name of a constant, such as 'momentum', got "
      f'{trace!r}.'
    )
  if scaled is not None and not isinstance(scaled, Mapping):
    raise ValueError(
      "scaled must map names to powers, as in scaled={'weight_decay': 0.5}, "
      f'got {scaled!r}.'
    )


def check_powers(names: list[str], powers: Mapping[str, Any]) -> None:
  """Raises ValueError unless names differ and powers are finite numbers."""
  if not names:
    raise ValueError(
      'follow_batch_size follows no constant; name some, as in '
      "decays=('b1', 'b2') or scaled={'weight_decay': 0.5}."
    )
  twice = sorted({name for name in names if names.count(name) > 1})
  if twice:
    raise ValueError(
      f'{twice[0]} is named twice; a constant is a decay, a trace or scaled.'
    )
  for name, power in powers.items():
    number = np.asarray(power) if checks.is_concrete(power) else np.ones([])
    if number.dtype.kind not in 'iuf' or number.ndim or not np.isfinite(number):
      raise ValueError(
        f'scaled must hold finite powers of b / b_0, got {power!r} for {name}.'
      )


def check_injected(opt_state: Any, names: Iterable[str]) -> None:
  """Raises ValueError unless each is an injected constant."""
  injected = fields.states_of(opt_state, Injected)
  if not injected:
    raise ValueError(
      'follow_batch_size needs an optimizer with injected constants, such as '
      'optax.inject_hyperparams(optax.adamw)(1.0, weight_decay=0.1), got one '
      f'with the state {type(opt_state).__name__}.'
    )
  scheduled = {name for s in injected for name in s.hyperparams_states}
  found = {name for s in injected for name in s.hyperparams} - scheduled
  for name in names:
    if name in scheduled:
      raise ValueError(
        f'{name} is a schedule, which counts updates and would overwrite what '
        'follows the batch size; give inject_hyperparams a number.'
      )
    if name not in found:
      raise ValueError(
        f'{name} is not an injected constant that can follow the batch size; '
        f'there are {", ".join(sorted(found)) or "none"}.'
      )


def check_decays(opt_state: Any, names: Iterable[str]) -> None:
  """Raises ValueError unless each is in [0, 1), in float32 or wider."""
  for name in names:
    for hyperparams in holders(opt_state, name):
      decay = hyperparams[name]
      if jnp.result_type(decay).itemsize < 4:
        raise ValueError(
          f'{name} is held in {decay.dtype}, which rounds decays near 1; '
          'inject with hyperparam_dtype=jnp.float32, and a mu_dtype likewise.'
        )
      if checks.is_concrete(decay) and not np.all((decay >= 0) & (decay < 1)):
        raise ValueError(
          f'{name} must be in [0, 1) to have a half-life, got {decay}.'
        )


def check_trace(opt_state: Any, trace: str | None) -> None:
  """Raises ValueError unless one optimizer has it."""
  if trace is not None and len(holders(opt_state, trace)) != 1:
    raise ValueError(
      f'trace={trace!r} must be a constant of one injected optimizer, got '
      f'{len(holders(opt_state, trace))}; wrap each by a follow_batch_size.'
    )
