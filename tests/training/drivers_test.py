"""The default driver: a convolution inside a loop body on CPU is a trap."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adaopt
from adaopt.experiments import compilations
from adaopt.training import drivers


def convolve(kernel, images):
  return jax.lax.conv(images, kernel, (1, 1), 'SAME')


def in_scan(kernel, images):
  body = lambda carry, _: (convolve(kernel, carry), None)
  return jax.lax.scan(body, images, length=2)[0]


MODELS = {
  'plain': convolve,
  'under jit': jax.jit(convolve),
  'under remat': jax.checkpoint(convolve),
  'in a scan': in_scan,
  'none': lambda kernel, images: jnp.sum(kernel) * images,
}


TRACED = ['jit(step)']
DISPATCHED = ['jit(micro_step)', 'jit(update)']
on_cpu = pytest.mark.skipif(
  jax.default_backend() != 'cpu', reason='the CPU default'
)

SCHEDULE = optax.chain(adaopt.schedule_batch_size(4), optax.sgd(0.1))
# Stays at its largest size, and is tested there.
MEASURED = optax.chain(
  adaopt.adapt_batch_size(
    adaopt.augmented_inner_product_test(0.5, nu=0.5),
    init_batch_size=4,
    max_batch_size=4,
    policy=adaopt.batch_size.measure,
  ),
  optax.sgd(0.1),
)


def setting(name, optimizer, **options):
  """A step of a model, its state and its images."""
  images = jax.random.normal(jax.random.key(0), [8, 1, 6, 6])
  step = adaopt.train_step(
    lambda kernel, images: jnp.mean(MODELS[name](kernel, images) ** 2),
    optimizer,
    micro_batch_size=2,
    **options,
  )
  kernel = jnp.linspace(-1.0, 0.9, 9).reshape(1, 1, 3, 3)
  return step, adaopt.init_train_state(kernel, optimizer), images


def programs_of(step, *args):
  """The step programs that a call compiles."""
  before = compilations.count()
  jax.block_until_ready(step(*args))
  return compilations.names()[before:]


@pytest.mark.slow
@on_cpu
@pytest.mark.parametrize(
  ('optimizer', 'dispatched'),
  # A test along the mean takes a second pass.
  [(SCHEDULE, DISPATCHED), (MEASURED, ['jit(micro_step)', *DISPATCHED])],
  ids=['schedule', 'measured'],
)
@pytest.mark.parametrize('name', MODELS)
def test_convolutions_are_dispatched_on_cpu_and_the_rest_is_traced(
  name, optimizer, dispatched
):
  expected = TRACED if name == 'none' else dispatched
  assert programs_of(*setting(name, optimizer)) == expected


def test_elsewhere_convolutions_are_traced_too(monkeypatch):
  step, *args = setting('plain', SCHEDULE)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert programs_of(step, *args) == TRACED


@pytest.mark.slow
@pytest.mark.parametrize(
  ('driver', 'name', 'expected'),
  [
    (drivers.traced, 'plain', TRACED),
    (drivers.dispatched, 'none', DISPATCHED),
  ],
)
def test_a_driver_that_is_asked_for_is_taken(driver, name, expected):
  assert programs_of(*setting(name, SCHEDULE, driver=driver)) == expected


def by_scan(step):
  def run(state, dataset):
    state, metrics = jax.lax.scan(
      lambda state, _: step(state, dataset), state, length=1
    )
    return state, jax.tree.map(lambda x: x[0], metrics)

  return run


def by_vmap(step):
  def run(state, dataset):
    states = jax.tree.map(lambda x: jnp.stack([x, x]), state)
    found = jax.vmap(step, (0, None))(states, dataset)
    return jax.tree.map(lambda x: x[1], found)

  return run


@pytest.mark.slow
@pytest.mark.parametrize('transform', [jax.jit, by_scan, by_vmap])
def test_within_a_transform_a_step_is_traced(transform):
  """There no host can read a batch size."""
  step, *args = setting('plain', MEASURED)
  found, expected = transform(step)(*args), step(*args)
  chex.assert_trees_all_close(found, expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['plain', 'in a scan', 'none'])
@pytest.mark.parametrize('optimizer', [SCHEDULE, MEASURED])
def test_drivers_agree(name, optimizer):
  """In a loop the gradient of a kernel is contracted from factors."""
  runs = []
  for driver in (drivers.traced, drivers.dispatched, drivers.automatic):
    step, state, images = setting(name, optimizer, driver=driver)
    for _ in range(3):
      state, metrics = step(state, images)
    runs.append((state, metrics))
  assert np.isfinite(runs[0][1].variance) == (optimizer is MEASURED)
  for one in runs[1:]:
    chex.assert_trees_all_close(one, runs[0], rtol=1e-5)


@pytest.mark.slow
def test_the_host_reads_the_number_of_micro_batches_once_a_step():
  """Read again, behind the first pass, it would wait for that."""
  reads = []

  def counted(parts):
    def plan(*args):
      found = parts.plan(*args)

      def num_micro_batches(state):
        reads.append(state)
        return found.num_micro_batches(state)

      return found._replace(num_micro_batches=num_micro_batches)

    return drivers.dispatched(parts._replace(plan=plan))

  optimizer = adaopt.adadagrad(
    0.1, adaopt.inner_product_test(0.5), init_batch_size=4, max_batch_size=8
  )
  step = adaopt.train_step(
    lambda params, batch: jnp.mean((params - batch) ** 2),
    optimizer,
    micro_batch_size=2,
    driver=counted,
  )
  state = adaopt.init_train_state(jnp.zeros([]), optimizer)
  with jax.disable_jit():  # which would call it at its first read alone
    _, metrics = step(state, jnp.arange(8.0))
  assert jnp.isfinite(metrics.variance_along_mean)
  assert len(reads) == 1


def test_a_plan_is_made_once_for_all_states_of_a_structure():
  plans = []

  def kept(parts):
    def plan(*args):
      plans.append(parts.plan(*args))
      return plans[-1]

    return drivers.dispatched(parts._replace(plan=plan))

  step, state, images = setting('none', MEASURED, driver=kept)
  for _ in range(3):
    state, _ = step(state, images)
  assert len(plans) == 3
  assert all(plan is plans[0] for plan in plans)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('criterion', 'passes'),
  [
    (adaopt.norm_test(0.5), [False]),
    (adaopt.inner_product_test(0.5), [True]),
    (adaopt.augmented_inner_product_test(0.5, nu=0.5), [True]),
    (lambda statistics: 2 * statistics.batch_size, None),
  ],
  ids=['norm', 'inner product', 'augmented', 'no noise'],
)
def test_a_plan_has_two_measurements_where_a_test_reads_more(criterion, passes):
  """The second pass over the micro-batches is that of the test alone."""
  plans = []

  def kept(parts):
    def step(state, dataset):
      plans.append(parts.plan(state, dataset))
      return drivers.traced(parts)(state, dataset)

    return step

  optimizer = adaopt.adadagrad(
    0.1, criterion, init_batch_size=4, max_batch_size=8
  )
  step, state, images = setting('none', optimizer, driver=kept)
  step(state, images)
  ((*tested, untested),) = (plan.measurements for plan in plans)
  assert untested.along is None
  if passes is None:
    assert not tested
  else:
    assert [one.along is not None for one in tested] == passes
