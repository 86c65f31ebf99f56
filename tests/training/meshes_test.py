"""A state on a mesh is enough: its devices share every micro-batch out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import adaopt
from adaopt.experiments.benchmarks import collectives
from adaopt.training import drivers, meshes
from tests.training import sharding_test

WIDTH, MICRO_BATCH = 32, 16
X = np.random.default_rng(0).normal(size=(96, WIDTH)).astype(np.float32)
PARAMS = {
  'up': jax.random.normal(jax.random.key(0), [WIDTH, 2 * WIDTH]) / 6,
  'down': jax.random.normal(jax.random.key(1), [2 * WIDTH, WIDTH]) / 8,
}


def adapted_by(criterion, test_interval):
  return adaopt.adadagrad(
    0.1,
    criterion,
    init_batch_size=12,
    max_batch_size=128,
    test_interval=test_interval,
  )


OPTIMIZER = adapted_by(adaopt.norm_test(0.5), 1)


def loss_fn(params, x):
  return jnp.mean((jnp.tanh(x @ params['up']) @ params['down'] - x) ** 2)


def constrained_loss_fn(params, x):
  x = jax.lax.with_sharding_constraint(
    x, NamedSharding(mesh_of((8,), ('data',)), P('data'))
  )
  return loss_fn(params, x)


def mesh_of(shape, names):
  return jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(names))


def place(tree, mesh, spec_of=lambda x: P()):
  return jax.tree.map(
    lambda x: jax.device_put(x, NamedSharding(mesh, spec_of(x))), tree
  )


def matrices(spec):
  """The spec of matrices; all else is whole on every device."""
  return lambda x: spec if np.ndim(x) == 2 else P()


def new_state():
  return adaopt.init_train_state(PARAMS, OPTIMIZER)


def run(state, dataset, loss_fn=loss_fn, steps=8):
  step = adaopt.train_step(loss_fn, OPTIMIZER, micro_batch_size=MICRO_BATCH)
  sizes = []
  for _ in range(steps):
    state, metrics = step(state, dataset)
    sizes.append(int(metrics.batch_size))
  return jax.device_get(state), sizes


@pytest.fixture(scope='module')
def alone():
  return run(new_state(), X)


DATA = (8,), ('data',)
PLACES = {
  'whole on every device': (DATA, P(), P(), loss_fn),
  'fully sharded': (DATA, P('data'), P(), loss_fn),
  'a dataset in parts': (DATA, P(), P('data'), loss_fn),
  'tensors in parts': (((2, 4), ('data', 'model')), P('model'), P(), loss_fn),
  'with a constraint': (DATA, P(), P(), constrained_loss_fn),
}


@pytest.mark.slow
@pytest.mark.parametrize('where', PLACES)
def test_a_run_is_that_of_one_device(where, alone):
  axes, of_state, of_data, loss_fn = PLACES[where]
  mesh = mesh_of(*axes)
  state = place(new_state(), mesh, matrices(of_state))
  state, sizes = run(state, place(X, mesh, matrices(of_data)), loss_fn)
  expected, expected_sizes = alone
  assert sizes == expected_sizes
  assert (
    max(sizes) > 4 * MICRO_BATCH
  )  # Several micro-batches, the last in part.
  # The same sums in another order, over eight steps.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, 2e-4, 2e-5), state, expected
  )


@pytest.mark.slow
def test_fit_shares_out_numpy_data_beside_a_state_on_a_mesh(alone):
  expected, sizes = alone
  state = place(new_state(), mesh_of(*DATA))
  budget = int(expected.examples)
  *_, (state, _) = adaopt.fit(
    loss_fn,
    OPTIMIZER,
    state,
    X,
    num_examples=budget,
    max_micro_batch_size=MICRO_BATCH,
  )
  assert int(state.step) == len(sizes)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, 2e-4, 2e-5),
    jax.device_get(state.params),
    expected.params,
  )


def in_loops(compiled):
  found = collectives.collectives(compiled.as_text())
  return [each for each in found if each.in_loop]


def lowered(driver, optimizer, place=lambda tree: tree):
  step = adaopt.train_step(
    loss_fn, optimizer, micro_batch_size=MICRO_BATCH, driver=driver
  )
  state = adaopt.init_train_state(PARAMS, optimizer)
  return step.lower(*place((state, X))).compile()


@pytest.mark.slow
def test_devices_meet_once_a_step_and_share_the_work():
  mesh = mesh_of(*DATA)
  # It takes a second pass, and where no test is due none.
  optimizer = adapted_by(adaopt.augmented_inner_product_test(0.5, nu=0.5), 2)
  driver = drivers.apart(meshes.sharing_of(mesh, new_state()))
  shared = lowered(driver, optimizer, lambda tree: place(tree, mesh))
  assert 'while(' in shared.as_text()
  assert not in_loops(shared)
  # One gradient with a test and one without, and what else is summed.
  size = sum(leaf.size for leaf in jax.tree.leaves(PARAMS))
  found = collectives.collectives(shared.as_text())
  sharding_test.check_all_reduces(found, 2 * (size + 12))
  flops = lambda compiled: compiled.cost_analysis()['flops']
  update = 40 * size  # which every device makes
  assert flops(shared) <= flops(lowered(drivers.traced, optimizer)) / 8 + update


def test_a_collective_in_a_loop_is_found():
  mesh = mesh_of(*DATA)
  together = meshes.together(meshes.sharing_of(mesh, new_state()))
  driver = lambda parts: drivers.traced(parts.changed(together))
  assert in_loops(lowered(driver, OPTIMIZER, lambda tree: place(tree, mesh)))


@pytest.mark.parametrize(
  ('size', 'group', 'part'), [(16, 1, 2), (10, 1, 2), (4, 2, 2), (48, 3, 6)]
)
def test_a_micro_batch_is_made_of_equal_parts_of_whole_groups(
  size, group, part
):
  sharing = meshes.sharing_of(mesh_of(*DATA), new_state())
  recipe = adaopt.training.recipes.recipe_of(
    loss_fn,
    OPTIMIZER,
    micro_batch_size=size,
    group_size=group,
    has_aux=False,
    draw=adaopt.draw,
  )
  assert meshes.apart(sharing)(recipe).micro_batch_size == part
  assert meshes.together(sharing)(recipe).micro_batch_size == 8 * part
