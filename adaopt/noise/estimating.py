"""The instrument: a transform that measures noise and leaves updates alone.

Noise and signal are averaged apart and divided last. Both, and how they vary
from step to step, are kept in averages whose weights count examples, moved in
the manner of Welford so that nothing cancels in float32.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from adaopt._common import arithmetic, checks, fields, passing
from adaopt.criteria import selecting


class NoiseScaleState(NamedTuple):
  """State of `noise_scale`.

  Rows are all tensors together and then every tensor, in the order of their
  tree; columns are x = (v, ‖∇F‖²). The weights w of the steps add up to 1.
  """

  measured: jax.Array  # [] int32, examples measured so far
  last_measured: jax.Array  # [] int32, of them in the last step measured
  weight: jax.Array  # [] float32 or wider, 1 − 2^(−examples / half_life)
  concentration: jax.Array  # [] likewise, Σ w²: 1 over the effective steps
  mean: jax.Array  # [1 + T, 2] likewise, Σ w x
  drift: jax.Array  # [1 + T, 2] likewise, Σ w² (x − mean)
  spread: jax.Array  # [1 + T, 2, 2] likewise, Σ w² (x − mean) (x − mean)ᵀ


def noise_scale(
  *, half_life: jax.typing.ArrayLike
) -> optax.GradientTransformationExtraArgs:
  r"""Measures the gradient noise scale; leaves updates as they are.

  With ⟨·⟩ moving averages over steps, in total and of every tensor,

    B = ⟨v⟩ / ⟨‖ḡ‖² − v / b⟩,

  in which E(‖ḡ‖² − v / b) = ‖∇F‖². A step of b examples enters with the weight
  1 − 2^(−b / half_life), and what came before with 2^(−b / half_life); divided
  by their sum, so that the first step counts fully.

  It goes anywhere in a chain, or beside an optimizer that is not to be touched:
  `_, state = instrument.update(gradient, state, statistics=statistics)`. Within
  `optax.masked` it measures the tensors of the mask. A step with
  statistics=None, or with statistics that are not finite, is not measured.

  The statistics are those of `value_and_statistics`, or of plain gradients, see
  `noise`. Batches are taken to be independent draws: where they are parts of a
  shuffled set of n examples the signal is that of the distribution behind it,
  v / n below that of the set.

  Args:
    half_life: The number of examples after which a measurement counts half.

  Returns:
    A transform whose update requires `statistics=`. `noise_report` and
    `noise_estimates` read its state.

  Raises:
    ValueError: If half_life is not positive and finite; from update without
      statistics, or for such that hold no variance or are of other tensors.

  Example:
    >>> import adaopt
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import optax
    >>> def loss_fn(params, batch):
    ...   return jnp.mean(jnp.sum((params[None] - batch) ** 2, -1)) / 2
    >>> estimate = adaopt.value_and_statistics(loss_fn)
    >>> optimizer = optax.chain(
    ...   adaopt.noise_scale(half_life=2000), optax.sgd(0.0))
    >>> params = jnp.array([3.0, 4.0])
    >>> @jax.jit
    ... def step(state, batch):  # ∇F = params, and v = 100: B = 100 / 25
    ...   _, statistics = estimate(params, batch)
    ...   return optimizer.update(
    ...     statistics.mean, state, params, statistics=statistics)[1]
    >>> state = optimizer.init(params)
    >>> noise = jax.random.normal(jax.random.key(0), [200, 16, 2])
    >>> for batch in 50 ** 0.5 * noise:
    ...   state = step(state, batch)
    >>> report = adaopt.noise_report(state, params)
    >>> print(f'{report.total.noise_scale:.1f} ± '
    ...       f'{report.total.standard_error:.1f}')
    4.4 ± 0.3

  References:
    McCandlish et al., `An Empirical Model of Large-Batch Training
    <https://arxiv.org/abs/1812.06162>`_, 2018
  """
  checks.check_positive(half_life=half_life)

  def init_fn(params):
    rows = 1 + len(jax.tree.leaves(params))
    zeros = lambda *shape: jnp.zeros(shape, jnp.result_type(float))
    count = jnp.zeros([], jnp.int32)
    return NoiseScaleState(
      measured=count,
      last_measured=count,
      weight=zeros(),
      concentration=zeros(),
      mean=zeros(rows, 2),
      drift=zeros(rows, 2),
      spread=zeros(rows, 2, 2),
    )

  def update_fn(updates, state, params=None, **extra_args):
    del params
    statistics = passing.statistics_in(extra_args, 'noise_scale')
    if statistics is None:
      return updates, state
    x = _noise_and_signal(statistics, updates, state)
    moved = _moved(state, x, statistics.batch_size, half_life)
    finite = arithmetic.all_finite((x, moved)) & (statistics.batch_size > 0)
    return updates, optax.tree.where(finite, moved, state)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _noise_and_signal(statistics, updates, state):
  """(v, ‖ḡ‖² − v / b) in total and of every tensor. [1 + T, 2]."""
  variance = statistics.variance
  if variance is None:
    variance = statistics.coordinate_variance
  if variance is None:
    raise ValueError(
      'noise_scale needs statistics.variance, which is None; '
      'value_and_statistics computes it unless only= leaves it out, and '
      'statistics=None leaves a step out.'
    )
  dtype = state.mean.dtype
  of = lambda reduce, tree: jnp.array(
    [
      reduce(x).astype(dtype)
      for x in jax.tree.leaves(selecting.beside(updates, tree, 'noise_scale'))
    ],
    dtype,
  )
  v = of(jnp.sum, variance)
  m = of(arithmetic.squared_norm, statistics.mean)
  if len(v) + 1 != len(state.mean):
    raise ValueError(
      f'noise_scale got statistics of {len(v)} tensors, and its state is of '
      f'{len(state.mean) - 1}; pass those of the parameters given to init.'
    )
  signal = m - arithmetic.divide(v, statistics.batch_size)
  x = jnp.stack([v, signal], axis=1)
  return jnp.concatenate([jnp.sum(x, 0, keepdims=True), x])


def _moved(state, x, batch_size, half_life):
  r"""The state after a step of b examples.

  With the weights 1 − a of the past and a of the step, and s = a (x − mean),
  mean' = mean + s, and about it

    drift' = (1 − a)² (drift − c s) + a² (x − mean'),
    spread' = (1 − a)² (spread − drift sᵀ − s driftᵀ + c s sᵀ)
      + a² (x − mean') (x − mean')ᵀ,  c' = (1 − a)² c + a².
  """
  dtype = state.mean.dtype
  b = jnp.asarray(batch_size, dtype)
  halvings = b / jnp.asarray(half_life, dtype)
  entering = -jnp.expm1(-jnp.log(jnp.asarray(2, dtype)) * halvings)
  weight = state.weight + entering * (1 - state.weight)
  share = entering / jnp.where(weight > 0, weight, 1)
  kept = jnp.square(1 - share)
  added = jnp.square(share)
  step = share * (x - state.mean)
  mean = state.mean + step
  rest = x - mean
  c = state.concentration
  crossed = _outer(state.drift, step)
  past = state.spread - crossed - jnp.swapaxes(crossed, 1, 2)
  spread = kept * (past + c * _outer(step, step)) + added * _outer(rest, rest)
  return NoiseScaleState(
    measured=arithmetic.saturating_add(state.measured, batch_size),
    last_measured=arithmetic.saturating_int(batch_size),
    weight=weight,
    concentration=kept * c + added,
    mean=mean,
    drift=kept * (state.drift - c * step) + added * rest,
    spread=spread,
  )


def _outer(x, y):
  return x[:, :, None] * y[:, None, :]


def state_in(opt_state: Any) -> NoiseScaleState:
  """The state of the one `noise_scale` in an optimizer's state.

  Args:
    opt_state: Of `noise_scale`, or of whatever holds it.

  Returns:
    Its state, as arrays.

  Raises:
    ValueError: If there is not exactly one.
  """
  found = fields.states_of(opt_state, NoiseScaleState)
  if len(found) != 1:
    raise ValueError(
      f'found the states of {len(found)} noise_scale(...) instead of one; '
      'chain one with the optimizer, or pass the state of one.'
    )
  return NoiseScaleState(*map(jnp.asarray, found[0]))
