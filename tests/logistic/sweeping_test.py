"""A sweep whose runs differ from single runs, or that pays for ended runs."""

import jax
import jax.numpy as jnp
import logistic_oracles as oracles
import numpy as np
import pytest
from jax.experimental import sparse
from methods_test import digits

from adaopt import logistic

HARD = np.array([[0.5, -1.0], [-0.5, -1.0]])
HARD_LABELS = np.array([1, -1])
# Equal iterations need the sums of a sweep in the order of a single run.
pytestmark = pytest.mark.usefixtures('optimised')
STEP_SIZES = np.array([1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0])


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


def hard(make, parameters, n=1000, max_steps=1000):
  """The hard set: one example of class +1 and n − 1 copies of class −1."""
  weights = np.array([1.0, n - 1.0])
  return logistic.sweep(
    make, parameters, HARD, HARD_LABELS, weights=weights, max_steps=max_steps
  )


def averaged(step_size):
  """A method whose memory is a state of another; larger steps are chaotic."""
  return logistic.averaged(logistic.adaptive_gd(step_size / 30))


def digits_runs(make, pair):
  """The runs on two digits, swept and one by one, at most 300 steps each."""
  features, labels = digits(*pair)
  data = {'features': features, 'labels': labels, 'max_steps': 300}
  found = jax.jit(lambda sizes: logistic.sweep(make, sizes, **data))
  alone = jax.jit(
    lambda sizes: jax.lax.map(
      lambda size: logistic.solve(make(size), **data), sizes
    )
  )
  return found(STEP_SIZES), alone(STEP_SIZES)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('make', 'pair'),
  [
    (logistic.lr_gd, (0, 1)),
    (logistic.normalized_lr_gd, (2, 7)),
    (averaged, (0, 1)),
  ],
)
def test_every_run_of_a_sweep_ends_where_it_would_alone(make, pair):
  found, alone = digits_runs(make, pair)
  np.testing.assert_array_equal(found.iterations, alone.iterations)
  np.testing.assert_array_equal(found.solved, alone.solved)
  # A thousand times what was seen: products of other shapes add otherwise.
  for name in ('params', 'best_params', 'best_margin'):
    expected = getattr(alone, name)
    np.testing.assert_allclose(
      getattr(found, name), expected, atol=1e-9 * np.max(np.abs(expected))
    )


@pytest.mark.slow
@pytest.mark.parametrize(
  'make', [logistic.lr_gd, logistic.normalized_lr_gd], ids=['lr_gd', 'nlr']
)
@pytest.mark.parametrize('pair', [(3, 9), (8, 9)])
def test_every_run_of_a_sweep_takes_the_iterations_it_takes_alone(make, pair):
  found, alone = digits_runs(make, pair)
  np.testing.assert_array_equal(found.iterations, alone.iterations)
  np.testing.assert_array_equal(found.solved, alone.solved)
  # LR+GD with γ = 1 and 3 takes longer.
  assert np.all(found.solved) == (make is logistic.normalized_lr_gd)


@pytest.mark.slow
def test_the_hard_set_takes_the_iterations_of_the_paper():
  found = hard(logistic.normalized_lr_gd, np.array([100.0, 10.0, 1.0, 0.1]))
  assert found.iterations.tolist() == [2, 2, 16, 157]


@pytest.mark.slow
@pytest.mark.parametrize('size', [1, 2, 3, 9])
def test_any_number_of_runs_in_any_order(size):
  rng = np.random.default_rng(size)
  sizes = rng.integers(2, 60, size).astype(float)
  found = hard(
    lambda scale: logistic.lr_gd(100 / scale), sizes, n=2, max_steps=100
  )
  rows = HARD_LABELS[:, None] * HARD
  expected = [
    oracles.first_solution(oracles.lr_gd(rows, 100, 100 / scale), rows)
    for scale in sizes
  ]
  assert found.iterations.tolist() == expected


@pytest.mark.slow
def test_runs_may_all_end_at_once_or_never():
  alike = hard(logistic.lr_gd, np.full(5, 100.0))
  assert alike.iterations.tolist() == [308] * 5
  short = hard(logistic.lr_gd, np.full(5, 100.0), max_steps=307)
  assert short.iterations.tolist() == [307] * 5
  assert not np.any(short.solved)


def test_a_run_too_long_says_so_and_others_are_solved():
  found = hard(
    logistic.normalized_lr_gd, np.array([0.1, 10.0, 1.0]), max_steps=16
  )
  assert found.iterations.tolist() == [16, 2, 16]
  assert found.solved.tolist() == [False, True, True]


def test_no_step_is_no_solution():
  found = hard(logistic.lr_gd, np.array([1.0, 2.0, 3.0]), max_steps=0)
  assert found.iterations.tolist() == [0] * 3
  assert not np.any(found.solved)
  assert np.all(found.best_margin == -np.inf)


def test_a_changed_number_of_steps_compiles_nothing():
  traces = []

  @jax.jit
  def run(max_steps):
    traces.append(max_steps)
    return hard(logistic.lr_gd, jnp.array([100.0, 1e5]), max_steps=max_steps)

  assert run(5).iterations.tolist() == [5, 5]
  assert run(400).iterations[0] == 308
  assert len(traces) == 1


def test_parameters_may_be_a_pytree():
  found = hard(
    lambda p: logistic.normalized_lr_gd(p['base'] * p['powers'][0]),
    {'base': np.full(4, 0.1), 'powers': (10.0 ** np.arange(3, -1, -1),)},
  )
  assert found.iterations.tolist() == [2, 2, 16, 157]


@pytest.mark.slow
def test_sparse_features():
  features = np.repeat(HARD, [1, 999], 0)
  labels = np.repeat(HARD_LABELS, [1, 999])
  found = jax.jit(
    lambda features: logistic.sweep(
      logistic.normalized_lr_gd,
      jnp.array([10.0, 1.0, 0.1]),
      features,
      labels,
      max_steps=1000,
    )
  )(sparse.BCOO.fromdense(jnp.asarray(features)))
  assert found.iterations.tolist() == [2, 16, 157]


def test_data_sets_go_one_after_another_through_one_program():
  sizes = np.array([2.0, 10.0, 1000.0])
  found = jax.jit(
    lambda sizes: jax.lax.map(
      lambda n: (
        logistic.sweep(
          logistic.lr_gd,
          jnp.array([100.0, 1e9]),
          HARD,
          HARD_LABELS,
          weights=jnp.array([1.0, 0]) + jnp.array([0, 1.0]) * (n - 1),
          max_steps=1000,
        ).iterations
      ),
      sizes,
    )
  )(sizes)
  assert found.shape == (3, 2)
  assert found[2, 0] == 308
  # As γ → ∞ it is the batch perceptron: the first k above (3n + 2) / 10.
  np.testing.assert_array_equal(found[:, 1], (3 * sizes + 2) // 10 + 1)


@pytest.mark.slow
def test_examples_may_be_sharded():
  features, labels = digits(0, 1)  # 360 examples
  mesh = jax.make_mesh((8,), ('examples',), (jax.sharding.AxisType.Auto,))
  rows = jax.NamedSharding(mesh, jax.P('examples'))
  found = jax.jit(
    lambda features, labels: logistic.sweep(
      logistic.normalized_lr_gd,
      jnp.array([0.1, 1.0, 10.0]),
      features,
      labels,
      max_steps=200,
    )
  )(jax.device_put(features, rows), jax.device_put(labels, rows))
  # The counts on one device.
  assert found.iterations.tolist() == [13, 9, 10]


@pytest.mark.slow
def test_ended_runs_take_fewer_steps_than_the_others():
  features, labels = digits(3, 9)
  steps = []

  def make(rate):
    inner = logistic.lr_gd(rate)

    def step(state, problem):
      jax.debug.callback(lambda _: steps.append(1), state.count)
      return inner.step(state, problem)

    return logistic.Method(inner.init, step)

  found = logistic.sweep(make, STEP_SIZES, features, labels, max_steps=10_000)
  jax.effects_barrier()
  needed = int(np.sum(found.iterations))
  # Side by side all seven would take the steps of the longest.
  assert 7 * np.max(found.iterations) > 3 * needed
  assert needed <= len(steps) < 2 * needed


@pytest.mark.slow
def test_memory_does_not_grow_with_examples_times_features_times_runs():
  n, d, runs = 256, 128, 32

  def sweep(features):
    return logistic.sweep(
      logistic.normalized_lr_gd,
      jnp.linspace(1.0, 2.0, runs, dtype=jnp.float32),
      features,
      jnp.arange(n) % 2,
      max_steps=10,
    )

  features = jax.ShapeDtypeStruct((n, d), jnp.float32)
  compiled = jax.jit(sweep).lower(features).compile()
  found = compiled.memory_analysis().temp_size_in_bytes
  # The columns, and a few times margins and params of every run.
  assert found < 4 * (n * d + 12 * runs * (n + d))


@pytest.mark.parametrize(
  'parameters', [1.0, np.zeros(0), (np.ones(2), np.ones(3)), ()]
)
def test_parameters_without_one_leading_axis_are_refused(parameters):
  with pytest.raises(ValueError, match='arrays with the same leading axis'):
    hard(lambda _: logistic.lr_gd(1.0), parameters)


def test_a_bad_number_of_steps_is_refused():
  with pytest.raises(ValueError, match='max_steps must be an integer'):
    hard(logistic.lr_gd, np.ones(2), max_steps=1.5)


def test_a_step_size_that_is_not_positive_is_refused():
  with pytest.raises(ValueError, match='step_size must be positive'):
    hard(logistic.lr_gd, np.array([1.0, 0.0]))


def test_step_sizes_wider_than_the_features_are_of_their_type():
  features = jnp.asarray([[3, 4], [-3, 4], [0, -9]], jnp.float32)
  found = logistic.sweep(
    logistic.lr_gd, np.array([0.5, 4.0]), features, [1, 1, -1], max_steps=20
  )
  assert found.params.dtype == jnp.float32
  assert found.solved.all()
