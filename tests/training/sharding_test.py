"""Examples sharded over eight devices: same numbers, all-reduces alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import adaopt
from adaopt.experiments.benchmarks import collectives
from adaopt.training import drivers
from tests import per_example_cases

AUTO = jax.sharding.AxisType.Auto
LAYERS = 'scan over layers, remat'
MODELS = [
  'dense',
  'dense on short sequences',
  'dense on long sequences',
  'conv few positions',
  'conv depthwise',
  'conv transposed',
  'attention',
  'lstm',
  LAYERS,
  'embed',
  'embed few',
  'tied embeddings',
  'group norm',
]


@functools.cache
def shardings():
  mesh = jax.make_mesh((8,), ('examples',), axis_types=(AUTO,))
  return (
    NamedSharding(mesh, PartitionSpec()),
    NamedSharding(mesh, PartitionSpec('examples')),
  )


def case(name):
  """A loss, its parameters and sixteen examples."""
  apply, params, x = per_example_cases.CASES[name]()
  x = np.concatenate([x, x, x, x])
  if x.dtype == np.float32:
    x += 0.1 * np.arange(16, dtype=x.dtype).reshape(-1, *[1] * (x.ndim - 1))
  one = lambda params, x: per_example_cases.loss_of(apply)(params, x)[0]
  loss = lambda params, x: jnp.mean(jax.vmap(one, (None, 0))(params, x))
  return loss, params, x


def check_all_reduces(found, most):
  assert {each.kind for each in found} == {'all-reduce'}
  assert sum(each.elements for each in found) <= most


def check(estimate, params, x, most, in_loops=()):
  expected = jax.jit(estimate)(params, x)
  replicated, sharded = shardings()
  args = jax.device_put(params, replicated), jax.device_put(x, sharded)
  compiled = jax.jit(estimate).lower(*args).compile()
  found = collectives.collectives(compiled.as_text())
  # None in a loop body, where it would run once an iteration.
  assert [each for each in found if each.in_loop] == list(in_loops)
  check_all_reduces(found, most)
  actual, expected = jax.device_get((compiled(*args), expected))
  leaves = zip(*map(jax.tree.leaves, (actual, expected)), strict=True)
  whole = max(np.max(np.abs(leaf)) for leaf in jax.tree.leaves(expected))
  for actual, value in leaves:
    # Sums of sixteen examples in another order, some of which cancel.
    np.testing.assert_allclose(actual, value, 1e-5, 1e-6 * whole)


@pytest.mark.slow
@pytest.mark.parametrize('name', MODELS)
def test_statistics_of_sharded_examples(name):
  loss, params, x = case(name)
  size = sum(leaf.size for leaf in jax.tree.leaves(params))
  scalars = 3 * (len(jax.tree.leaves(params)) + 2)
  only = ('variance', 'variance_along_mean')
  estimate = adaopt.value_and_statistics(loss, only=only)
  # A scan over layers reduces the gradient of each, as that of JAX does.
  in_loops = in_loops_of_plain(loss, params, x) if name == LAYERS else ()
  check(estimate, params, x, size + scalars, in_loops)


def in_loops_of_plain(loss, params, x):
  """The collectives in the loops of a plain gradient."""
  replicated, sharded = shardings()
  args = jax.device_put(params, replicated), jax.device_put(x, sharded)
  compiled = jax.jit(jax.value_and_grad(loss)).lower(*args).compile()
  found = collectives.collectives(compiled.as_text())
  found = [each for each in found if each.in_loop]
  assert found
  return found


@pytest.mark.slow
@pytest.mark.parametrize('name', ['dense', 'conv few positions', 'embed'])
def test_every_statistic_of_sharded_examples(name):
  loss, params, x = case(name)
  size = sum(leaf.size for leaf in jax.tree.leaves(params))
  scalars = 3 * (len(jax.tree.leaves(params)) + 2)
  squares = sum(
    min(leaf.shape) ** 2 for leaf in jax.tree.leaves(params) if leaf.ndim == 2
  )
  # Sums of gradients and of their squares, by coordinate and of matrices.
  most = 2 * size + squares + scalars
  check(adaopt.value_and_statistics(loss), params, x, most)


@pytest.mark.parametrize('name', ['dense', 'conv few positions', 'embed'])
def test_second_moments_of_sharded_examples(name):
  loss, params, x = case(name)
  size = sum(leaf.size for leaf in jax.tree.leaves(params))
  estimate = adaopt.per_example.second_moment(loss)
  check(estimate, params, x, size)


def test_on_an_explicit_mesh_within_auto_axes():
  explicit = jax.sharding.AxisType.Explicit
  mesh = jax.make_mesh((8,), ('examples',), axis_types=(explicit,))
  loss, params, x = case('dense on long sequences')
  estimate = adaopt.value_and_statistics(loss)
  expected = jax.jit(estimate)(params, x)
  with jax.set_mesh(mesh):
    x = jax.device_put(x, NamedSharding(mesh, PartitionSpec('examples')))
    sharded = jax.sharding.auto_axes(estimate, out_sharding=PartitionSpec())
    actual = jax.jit(sharded)(params, x)
  for a, b in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
    np.testing.assert_allclose(a, b, 1e-5, 1e-7)


def draw_sharded(dataset, seed, positions):
  batch = adaopt.draw(dataset, seed, positions)
  return jax.lax.with_sharding_constraint(batch, shardings()[1])


def adapted_by(criterion):
  return adaopt.adadagrad(
    0.1,
    criterion,
    init_batch_size=12,
    max_batch_size=64,
    test_interval=2,
  )


@pytest.mark.slow
@pytest.mark.parametrize('name', ['dense', 'conv few positions', 'embed'])
def test_a_step_adds_up_gradients_and_scalars_alone_between_devices(name):
  loss, params, x = case(name)
  optimizer = adapted_by(adaopt.augmented_inner_product_test(0.5, nu=0.5))
  step = adaopt.train_step(
    loss,
    optimizer,
    micro_batch_size=8,
    draw=draw_sharded,
    driver=drivers.traced,
  )
  state = adaopt.init_train_state(params, optimizer)
  args = jax.device_put((state, x), shardings()[0])
  found = collectives.collectives(step.lower(*args).compile().as_text())
  # One gradient with a test and one without, and what else is summed, and
  # whether all have found their examples.
  leaves = jax.tree.leaves(params)
  most = 2 * (sum(leaf.size for leaf in leaves) + len(leaves) + 4 + 1)
  check_all_reduces(found, most)


@pytest.mark.slow
def test_training_with_sharded_micro_batches():
  loss, params, x = case('dense on long sequences')
  optimizer = adapted_by(adaopt.norm_test(0.5))

  def train(draw, place):
    step = adaopt.train_step(loss, optimizer, micro_batch_size=8, draw=draw)
    state = adaopt.init_train_state(jax.tree.map(jnp.copy, params), optimizer)
    state, dataset = place((state, x))
    for _ in range(5):
      state, metrics = step(state, dataset)
    return state.params, metrics

  actual = train(
    draw_sharded, lambda tree: jax.device_put(tree, shardings()[0])
  )
  expected = train(adaopt.draw, lambda tree: tree)
  for a, b in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
    np.testing.assert_allclose(a, b, 1e-4, 1e-6)
