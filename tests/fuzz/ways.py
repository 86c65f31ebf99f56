"""The ways to reductions of per-example gradients, each beside `vmap(grad)`.

Each is (program, losses, rows) → comparisons.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

import adaopt
from adaopt import training
from adaopt.per_example import factorisation, reductions
from adaopt.per_example.rules import choice
from adaopt.statistics import reading
from tests import oracles
from tests.fuzz import reference
from tests.statistics import recording

ONLY = (reading.NOISE, *((name,) for name in reading.NOISE), ())


class Comparison(NamedTuple):
  """A figure of adaopt's beside that of `vmap(grad)`."""

  name: str
  found: Any
  expected: Any
  error: Any  # that is allowed


def _random(program):
  return np.random.default_rng([program.seed, 1])


def _directions(program, losses):
  rng = _random(program)
  return {
    name: jnp.asarray(rng.normal(size=p.shape), p.dtype)
    for name, p in losses.params.items()
  }


def _products(rows, directions):
  """⟨∇a_i, u⟩ of every example, and its error."""
  u = np.concatenate(
    [np.ravel(np.asarray(u, np.float64)) for u in jax.tree.leaves(directions)]
  )
  return reference.flat(rows.gradients) @ u, rows.error * np.linalg.norm(u)


def of_reductions(program, losses, rows) -> Iterator[Comparison]:
  """What the rules make of the factors, by both of their orders."""
  count = len(rows.totals)
  rng = _random(program)
  weights = rng.uniform(size=count) * (np.arange(count) != 1)
  coefficients = rng.normal(size=count)
  directions = _directions(program, losses)
  dtype = jnp.promote_types(program.compute, jnp.float32)

  def reduce(params, batch, weights, directions, preference):
    factored = factorisation.factorise(
      losses.of_one,
      params,
      batch,
      weights,
      preference=preference,
      weigh=lambda _: (jnp.asarray(coefficients), jnp.asarray(2.0)),
      direction=directions,
    )
    sums = reductions.sums(factored)
    products = reductions.products(factored, directions)
    return factored.values, factored.aux, sums, products

  both = jax.jit(
    lambda *args: [
      reduce(*args, preference)
      for preference in (choice.NORMS_FIRST, choice.SQUARES_FIRST)
    ]
  )
  found = jax.device_get(
    both(losses.params, losses.batch, weights.astype(dtype), directions)
  )
  products, product_error = _products(rows, directions)
  size = max(np.linalg.norm(reference.flat(rows.gradients), axis=1))
  square_error = 2 * size * rows.error + rows.error**2
  for order, (values, aux, sums, along) in zip(
    ('norms first', 'squares first'), found, strict=True
  ):
    expected = weights * rows.totals
    yield Comparison(f'{order}: values', values, expected, rows.total_error)
    yield Comparison(f'{order}: aux', aux, rows.weights, 0)
    expected = weights * products
    yield Comparison(f'{order}: products', along, expected, product_error)
    for name, gradient in rows.gradients.items():
      g = gradient * weights.reshape(-1, *[1] * (gradient.ndim - 1))
      squares = np.square(g)
      most = np.sum(np.abs(coefficients))
      for which, total, error in (
        ('total', g.sum(0) / 2, count * rows.error),
        ('weighted', np.tensordot(coefficients, g, 1), most * rows.error),
        ('norms', squares.reshape(count, -1).sum(1), square_error),
        ('squares', squares.sum(0), count * square_error),
      ):
        given = getattr(sums, which)[name]
        yield Comparison(f'{order}: {which} {name}', given, total, error)


def _compared(program, rows, counted, found) -> Iterator[Comparison]:
  """Statistics of adaopt, those that are there, and the reference."""
  exact, errors = reference.statistics_of(program, rows, counted)
  for name, expected in exact._asdict().items():
    given = found.get(name)
    if given is not None:
      given = oracles.ravel(given) if jax.tree.leaves(given) else given
      given = given.reshape(np.shape(expected))
      yield Comparison(name, given, expected, getattr(errors, name))


def of_statistics(program, losses, rows) -> Iterator[Comparison]:
  """`value_and_statistics`, with a mask or without."""
  rng, q = _random(program), program.group_size
  counted = np.ones(program.samples, bool)
  mask = None
  if rng.random() < 0.5:
    counted[2:] = rng.random(program.samples - 2) < 0.5
    mask = jnp.asarray(np.repeat(counted, q))
  only = ONLY[rng.integers(len(ONLY))]
  estimate = adaopt.value_and_statistics(
    losses.of_batch, group_size=q, only=only
  )
  value, found = jax.device_get(
    jax.jit(estimate)(losses.params, losses.batch, mask=mask)
  )
  found = found._asdict() | {'value': value}
  yield from _compared(program, rows, counted, found)


def of_many_params(program, losses, rows) -> Iterator[Comparison]:
  """Under `vmap` over parameters."""
  estimate = adaopt.value_and_statistics(
    losses.of_batch, group_size=program.group_size
  )
  stacked = jax.tree.map(lambda p: jnp.stack([p / 2, p]), losses.params)
  found = jax.jit(jax.vmap(estimate, (0, None)))(stacked, losses.batch)
  value, found = jax.tree.map(lambda x: np.asarray(x[1]), found)
  found = found._asdict() | {'value': value}
  counted = np.ones(program.samples, bool)
  yield from _compared(program, rows, counted, found)


def of_devices(program, losses, rows) -> Iterator[Comparison]:
  """Two devices, half of the examples each."""
  estimate = adaopt.value_and_statistics(
    losses.of_batch, group_size=program.group_size, axis_name='data'
  )
  mesh = jax.make_mesh(
    (2,), ('data',), axis_types=(jax.sharding.AxisType.Auto,)
  )
  mapped = jax.shard_map(
    estimate, mesh=mesh, in_specs=(P(), P('data')), out_specs=P()
  )
  value, found = jax.device_get(jax.jit(mapped)(losses.params, losses.batch))
  found = found._asdict() | {'value': value}
  counted = np.ones(program.samples, bool)
  yield from _compared(program, rows, counted, found)


def of_estimates(program, losses, rows) -> Iterator[Comparison]:
  """The functions of `per_example`."""
  directions = _directions(program, losses)
  norms_of = adaopt.per_example.squared_norms(losses.of_batch)
  moment_of = adaopt.per_example.second_moment(losses.of_batch)
  products_of = adaopt.per_example.inner_products(losses.of_batch)

  @jax.jit
  def estimate(params, batch, directions):
    return (
      *norms_of(params, batch),
      moment_of(params, batch),
      products_of(params, batch, directions),
    )

  value, mean, norms, moment, along = jax.device_get(
    estimate(losses.params, losses.batch, directions)
  )
  count = len(rows.totals)
  share = 1.0
  if program.mean != 'examples':
    share = count / rows.weights.sum()
  g = share * reference.flat(rows.gradients)
  error = share * rows.error
  square_error = 2 * max(np.linalg.norm(g, axis=1)) * error + error**2
  products, product_error = _products(rows, directions)
  expected = share * rows.totals.mean()
  yield Comparison('value', value, expected, share * rows.total_error)
  yield Comparison('mean', oracles.ravel(mean), g.mean(0), error)
  yield Comparison('norms', norms, np.square(g).sum(1), square_error)
  expected = np.square(g).mean(0)
  yield Comparison('moment', oracles.ravel(moment), expected, square_error)
  yield Comparison('products', along, share * products, share * product_error)


def of_sums(program, losses, rows) -> Iterator[Comparison]:
  """Sums with weights of one's own, some of them 0, and clipped by tensor."""
  rng = _random(program)
  count = len(rows.totals)
  own = np.where(
    rows.weights == 0, 0, 1 / np.where(rows.weights, rows.weights, 1)
  )
  if program.mean == 'examples':
    own = np.ones(count)
  shares = rng.normal(size=count) * (np.arange(count) != 1)
  g = {
    name: own.reshape(-1, *[1] * (gradient.ndim - 1)) * gradient
    for name, gradient in rows.gradients.items()
  }
  lengths = {
    name: np.linalg.norm(x.reshape(count, -1), axis=1) for name, x in g.items()
  }
  # Above 0: a tensor may have no gradient at all.
  bounds = {name: float(np.median(x)) + 1e-3 for name, x in lengths.items()}
  weighted_sum = adaopt.per_example.weighted_sum(losses.of_batch)
  clipped_sum = adaopt.per_example.clipped_sum(losses.of_batch, bounds)

  @jax.jit
  def both(params, batch, shares):
    return weighted_sum(params, batch, shares)[1], clipped_sum(params, batch)

  weighted, (_, clipped, norms) = jax.device_get(
    both(losses.params, losses.batch, np.float32(shares))
  )
  error = np.max(own) * rows.error
  for name, x in g.items():
    expected = np.tensordot(np.float32(shares), x, 1)
    most = np.sum(np.abs(shares)) * error
    yield Comparison(f'weighted {name}', weighted[name], expected, most)
    yield Comparison(f'norms {name}', norms[name], lengths[name], error)
    bound = bounds[name]
    scales = np.minimum(1, bound / np.maximum(lengths[name], bound / 2))
    expected = np.tensordot(scales, x, 1)
    # A clipped gradient moves by no more than the gradient.
    yield Comparison(f'clipped {name}', clipped[name], expected, count * error)


def _in_order(dataset, seed, positions):
  del seed
  return jax.tree.map(lambda x: x[positions], dataset)


def of_steps(program, losses, rows) -> Iterator[Comparison]:
  """`train_step`, which merges micro-batches of two samples."""
  size = program.samples * program.group_size
  optimizer = recording.optimizer(size)
  driver = (training.traced, training.dispatched)[program.seed % 2]
  step = adaopt.train_step(
    losses.of_batch,
    optimizer,
    micro_batch_size=2 * program.group_size,
    group_size=program.group_size,
    draw=_in_order,
    driver=driver,
  )
  state = adaopt.init_train_state(losses.params, optimizer, seed=0)
  state, _ = step(state, losses.batch)
  found = recording.last(state.opt_state)
  counted = np.ones(program.samples, bool)
  yield from _compared(program, rows, counted, found._asdict())


def of_the_check(program, losses, rows) -> Iterator[Comparison]:
  """Examples are independent, which is not to be denied."""
  adaopt.check_independent_examples(
    losses.of_batch, losses.params, losses.batch
  )
  gradient = jax.jit(jax.grad(_whole(losses)))(losses.params, losses.batch)
  exact, errors = reference.statistics_of(
    program._replace(group_size=1), rows, np.ones(len(rows.totals), bool)
  )
  found = oracles.ravel(jax.device_get(gradient))
  yield Comparison('gradient', found, exact.mean, errors.mean)


def _whole(losses):
  """The loss of a batch, as `jax.grad` takes it."""

  def whole(params, batch):
    loss = losses.of_batch(params, batch)
    if isinstance(loss, adaopt.WeightedLoss):
      return loss.total / loss.weight.astype(loss.total.dtype)
    return loss

  return whole


WAYS = {
  'reductions': of_reductions,
  'statistics': of_statistics,
  'estimates': of_estimates,
  'sums': of_sums,
  'steps': of_steps,
  'many params': of_many_params,
  'devices': of_devices,
  'check': of_the_check,
}
