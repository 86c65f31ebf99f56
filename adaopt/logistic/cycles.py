"""Iterates that return to an earlier state, and so repeat for ever.

Brent's method: one earlier state is kept, and replaced after 1, 2, 4, 8, …
updates. Once it lies on the cycle and the next replacement is further off than
the period, the iterate that equals it gives the period. States are compared bit
by bit, so what is found is a cycle; an orbit that only comes near itself, or
whose period is long, is not found.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from adaopt.logistic import methods


class Watch(NamedTuple):
  """An earlier state, to be recognised."""

  anchor: Any  # its (params, memory); () if the method is not autonomous
  since: jax.Array  # its count, [] int32
  period: jax.Array  # updates from a state to itself, 0: not seen; [] int32


def _of(method, state):
  return (state.params, state.memory) if method.autonomous else ()


def begin(method: methods.Method, state: methods.State) -> Watch:
  """A watch over the first state."""
  zero = jnp.zeros([], jnp.int32)
  return Watch(anchor=_of(method, state), since=zero, period=zero)


def look(method: methods.Method, watch: Watch, state: methods.State) -> Watch:
  """The watch after one more update."""
  if not method.autonomous:
    return watch
  now = _of(method, state)
  equal = jax.tree.reduce(
    jnp.logical_and,
    jax.tree.map(lambda a, b: jnp.all(a == b), watch.anchor, now),
  )
  # Of count 0 the first step of a method may differ from all others.
  returned = equal & (watch.since > 0) & (watch.period == 0)
  replace = (state.count & (state.count - 1)) == 0
  return Watch(
    anchor=jax.tree.map(
      lambda a, b: jnp.where(replace, b, a), watch.anchor, now
    ),
    since=jnp.where(replace, state.count, watch.since),
    period=jnp.where(returned, state.count - watch.since, watch.period),
  )
