"""If these fail, a run is steered by compilation, padding or a busy machine."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

import adaopt
from adaopt import criteria
from adaopt._common import fields
from adaopt.experiments import compilations
from adaopt.training import loops, timing

M = 64
X = np.random.default_rng(0).normal(size=(512, 3)).astype(np.float32)


def loss_fn(params, batch):
  return jnp.mean((batch @ params - 1.0) ** 2)


@pytest.mark.parametrize(
  ('seconds', 'expected'),
  [
    ({16: [2.0], 64: [5.0], 256: [17.0]}, (1.0, 1 / 16)),
    # Two of five steps were disturbed.
    ({16: [2.0, 9.0, 2.0, 2.0, 60.0], 64: [5.0, 5.0, 0.1]}, (1.0, 1 / 16)),
    ({64: [3.0, 4.0, 5.0]}, (4.0, 0.0)),
    # A line that would fall, and one that would start below 0.
    (
      {16: [4.0], 64: [4.0], 256: [2.0]},
      ((2 / 4 + 1 / 2) / (2 / 16 + 1 / 4), 0.0),
    ),
    ({1: [1.0], 2: [3.0]}, (0.0, (1 + 2 / 3) / (1 + 4 / 9))),
  ],
  ids=['line', 'outliers', 'one size', 'falling', 'below 0'],
)
def test_the_line_through_measured_seconds(seconds, expected):
  # Rounding of 1/t and a least-squares solution, in float64.
  np.testing.assert_allclose(timing.affine(seconds), expected, rtol=1e-5)


@settings(max_examples=100, deadline=None, database=None, derandomize=True)
@given(
  st.dictionaries(
    st.integers(1, 10_000),
    st.lists(st.floats(1e-4, 10.0), min_size=1, max_size=5),
    min_size=2,
    max_size=6,
  )
)
def test_the_line_is_that_of_non_negative_least_squares(seconds):
  medians = np.array([np.median(s) for s in seconds.values()])
  weights = np.sqrt([len(s) for s in seconds.values()])
  columns = np.stack([np.ones(len(medians)), [*seconds]])
  matrix = (columns / medians * weights).T
  _, least = optimize.nnls(matrix, weights)
  line = np.array(timing.affine(seconds))
  assert np.all(line >= 0)
  # The least is attained: near 0 up to the rounding of residuals of order 1.
  assert np.linalg.norm(matrix @ line - weights) <= least + 1e-6


class Clock:
  """A clock that a test moves on."""

  now = 0.0

  def __call__(self):
    return self.now


@pytest.fixture
def clock(monkeypatch):
  clock = Clock()
  monkeypatch.setattr(timing, 'clock', clock)
  return clock


def optimizer_of(criterion, policy=adaopt.follow, init_batch_size=4):
  return adaopt.adaptive(
    optimizer=adaopt.adagrad_norm(1.0),
    learning_rate=0.01,
    criterion=criterion,
    init_batch_size=init_batch_size,
    max_batch_size=4096,
    policy=policy,
  )


def processed(batch_size):
  m = loops.rung(batch_size, M)
  return -(-batch_size // m) * m


def model_of(state):
  (seconds,) = fields.states_of(state, criteria.Seconds)
  return criteria.Seconds(*map(float, seconds))


def run(clock, optimizer, params_or_state=None, *, seconds, **options):
  """The last state and the sizes of a run whose steps take given seconds."""
  if params_or_state is None:
    params_or_state = jnp.zeros(3)
  sizes = []
  for state, metrics in adaopt.fit(  # noqa: B007
    loss_fn,
    optimizer,
    params_or_state,
    X,
    max_micro_batch_size=M,
    check=False,
    **options,
  ):
    sizes.append(int(metrics.batch_size))
    fixed, per_example = seconds
    clock.now += fixed + per_example * processed(int(metrics.next_batch_size))
  return state, sizes


NOISE_SCALE = 400.0


def with_noise_scale(criterion):
  """The criterion, for a gradient whose noise scale is known."""

  def update(statistics, state, **extra_args):
    v = criteria.total_variance(statistics, 'a test')
    # It reads the noise and leaves it out.
    v, mean = NOISE_SCALE + 0 * v, jnp.ones([])
    b = statistics.batch_size
    known = statistics._replace(mean=mean * jnp.sqrt(1 + v / b), variance=v)
    return criterion.update(known, state, **extra_args)

  return criteria.StatefulCriterion(criterion.init, update)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('seconds', 'expected', 'num_examples', 'donate'),
  [
    ((0.25, 2**-20), 4096, 30_000, False),  # √(400 · 2¹⁸) = 10240
    ((0.25, 2**-10), 320, 8000, True),  # √(400 · 256) = 320
    ((2**-10, 2**-6), 4, 800, False),  # √(400 · 2⁻⁴) = 5
  ],
)
def test_fit_measures_and_the_size_settles_where_it_pays_most(
  clock, seconds, expected, num_examples, donate
):
  optimizer = optimizer_of(with_noise_scale(criteria.goodput()))
  before = compilations.count()
  state, sizes = run(
    clock,
    optimizer,
    seconds=seconds,
    num_examples=num_examples,
    donate=donate,
  )
  assert sizes[0] == 4
  assert sizes[-1] == expected
  # It looks no further than one larger size when that does not pay.
  assert max(sizes) == max(expected, 16)
  model = model_of(state)
  np.testing.assert_allclose(model[:2], seconds, rtol=1e-3)
  assert model.micro_batch_size == M
  programs = {loops.rung(size, M) for size in sizes}
  assert len(compilations.names()[before:]) <= len(programs)


def test_a_resumed_run_keeps_its_seconds_until_it_has_measured_two_sizes(
  clock,
):
  optimizer = optimizer_of(criteria.goodput(), adaopt.batch_size.measure)
  state, _ = run(clock, optimizer, seconds=(0.5, 0.0), num_examples=4 * 20)
  assert model_of(state) == (0.5, 0.0, M, 4 * 4)
  opt_state = criteria.with_seconds(state.opt_state, 3.0, 2.0)
  state, _ = run(
    clock,
    optimizer,
    state._replace(opt_state=opt_state),
    seconds=(0.25, 0.0),
    num_examples=4 * 40,
  )
  assert model_of(state)[:2] == (3.0, 2.0)


@pytest.mark.slow
def test_what_is_yielded_holds_the_seconds_that_the_next_step_uses(clock):
  optimizer = optimizer_of(
    with_noise_scale(criteria.goodput()), init_batch_size=M
  )
  sizes, required = [], []
  for state, metrics in adaopt.fit(
    loss_fn, optimizer, jnp.zeros(3), X, num_examples=2000, check=False
  ):
    sizes.append(int(metrics.batch_size))
    required.append(model_of(state).fixed)
    clock.now += 1.0
  # The test of a step reads the seconds of the state before it.
  first = next(i for i, fixed in enumerate(required) if fixed > 0)
  assert sizes[: first + 2] == [M] * (first + 2)
  assert sizes[first + 2] > M


def test_steps_in_which_a_program_is_new_do_not_count(clock):
  optimizer = optimizer_of(criteria.goodput())
  state = adaopt.init_train_state(jnp.zeros(3), optimizer)
  watch = timing.stopwatch(state, M)
  observed = []
  observe = watch.timed(lambda state, metrics: observed.append(metrics))
  sizes = [4] * 10 + [16] * 10 + [60] * 10 + [100] * 10
  metrics = [adaopt.Metrics(*[None] * 3, *[None] * 8) for _ in sizes]
  programs = set()
  for size, one in zip(sizes, metrics, strict=True):
    m = loops.rung(size, M)
    state = watch.before(state, m)
    clock.now += 1.0 + processed(size) + 1e6 * (m not in programs)
    programs.add(m)
    observe(state, one._replace(batch_size=size))
  assert [one.batch_size for one in observed] == sizes
  state = watch.before(state, M)
  # The line is exact only if 60 counts as 64 and 100 as 128.
  np.testing.assert_allclose(model_of(state), (1.0, 1.0, M, 4 * 128), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
  'criterion',
  [adaopt.gradient_noise_scale(), criteria.goodput(seconds=(50.0, 1.0))],
  ids=['another criterion', 'given seconds'],
)
def test_nothing_is_timed_where_no_seconds_are_asked_for(
  monkeypatch, criterion
):
  def no_clock():
    raise AssertionError('the clock was read')

  monkeypatch.setattr(timing, 'clock', no_clock)

  def states():
    return [
      jax.device_get(state)
      for state, _ in adaopt.fit(
        loss_fn, optimizer, jnp.zeros(3), X, num_examples=200, check=False
      )
    ]

  optimizer = optimizer_of(criterion)
  first, second = states(), states()
  assert fields.batch_size_of(first[-1].opt_state) > 4
  jax.tree.map(np.testing.assert_array_equal, first, second)
