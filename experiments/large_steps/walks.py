"""Runs of `adaopt.logistic` and of `adaopt` itself, one example budget for all.

A walk has a state that a step advances and a view of what it has used, so that
one loop measures descent on all examples, on random batches and on batches of
adaptive size.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import adaopt
from adaopt import logistic, training

MICRO_BATCH_SIZE = 256


class View(NamedTuple):
  """Where a walk is and what it has used."""

  params: jax.Array  # θ, [d]
  updates: jax.Array  # [] int32
  examples: jax.Array  # [] int32, counted as often as they were seen


class Walk(NamedTuple):
  """A run as pure functions."""

  state: Any
  step: Callable[[Any], Any]
  view: Callable[[Any], View]


class Seen(NamedTuple):
  """What was measured at a point of the budget; of all examples."""

  updates: jax.Array
  examples: jax.Array
  errors: jax.Array  # how many m_i ≤ 0
  loss: jax.Array  # the mean log-loss


MakeWalk = Callable[[logistic.Problem, jax.Array, jax.Array], Walk]
"""(all examples, γ, seed) → the walk."""


def on_batches(
  method: Callable[[jax.Array], logistic.Method], batch_size: int
) -> MakeWalk:
  """A method on random batches, which reads no other examples.

  The iterates are those of `logistic.sampled` with the same key, up to
  rounding; that one knows all margins at every step.

  The walk starts from 0; all examples of the problem must count once.
  """

  def make(problem, step_size, seed):
    n, made = len(problem.signs), method(step_size)

    def of(positions):
      return problem._replace(
        features=problem.features[positions],
        signs=problem.signs[positions],
        weights=problem.weights[positions],
      )

    def step(carried):
      state, last = carried
      now, following = jax.random.split(last)
      places = n * jax.random.uniform(now, [batch_size])
      batch = of(jnp.minimum(places.astype(jnp.int32), n - 1))
      margins = batch.signs * (batch.features @ state.params)
      return made.step(state._replace(margins=margins), batch), following

    def view(carried):
      state, _ = carried
      return View(state.params, state.count, state.count * batch_size)

    first = made.init(of(jnp.zeros([batch_size], jnp.int32)))
    return Walk((first, jax.random.key(seed)), step, view)

  return make


def on_all(method: Callable[[jax.Array], logistic.Method]) -> MakeWalk:
  """A method on all examples at every step; no seed changes it."""

  def make(problem, step_size, seed):
    del seed
    made, n = method(step_size), len(problem.signs)
    return Walk(
      made.init(problem),
      lambda state: made.step(state, problem),
      lambda state: View(state.params, state.count, state.count * n),
    )

  return make


def loss_fn(
  params: jax.Array, batch: dict[str, jax.Array]
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The mean log-loss of θ [d], and the mean residual that divides it."""
  logits = batch['features'] @ params
  losses = jax.nn.softplus(-adaopt.log_odds(logits, batch['signs']))
  residual = adaopt.mean_residual(logits, batch['signs'])
  return jnp.mean(losses), {'mean_residual': residual}


def adapting(
  optimizer: Callable[[float], optax.GradientTransformation],
  criterion: Callable[..., jax.Array],
  init_batch_size: int,
) -> MakeWalk:
  """An optimizer with a batch size that a criterion moves, up to all examples.

  The walk starts from 0, by `adaopt.train_step`.
  """

  def make(problem, step_size, seed):
    n, d = problem.features.shape
    chain = optax.chain(
      adaopt.adapt_batch_size(
        criterion, init_batch_size=init_batch_size, max_batch_size=n
      ),
      optimizer(step_size),
    )
    step = adaopt.train_step(
      loss_fn,
      chain,
      micro_batch_size=MICRO_BATCH_SIZE,
      has_aux=True,
      driver=training.traced,
    )
    dataset = {'features': problem.features, 'signs': problem.signs}
    state = adaopt.init_train_state(jnp.zeros(d), chain)
    return Walk(
      state._replace(seed=seed.astype(state.seed.dtype)),
      lambda state: step(state, dataset)[0],
      lambda state: View(state.params, state.step, state.examples),
    )

  return make


@jax.jit(static_argnums=0, static_argnames=('budget', 'checks', 'over'))
def trace(
  make: MakeWalk,
  problem: logistic.Problem,
  step_sizes: jax.Array,
  seeds: jax.Array,
  *,
  budget: int,
  checks: int,
  over: Callable[..., Any],
) -> Seen:
  """Runs a walk with every step size and seed to the end of a budget.

  Args:
    make: The walk.
    problem: All examples, each of weight 1.
    step_sizes: γ, [k].
    seeds: [s] int.
    budget: Examples to see; the last batch may exceed it.
    checks: How often to measure, at equal distances.
    over: `jax.vmap` for walks of the same length, `mapped` for others.

  Returns:
    The measurements, [k, s, checks + 1] each, θ_0 first.
  """
  targets = jnp.arange(checks + 1) * budget // checks

  def observe(view):
    margins = problem.signs * (problem.features @ view.params)
    return Seen(
      updates=view.updates,
      examples=view.examples,
      errors=jnp.sum(margins <= 0),
      loss=jnp.mean(jax.nn.softplus(-margins)),
    )

  def run(step_size, seed):
    walk = make(problem, step_size, seed)

    def advance(state, target):
      state = jax.lax.while_loop(
        lambda state: walk.view(state).examples < target, walk.step, state
      )
      return state, observe(walk.view(state))

    return jax.lax.scan(advance, walk.state, targets)[1]

  return over(lambda size: over(functools.partial(run, size))(seeds))(
    step_sizes
  )


def mapped(function: Callable[..., Any]) -> Callable[..., Any]:
  """`jax.vmap`, one call after the other."""
  return lambda x: jax.lax.map(function, x)
